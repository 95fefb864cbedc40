"""The `probe` job: give a package inputs that it must refuse, and inputs in other memory layouts,
which it must refuse or answer rightly. In a process of its own, since a package that does not
refuse may crash.

AOTInductor's input checks (AOTI_RUNTIME_CHECK_INPUTS) are on; without them a package answers such
inputs with numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aoti_build._torch.checking.reference_data import Case
from aoti_build._torch.checking.reference_reader import load_reference_data
from aoti_build._torch.checking.returned import as_returned
from aoti_build._torch.compiling.settings import set_precision
from aoti_build._torch.events import Events
from aoti_build._torch.jobs.check import gist, verdicts
from aoti_build._torch.packages.runner import Package, RunnerCrash, open_package
from aoti_build.artifact.manifest import tensor_inputs
from aoti_build.common.sizes import Size, parse
from aoti_build.figures import Refusal
from aoti_build.messages import ProbeJob, ProbeResult, Signature

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
    """Inputs, and what a package may do with them beside refusing: nothing; answer "rightly", as it
    answers the example; or answer "somehow", where AOTInductor has no check and there is no
    reference.
    """

    name: str
    inputs: list[Tensor]
    may_answer: str = ""


def probe(job: ProbeJob, events: Events) -> ProbeResult:
    set_precision(job.target)
    reference_data = load_reference_data(Path(job.reference_data))
    case = reference_data.cases[0]
    if case.inputs is None or case.outputs is None:
        return ProbeResult(probes=())
    tried = []
    for number, one in enumerate(probes(case.inputs, job.signature, case.sizes)):
        if number not in job.skip:
            with events.phase(f"probe {number} {one.name}"):
                tried.append(
                    (number, _tried(open_package(job, reference_data.state), one, case, job))
                )
    return ProbeResult(probes=tuple(tried))


def _tried(package: Package, tried: Probe, case: Case, job: ProbeJob) -> Refusal:
    try:
        (left,) = package.calls([tried.inputs])
    except RuntimeError as error:
        return Refusal(name=tried.name, ok=True, said=gist(error))
    except RunnerCrash as crash:
        return Refusal(name=tried.name, ok=False, said=crash.message)
    got = as_returned(left, job.signature)
    if tried.may_answer != "rightly":
        shapes = ", ".join(str(list(value.shape)) for value in got if isinstance(value, Tensor))
        said = f"was answered, with outputs of shape {shapes}"
        return Refusal(name=tried.name, ok=tried.may_answer == "somehow", said=said)
    wrong = [one for one in verdicts(case, got, job.signature, job.tolerance) if not one.ok]
    said = f"{wrong[0].name}: {wrong[0].why}" if wrong else "answered rightly"
    return Refusal(name=tried.name, ok=not wrong, said=said)


def probes(inputs: list[Tensor], signature: Signature, sizes: Mapping[str, int]) -> Iterator[Probe]:
    """Sizes outside each dim's range and between its steps, another size of a fixed axis, another
    dtype, another rank; then the example's values in other layouts. `sizes` are the dims' in
    `inputs`."""
    entries = tensor_inputs(signature)
    for name, dim in signature["dims"].items():
        yield from _outside(inputs, entries, name, dim, sizes)
    for index, (entry, value) in enumerate(zip(entries, inputs, strict=True)):
        label = entry["name"]
        axis = next(
            (
                axis
                for axis, size in enumerate(entry["shape"])
                if isinstance(size, int) and size > 0
            ),
            None,
        )
        if axis is not None and value.numel():
            longer = _resized(value, axis, value.shape[axis] + 1)
            yield Probe(
                f"{label}: size {longer.shape[axis]} on axis {axis}", _with(inputs, index, longer)
            )
        if value.dtype in _OTHER_DTYPE:
            other = value.to(_OTHER_DTYPE[value.dtype])
            yield Probe(
                f"{label}: {str(other.dtype).removeprefix('torch.')}", _with(inputs, index, other)
            )
        yield Probe(f"{label}: rank {value.dim() + 1}", _with(inputs, index, value.unsqueeze(0)))
        yield Probe(
            f"{label}: at an offset in its storage", _with(inputs, index, _offset(value)), "rightly"
        )
        strided = _strided(value)
        if strided is not None:
            yield Probe(f"{label}: not contiguous", _with(inputs, index, strided), "rightly")


def _outside(
    inputs: list[Tensor],
    entries: list[Mapping[str, Any]],
    name: str,
    dim: Mapping[str, int],
    sizes: Mapping[str, int],
) -> Iterator[Probe]:
    low, high, step = dim["min"], dim["max"], dim["multiple_of"]
    values = [(high + step, f"above max {high}", "")]
    values += [(low - step, f"below min {low}", "")] if low - step >= 0 else []
    # Packages check bounds, not steps; where the model itself needs the step, the code asserts it.
    values += [(low + 1, f"no multiple of {step}", "somehow")] if step > 1 else []
    for value, why, may_answer in values:
        sized = list(inputs)
        for index, axis, size in _following(entries, name):
            sized[index] = _resized(sized[index], axis, max(0, size.at({**sizes, name: value})))
        if sum(value.numel() for value in sized) <= _MOST_ELEMENTS:
            yield Probe(f"{name} {value}: {why}", sized, may_answer)


def _following(entries: list[Mapping[str, Any]], name: str) -> Iterator[tuple[int, int, Size]]:
    """The input, axis and size of each axis that follows the dim `name`."""
    for index, entry in enumerate(entries):
        for axis, text in enumerate(entry["shape"]):
            size = parse(text) if isinstance(text, str) else None
            if size is not None and name in size.names:
                yield index, axis, size


def _resized(value: Tensor, axis: int, size: int) -> Tensor:
    """Its beginning, or its values again and again, along one axis."""
    index = torch.arange(size) % max(1, value.shape[axis])
    return value.index_select(axis, index).contiguous()


def _with(inputs: list[Tensor], index: int, value: Tensor) -> list[Tensor]:
    return [*inputs[:index], value, *inputs[index + 1 :]]


def _offset(value: Tensor) -> Tensor:
    """The same values, contiguous, three elements into a larger storage: not aligned as allocations
    are."""
    storage = torch.empty(value.numel() + 3, dtype=value.dtype)
    return storage[3:].view(value.shape).copy_(value)


def _strided(value: Tensor) -> Tensor | None:
    """The same values with the strides of a transposed tensor; None where that makes no
    difference."""
    if value.dim() < 2:
        return None
    turned = value.transpose(0, -1).contiguous().transpose(0, -1)
    return None if turned.is_contiguous() else turned
