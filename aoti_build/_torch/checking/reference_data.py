"""reference data: the inputs of each call and what eager left after it, saved at build time, so
that an artifact can be verified on a host that has neither the model's source nor its weights.

What is compared after a call is one list: the model's outputs, then the inputs that it wrote into,
then the buffers that it wrote into (`aoti_build._torch.program.writes.observed_names`). A model
with such buffers has state, and each of its cases is a sequence of calls from the model's first
state.

A safetensors file; tensors are named ``<case>/input/<index>``, ``<case>/output/<index>`` (eager in
the target's dtype, for the list above) and ``<case>/exact/<index>`` (eager in float64), in
flattened order; for the first case also ``other-inputs`` and ``other-weights``, what eager gives
for those: a comparison that cannot tell them apart is none; ``state/<name>`` is what a buffer holds
before the first call. One entry of the header's metadata, a JSON document, holds the cases: with
several entries the library writes them in an order of its own each time, and equal tensors would
make files of different bytes. Outputs that are no tensors (None, numbers) keep their index; the
header has them.

A file has a limit. Of tensors that do not fit a sketch is kept (`sketch.py`), by which they are
compared all the same. Inputs that do not fit can be drawn again from the seed, if models.yaml
describes them; others come before any output.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from aoti_build._torch.checking.sketch import Sketch, sketch_size
from aoti_build._torch.program.graph import tensor_digest
from aoti_build.common.digests import digest_json
from aoti_build.common.reading import require_regular
from aoti_build.errors import ArtifactError

FORMAT = "aoti-build/reference-data"
FORMAT_VERSION = 4
_HEADER = "aoti_build"
_OTHER = "other-"
_SMALLEST_SKETCHED = 65_536  # elements; a smaller tensor takes no more room than its sketch


@dataclass(frozen=True)
class Plain:
    """An output that is no tensor (a number, a text, None), as Python writes it."""

    text: str

    @property
    def value(self) -> Any:
        """The number or text itself. Raises ValueError for anything else."""
        try:
            return ast.literal_eval(self.text)
        except ValueError:
            return float(self.text)  # nan, inf

    def is_near(self, other: Plain) -> bool:
        """Whether two are equal, in type too; floats may differ by roundings."""
        if self.text == other.text:
            return True
        try:
            mine, theirs = self.value, other.value
        except (ValueError, SyntaxError):
            return False
        return (
            isinstance(mine, float)
            and isinstance(theirs, float)
            and math.isclose(mine, theirs, rel_tol=1e-6)
        )


Value: TypeAlias = Tensor | Sketch | Plain | None


@dataclass(frozen=True)
class Case:
    """One call, flattened: the tensors that went in, and what eager left (None where there is
    nothing to compare).

    `outputs` are the model's outputs, then the inputs and the buffers that it wrote into. `inputs`
    or `outputs` are None where the file did not have room for them. `exact` are the float64
    references, None where there is none, and `rounded_rmse` how far each output is from them in
    TF32, where that is allowed. `sizes` are those of the dims; `inputs_digest` is of the inputs
    alone, `digest` of them and eager's outputs. `call` counts the calls since the model's first
    state: cases with a `call` above 0 go on from the case in front of them.
    """

    name: str
    inputs: list[Tensor] | None
    outputs: list[Value] | None
    exact: list[Value] | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    inputs_digest: str = ""
    digest: str = ""
    rounded_rmse: list[float | None] | None = None
    call: int = 0


@dataclass(frozen=True)
class ReferenceData:
    """All cases. `no_exact` says why there is no float64 reference. `others` are outputs of the
    first case's sizes for other "inputs" and with other "weights", None where an output does not
    depend on those. `state` is what the buffers that the model writes into hold before the first
    call. `baseline` says what the model loses against the one that it was made of (`baseline.py`),
    if models.yaml names that."""

    cases: list[Case]
    no_exact: str | None = None
    others: Mapping[str, list[Value]] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    baseline: list[dict[str, Any]] | None = None

    def sequences(self) -> Iterator[list[Case]]:
        """The cases by sequences of calls from the first state: of one case each for a model
        without state."""
        found: list[Case] = []
        for case in self.cases:
            if case.call == 0 and found:
                yield found
                found = []
            found.append(case)
        if found:
            yield found


def with_digests(case: Case) -> Case:
    """The case with digests of the layouts and values of its inputs, and of those and eager's
    outputs."""
    inputs = inputs_digest(case.inputs or [])
    outputs = [value is not None and tensor_digest(value) for value in case.outputs or []]
    return replace(case, inputs_digest=inputs, digest=digest_json([inputs, outputs]))


def inputs_digest(inputs: Sequence[Tensor]) -> str:
    return digest_json([tensor_digest(value) for value in inputs])


def save_reference_data(
    path: Path,
    reference_data: ReferenceData,
    limit: int | None = None,
    *,
    redrawable: bool = False,
    whole: Callable[[int], bool] = lambda index: False,
) -> bool:
    """Write the file; whether every tensor found room within `limit` bytes as it is.

    What decides is kept of as many cases as possible, and then as much of it as it is, case by
    case; inputs last if they are `redrawable` from the seed. Of outputs for which `whole` (of the
    index) holds no sketch is made.
    """
    room = _Room(limit)
    room.keep_state(reference_data.state)
    parts = [
        _Compared(case, reference_data.others if number == 0 else {}, whole)
        for number, case in enumerate(reference_data.cases)
    ]
    least = [part.least + (0 if redrawable else part.inputs_size) for part in parts]
    kept = room.reserve(least)
    for part in parts[:kept]:
        if not redrawable:
            room.put(part.inputs)
        room.keep_compared(part)
    entries = {}
    for number, part in enumerate(parts):
        has_inputs = room.keep_all(part.inputs) if redrawable else number < kept
        entries[part.case.name] = _entry(part.case, has_inputs, number < kept)
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "cases": entries,
        "no_exact": reference_data.no_exact,
        "others": list(reference_data.others),
        "baseline": reference_data.baseline,
        "state": {name: room.fills.get(name) for name in reference_data.state},
        "sketches": room.sketches,
    }
    save_file(room.tensors, path, metadata={_HEADER: json.dumps(header)})
    return not (room.left_out or room.sketches or kept < len(parts))


class _Compared:
    """What a reference file may keep of a case, and the `least` bytes by which its outputs can be
    compared."""

    def __init__(
        self, case: Case, others: Mapping[str, Sequence[Value]], whole: Callable[[int], bool]
    ) -> None:
        self.case = case
        self.inputs = {
            f"{case.name}/input/{index}": value for index, value in enumerate(case.inputs or ())
        }
        self.inputs_size = sum(map(_bytes, self.inputs.values()))
        roles: dict[str, Sequence[Value] | None] = {"output": case.outputs, "exact": case.exact}
        roles |= {f"{_OTHER}{of}": values for of, values in others.items()}
        self.groups: list[dict[str, Tensor]] = []
        self.sketched: list[bool] = []
        for index in range(len(case.outputs or ())):
            named = {
                f"{case.name}/{role}/{index}": values[index]
                for role, values in roles.items()
                if values
            }
            group = {name: value for name, value in named.items() if isinstance(value, Tensor)}
            self.groups.append(group)
            large = any(value.numel() >= _SMALLEST_SKETCHED for value in group.values())
            self.sketched.append(large and not whole(index))

    @property
    def least(self) -> int:
        return sum(
            sum(map(sketch_size if sketched else _bytes, group.values()))
            for group, sketched in zip(self.groups, self.sketched, strict=True)
        )


class _Room:
    """What of the tensors goes into a file of `limit` bytes, and how."""

    def __init__(self, limit: int | None) -> None:
        self.left = limit
        self.tensors: dict[str, Tensor] = {}
        self.sketches: dict[str, dict[str, Any]] = {}
        self.fills: dict[str, dict[str, Any]] = {}
        self.left_out = False

    def keep_state(self, state: Mapping[str, Tensor]) -> None:
        """Tensors as they are, whatever the limit: without the first state no buffer can be
        compared. In a few bytes where all values are equal, as those of a cache are."""
        for name, value in state.items():
            first = value.reshape(-1)[:1]
            if value.numel() > 1 and bool((value == first).all()):
                dtype = str(value.dtype).removeprefix("torch.")
                self.fills[name] = {
                    "dtype": dtype,
                    "shape": list(value.shape),
                    "value": str(first.item()),
                }
            else:
                self.put({f"state/{name}": value})

    def reserve(self, sizes: Sequence[int]) -> int:
        """Take room for the first of `sizes`; for how many there is some."""
        if self.left is None:
            return len(sizes)
        for number, size in enumerate(sizes):
            if size > self.left:
                return number
            self.left -= size
        return len(sizes)

    def put(self, named: Mapping[str, Tensor]) -> None:
        """Tensors as they are, for which there is room."""
        self.tensors |= {name: _own(value) for name, value in named.items()}

    def keep_all(self, named: Mapping[str, Tensor]) -> bool:
        """All of the tensors as they are, or none of them."""
        if not self._take(sum(map(_bytes, named.values()))):
            self.left_out = True
            return False
        self.put(named)
        return True

    def keep_compared(self, part: _Compared) -> None:
        """The outputs of a case, for whose least size there is room: as they are if there is more,
        else sketches."""
        for group, sketched in zip(part.groups, part.sketched, strict=True):
            more = sum(_bytes(value) - sketch_size(value) for value in group.values())
            if not sketched or self._take(more):
                self.put(group)
                continue
            for name, value in group.items():
                sketch = Sketch.of(value)
                self.sketches[name] = sketch.described()
                parts = {
                    "buckets": sketch.buckets,
                    "energy": sketch.energy,
                    "sample": sketch.sample,
                }
                self.tensors |= {f"{name}/{part}": value for part, value in parts.items()}

    def _take(self, size: int) -> bool:
        if self.left is None:
            return True
        if size > self.left:
            return False
        self.left -= size
        return True


def _own(value: Tensor) -> Tensor:
    """A copy that shares no memory with another, as the file's library wants it."""
    return value.detach().cpu().contiguous().clone()


def _plain_outputs(case: Case) -> Iterator[tuple[int, Plain]]:
    for index, value in enumerate(case.outputs or ()):
        if isinstance(value, Plain):
            yield index, value


def _entry(case: Case, has_inputs: bool, has_outputs: bool) -> dict[str, Any]:
    return {
        "sizes": dict(case.sizes),
        "seed": case.seed,
        "call": case.call,
        "inputs": len(case.inputs or ()),
        "outputs": len(case.outputs or ()),
        "has_inputs": has_inputs,
        "has_outputs": has_outputs,
        "plain": {str(index): value.text for index, value in _plain_outputs(case)},
        "inputs_digest": case.inputs_digest,
        "digest": case.digest,
        **({} if case.rounded_rmse is None else {"rounded_rmse": case.rounded_rmse}),
    }


def load_reference_data(path: Path) -> ReferenceData:
    """What the file holds. Raises `ArtifactError` if it is not a reference file of this version."""
    try:
        require_regular(path)
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
            if header.get("format") != FORMAT or header.get("format_version") != FORMAT_VERSION:
                raise ArtifactError(
                    f"{path.name} is not a reference file of version {FORMAT_VERSION}"
                )
            reader = _Reader(file, set(file.keys()), header)
            cases = [reader.case(name) for name in header["cases"]]
            if not cases:
                raise ValueError("it holds no case")
            others = {of: reader.values(cases[0].name, f"{_OTHER}{of}") for of in header["others"]}
            return ReferenceData(
                cases, header["no_exact"], others, reader.state(), header["baseline"]
            )
    except _UNLOADABLE as error:
        raise ArtifactError(
            f"{path.name} cannot be read", cause=str(error), hint="build the target again"
        ) from error


@dataclass(frozen=True)
class _Reader:
    """Reads the tensors of an open reference data as its header names them."""

    file: Any
    names: set[str]
    header: Mapping[str, Any]

    def case(self, name: str) -> Case:
        entry = self.header["cases"][name]
        inputs = [value for value in self.values(name, "input") if isinstance(value, Tensor)]
        if entry["has_inputs"] and len(inputs) != entry["inputs"]:
            raise ValueError(f"inputs of {name} are missing")
        return Case(
            name,
            inputs if entry["has_inputs"] else None,
            self.outputs(name) if entry["has_outputs"] else None,
            self.values(name, "exact") if entry["has_outputs"] else None,
            dict(entry["sizes"]),
            int(entry["seed"]),
            str(entry["inputs_digest"]),
            str(entry["digest"]),
            entry.get("rounded_rmse"),
            int(entry["call"]),
        )

    def values(self, case: str, role: str) -> list[Value]:
        """The tensors of one role, or their sketches; None for those that are not there."""
        count = self.header["cases"][case]["inputs" if role == "input" else "outputs"]
        return [self._value(f"{case}/{role}/{index}") for index in range(count)]

    def outputs(self, case: str) -> list[Value]:
        found = self.values(case, "output")
        for index, text in self.header["cases"][case]["plain"].items():
            found[int(index)] = Plain(str(text))
        return found

    def state(self) -> dict[str, Tensor]:
        found = {}
        for name, fill in self.header["state"].items():
            if fill is not None:
                dtype = getattr(torch, fill["dtype"])
                found[name] = torch.full(fill["shape"], _number(fill["value"]), dtype=dtype)
            else:
                found[name] = self.file.get_tensor(f"state/{name}")
        return found

    def _value(self, name: str) -> Value:
        if (described := self.header["sketches"].get(name)) is not None:
            parts = (
                self.file.get_tensor(f"{name}/{part}") for part in ("buckets", "energy", "sample")
            )
            return Sketch.parse(described, *parts)
        return self.file.get_tensor(name) if name in self.names else None


def _number(text: str) -> Any:
    """A fill value: ``True``, ``0``, ``-inf``, ``(1+2j)``."""
    if text in ("True", "False"):
        return text == "True"
    try:
        return int(text)
    except ValueError:
        return complex(text) if "j" in text else float(text)


def digests_of_cases(path: Path) -> dict[str, Any]:
    """The `digest` of each case by its name, without reading any tensor; empty if it is no
    reference data file of this version."""
    try:
        return {name: entry["digest"] for name, entry in _header(path)["cases"].items()}
    except _UNREADABLE:
        return {}


def baseline_of(path: Path) -> Any:
    """What the file says of the `baseline`, without reading any tensor; None also if it is no
    reference data of this version."""
    try:
        return _header(path)["baseline"]
    except _UNREADABLE:
        return None


_UNREADABLE: tuple[type[Exception], ...] = (
    SafetensorError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
)
# A load makes tensors as well, and torch may raise RuntimeError for those.
_UNLOADABLE: tuple[type[Exception], ...] = (*_UNREADABLE, RuntimeError)


def _header(path: Path) -> Any:
    """Raises one of `_UNREADABLE` for what is no reference data of this version."""
    require_regular(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
    if header["format_version"] != FORMAT_VERSION:
        raise ValueError("another version")
    return header


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def as_float64(value: Tensor) -> Tensor:
    """Floating point and complex values widened; others as they are."""
    if value.is_complex():
        return value.to(torch.complex128)
    return value.to(torch.float64) if value.is_floating_point() else value
