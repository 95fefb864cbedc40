"""Writes reference data into a file of limited size. `reference_data.py` describes the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from aoti_build._torch.checking.reference_data import (
    OTHER,
    Case,
    Plain,
    ReferenceData,
    Value,
)
from aoti_build._torch.checking.sketch import Sketch, sketch_size
from aoti_build.artifact.reference_file import FORMAT, FORMAT_VERSION, HEADER
from aoti_build.common.json_object import JsonObject

# Elements. A smaller tensor takes about as much room as its sketch.
_SMALLEST_SKETCHED = 65_536


def save_reference_data(
    path: Path,
    reference_data: ReferenceData,
    limit: int | None = None,
    *,
    redrawable: bool = False,
    needs_every_value: Callable[[int], bool] = lambda index: False,
) -> bool:
    """Write the file. Returns whether it holds every tensor as it is.

    Within `limit` bytes, the file first gets what a comparison needs, of as many cases as possible.
    The remaining room goes to outputs in place of their sketches, case by case. Inputs come last if
    they are `redrawable` from the seed. Of an output for whose index `needs_every_value` holds, no
    sketch is made.
    """
    contents = _Contents(limit)
    contents.add_state(reference_data.state)
    cases = _case_tensors(reference_data, needs_every_value)
    least_sizes = []
    for case in cases:
        size = case.least_size
        if not redrawable:
            size += case.inputs_size
        least_sizes.append(size)
    saved_count = contents.reserve(least_sizes)
    for case in cases[:saved_count]:
        if not redrawable:
            contents.add(case.inputs)
        contents.add_outputs(case)
    entries = {}
    for number, case in enumerate(cases):
        has_outputs = number < saved_count
        has_inputs = has_outputs
        if redrawable:
            has_inputs = contents.add_all_or_none(case.inputs)
        entries[case.source.name] = _entry(
            case.source,
            has_inputs=has_inputs,
            has_outputs=has_outputs,
        )
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "cases": entries,
        "no_exact": reference_data.no_exact,
        "others": list(reference_data.others),
        "baseline": reference_data.baseline,
        "state": {name: contents.fills.get(name) for name in reference_data.state},
        "sketches": contents.sketches,
    }
    save_file(contents.tensors, path, metadata={HEADER: json.dumps(header)})
    is_reduced = contents.left_out or contents.sketches or saved_count < len(cases)
    return not is_reduced


@dataclass(frozen=True)
class _Output:
    """The tensors that belong to one output of a case, by their names in the file: eager's output,
    the float64 reference and the outputs for other inputs and weights. All of them become sketches,
    or none."""

    tensors: dict[str, Tensor]
    can_be_sketched: bool

    @property
    def size(self) -> int:
        return sum(value.nbytes for value in self.tensors.values())

    @property
    def sketched_size(self) -> int:
        return sum(sketch_size(value) for value in self.tensors.values())

    @property
    def least_size(self) -> int:
        return self.sketched_size if self.can_be_sketched else self.size


class _CaseTensors:
    """The tensors of the case `source`. Its outputs can be compared if the file has room for
    `least_size` bytes."""

    def __init__(
        self,
        case: Case,
        others: Mapping[str, Sequence[Value]],
        needs_every_value: Callable[[int], bool],
    ) -> None:
        self.source = case
        self.inputs: dict[str, Tensor] = {}
        for index, value in enumerate(case.inputs or ()):
            self.inputs[f"{case.name}/input/{index}"] = value
        self.inputs_size = _size_of(self.inputs)
        by_role: dict[str, Sequence[Value] | None] = {
            "output": case.outputs,
            "exact": case.exact,
        }
        for of, values in others.items():
            by_role[f"{OTHER}{of}"] = values
        self.outputs: list[_Output] = []
        for index in range(len(case.outputs or ())):
            tensors = _tensors_at(index, case.name, by_role)
            is_large = any(value.numel() >= _SMALLEST_SKETCHED for value in tensors.values())
            can_be_sketched = is_large and not needs_every_value(index)
            self.outputs.append(_Output(tensors, can_be_sketched))

    @property
    def least_size(self) -> int:
        return sum(output.least_size for output in self.outputs)


def _case_tensors(
    reference_data: ReferenceData,
    needs_every_value: Callable[[int], bool],
) -> list[_CaseTensors]:
    cases = []
    others = reference_data.others
    for case in reference_data.cases:
        cases.append(_CaseTensors(case, others, needs_every_value))
        others = {}  # they belong to the first case
    return cases


def _tensors_at(
    index: int,
    case: str,
    by_role: Mapping[str, Sequence[Value] | None],
) -> dict[str, Tensor]:
    """The tensors of an output by their names in the file, whatever roles it has."""
    tensors = {}
    for role, values in by_role.items():
        if not values:
            continue
        value = values[index]
        if isinstance(value, Tensor):
            tensors[f"{case}/{role}/{index}"] = value
    return tensors


@dataclass
class _Contents:
    """What goes into the file: `tensors` by name, the descriptions of `sketches`, and `fills` for
    buffers whose values are all equal. `room` is the number of bytes that remain, None if there is
    no limit. `left_out` is set if some inputs had no room."""

    room: int | None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    sketches: dict[str, JsonObject] = field(default_factory=dict)
    fills: dict[str, JsonObject] = field(default_factory=dict)
    left_out: bool = False

    def add_state(self, state: Mapping[str, Tensor]) -> None:
        """Add the first state whatever the limit is, because no buffer can be compared without it.
        Buffers whose values are all equal, such as caches, take a few bytes."""
        for name, value in state.items():
            first = value.reshape(-1)[:1]
            if value.numel() > 1 and bool((value == first).all()):
                self.fills[name] = {
                    "dtype": str(value.dtype).removeprefix("torch."),
                    "shape": list(value.shape),
                    "value": str(first.item()),
                }
            else:
                self.add({f"state/{name}": value})

    def reserve(self, sizes: Sequence[int]) -> int:
        """Take room for the first of `sizes`. Returns for how many there was room."""
        for number, size in enumerate(sizes):
            if not self._take(size):
                return number
        return len(sizes)

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Add tensors for which there is room, as they are."""
        for name, value in tensors.items():
            plain = value.detach().cpu().contiguous()
            # A copy, because the safetensors library refuses tensors that share memory.
            self.tensors[name] = plain.clone()

    def add_all_or_none(self, tensors: Mapping[str, Tensor]) -> bool:
        """Add the tensors if there is room for all of them. Returns whether there was."""
        if not self._take(_size_of(tensors)):
            self.left_out = True
            return False
        self.add(tensors)
        return True

    def add_outputs(self, case: _CaseTensors) -> None:
        """Add the outputs of a case whose least size is reserved: as they are if there is more
        room, else as sketches."""
        for output in case.outputs:
            # Room for the least size is taken already.
            if self._take(output.size - output.least_size):
                self.add(output.tensors)
            else:
                self._add_sketches(output.tensors)

    def _add_sketches(self, tensors: Mapping[str, Tensor]) -> None:
        for name, value in tensors.items():
            sketch = Sketch.of(value)
            self.sketches[name] = sketch.described()
            for part, tensor in sketch.tensors().items():
                self.tensors[f"{name}/{part}"] = tensor

    def _take(self, size: int) -> bool:
        if self.room is None:
            return True
        if size > self.room:
            return False
        self.room -= size
        return True


def _size_of(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.nbytes for value in tensors.values())


def _entry(
    case: Case,
    *,
    has_inputs: bool,
    has_outputs: bool,
) -> JsonObject:
    plain = {}
    for index, value in enumerate(case.outputs or ()):
        if isinstance(value, Plain):
            plain[str(index)] = value.text
    entry: JsonObject = {
        "sizes": dict(case.sizes),
        "seed": case.seed,
        "call": case.call,
        "inputs": len(case.inputs or ()),
        "outputs": len(case.outputs or ()),
        "has_inputs": has_inputs,
        "has_outputs": has_outputs,
        "plain": plain,
        "inputs_digest": case.inputs_digest,
        "digest": case.digest,
    }
    if case.rounded_rmse is not None:
        entry["rounded_rmse"] = case.rounded_rmse
    return entry
