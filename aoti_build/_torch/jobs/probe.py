"""The `probe` job: call a package with inputs that it must refuse, and with inputs in other memory
layouts, which it must refuse or answer correctly.

The job has a process of its own, because a package that does not refuse may crash. AOTInductor's
input checks (AOTI_RUNTIME_CHECK_INPUTS) are on. Without them a package answers such inputs with
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from aoti_build._torch.checking.reference_data import Case
from aoti_build._torch.checking.reference_reader import load_reference_data
from aoti_build._torch.checking.returned import as_returned
from aoti_build._torch.events import Events
from aoti_build._torch.jobs.check import gist, verdicts
from aoti_build._torch.packages.runner import Package, RunnerCrash, open_package
from aoti_build._torch.program.memory_formats import (
    copied_to_format,
    format_of,
    in_signature_formats,
)
from aoti_build._torch.program.permitted import set_precision
from aoti_build.artifact.manifest import tensor_inputs
from aoti_build.common.sizes import Size, parse
from aoti_build.figures import Refusal
from aoti_build.messages import ProbeJob, ProbeResult, Signature

# Elements of all inputs of a probe together. A larger one is not made: it would take gigabytes.
_MOST_ELEMENTS = 1 << 26
_OTHER_DTYPE = {
    torch.float32: torch.float64,
    torch.float64: torch.float32,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.int64: torch.int32,
    torch.int32: torch.int64,
    torch.bool: torch.uint8,
    torch.complex64: torch.complex128,
}


@dataclass(frozen=True)
class Probe:
    """Inputs that a package may always refuse, and the answer that it may give instead.

    `may_answer` is "" for none, "rightly" for the answer to the example, and "somehow" for any
    answer, where AOTInductor has no check and there is no reference.
    """

    name: str
    inputs: list[Tensor]
    may_answer: Literal["", "rightly", "somehow"] = ""


def probe(job: ProbeJob, events: Events) -> ProbeResult:
    """Make all probes whose numbers are not in the job's `skip`."""
    set_precision(job.target)
    reference_data = load_reference_data(Path(job.reference_data))
    case = reference_data.cases[0]
    if case.inputs is None or case.outputs is None:
        return ProbeResult(probes=())
    results = []
    inputs = in_signature_formats(case.inputs, job.signature)
    for number, attempt in enumerate(probes(inputs, job.signature, case.sizes)):
        if number in job.skip:
            continue
        with events.phase(f"probe {number} {attempt.name}"):
            package = open_package(job, reference_data.state)
            results.append((number, _refusal(package, attempt, case, job)))
    return ProbeResult(probes=tuple(results))


def _refusal(package: Package, attempt: Probe, case: Case, job: ProbeJob) -> Refusal:
    """Call the package, and judge whether it refused or answered as it may."""
    try:
        (result,) = package.calls([attempt.inputs])
    except RuntimeError as error:
        return Refusal(name=attempt.name, ok=True, said=gist(error))
    except RunnerCrash as crash:
        return Refusal(name=attempt.name, ok=False, said=crash.message)
    outputs = as_returned(result, job.signature)
    if attempt.may_answer != "rightly":
        is_allowed = attempt.may_answer == "somehow"
        return Refusal(name=attempt.name, ok=is_allowed, said=_answer_in_words(outputs))
    for figures in verdicts(case, outputs, job.signature, job.tolerance):
        if not figures.ok:
            message = f"{figures.name}: {figures.why}"
            return Refusal(name=attempt.name, ok=False, said=message)
    return Refusal(name=attempt.name, ok=True, said="answered rightly")


def _answer_in_words(outputs: Sequence[Any]) -> str:
    shapes = []
    for value in outputs:
        if isinstance(value, Tensor):
            shapes.append(str(list(value.shape)))
    return f"was answered, with outputs of shape {', '.join(shapes)}"


def probes(inputs: list[Tensor], signature: Signature, sizes: Mapping[str, int]) -> Iterator[Probe]:
    """All probes of a package.

    First come inputs of wrong sizes, dtypes and ranks, then the values of the example in other
    memory layouts. `sizes` are those of the dims in `inputs`.
    """
    entries = tensor_inputs(signature)
    for name, dim in signature["dims"].items():
        yield from _outside(inputs, entries, name, dim, sizes)
    pairs = zip(entries, inputs, strict=True)
    for index, (entry, value) in enumerate(pairs):
        for description, changed, may_answer in _changed(entry, value):
            all_inputs = list(inputs)
            all_inputs[index] = changed
            yield Probe(f"{entry['name']}: {description}", all_inputs, may_answer)


def _changed(
    entry: Mapping[str, Any], value: Tensor
) -> Iterator[tuple[str, Tensor, Literal["", "rightly"]]]:
    """Variants of one input, each with a description and the answer that it may get."""
    axis = _fixed_axis(entry["shape"])
    if axis is not None and value.numel():
        longer = _resized(value, axis, value.shape[axis] + 1)
        yield f"size {longer.shape[axis]} on axis {axis}", longer, ""
    if value.dtype in _OTHER_DTYPE:
        converted = value.to(_OTHER_DTYPE[value.dtype])
        yield str(converted.dtype).removeprefix("torch."), converted, ""
    yield f"rank {value.dim() + 1}", value.unsqueeze(0), ""
    yield "at an offset in its storage", _offset(value), "rightly"
    strided = _strided(value)
    if strided is not None:
        yield "not contiguous", strided, "rightly"
    if entry.get("memory_format") and not value.is_contiguous():
        yield "contiguous", value.contiguous(), "rightly"


def _fixed_axis(shape: Sequence[int | str]) -> int | None:
    """The first axis whose size is fixed and not 0."""
    for axis, size in enumerate(shape):
        if isinstance(size, int) and size > 0:
            return axis
    return None


def _outside(
    inputs: list[Tensor],
    entries: list[Mapping[str, Any]],
    name: str,
    dim: Mapping[str, int],
    sizes: Mapping[str, int],
) -> Iterator[Probe]:
    """Inputs with sizes of the dim `name` beyond its range and between its steps."""
    low, high, step = dim["min"], dim["max"], dim["multiple_of"]
    attempts: list[tuple[int, str, Literal["", "somehow"]]] = []
    attempts.append((high + step, f"above max {high}", ""))
    if low - step >= 0:
        attempts.append((low - step, f"below min {low}", ""))
    if step > 1:
        # Packages check bounds and not steps. If the model itself needs the step, its code
        # asserts it.
        attempts.append((low + 1, f"no multiple of {step}", "somehow"))
    for value, why, may_answer in attempts:
        resized = list(inputs)
        for index, axis, size in _axes_of(entries, name):
            new_size = max(0, size.at({**sizes, name: value}))
            resized[index] = _resized(resized[index], axis, new_size)
        if sum(tensor.numel() for tensor in resized) <= _MOST_ELEMENTS:
            yield Probe(f"{name} {value}: {why}", resized, may_answer)


def _axes_of(entries: list[Mapping[str, Any]], name: str) -> Iterator[tuple[int, int, Size]]:
    """The input, axis and size of each axis that depends on the dim `name`."""
    for index, entry in enumerate(entries):
        for axis, text in enumerate(entry["shape"]):
            if not isinstance(text, str):
                continue
            size = parse(text)
            if name in size.names:
                yield index, axis, size


def _resized(value: Tensor, axis: int, size: int) -> Tensor:
    """The tensor cut, or repeated, along one axis, in the same memory format."""
    index = torch.arange(size) % max(1, value.shape[axis])
    return copied_to_format(value.index_select(axis, index), format_of(value))


def _offset(value: Tensor) -> Tensor:
    """The same values with the same strides, three elements into a larger storage. Their address
    is not aligned as that of an allocation is."""
    storage = torch.empty(value.numel() + 3, dtype=value.dtype)
    return storage.as_strided(value.shape, value.stride(), 3).copy_(value)


def _strided(value: Tensor) -> Tensor | None:
    """The same values with the strides of a transposed tensor; None if those are the same."""
    if value.dim() < 2:
        return None
    transposed = value.transpose(0, -1).contiguous().transpose(0, -1)
    if transposed.is_contiguous() or transposed.stride() == value.stride():
        return None
    return transposed
