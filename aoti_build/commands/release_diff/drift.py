"""How far the outputs of a model moved from one release to the next, on equal inputs.

Without ``--run`` the outputs are those of eager mode when each artifact was built, which lie in its
reference data. Each package was verified against its own. So drift says how the *model* changed:
its weights, its code, or the torch that computed it. With ``--run`` the outputs of the packages are
compared as well, from files of the same form.

The relative error of an output is the root mean square of the difference, divided by that of the
old output (of the new one if the old one is zero everywhere). Elements that are not finite have no
part in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aoti_build.artifact.reference_file import (
    ReferenceFile,
    StoredTensor,
    decoded,
    is_known,
)
from aoti_build.common.json_object import JsonObject


@dataclass(frozen=True)
class OutputDrift:
    """One output of one case.

    Attributes:
        case: the name of the case.
        output: the name of the output.
        relative_rmse: see the module. None if it is not known.
        max_abs: the largest absolute difference of two finite elements. None if it is not known.
        differing: how many elements differ. None if it is not known.
        count: the elements of the output. A complex one counts as two.
        nonfinite: NaN or infinities are at other places.
        estimated: made from summaries of large outputs. `max_abs` is then that of a sample.
        why: why it could not be compared.
    """

    case: str
    output: str
    relative_rmse: float | None = None
    max_abs: float | None = None
    differing: int | None = None
    count: int = 0
    nonfinite: bool = False
    estimated: bool = False
    why: str | None = None

    def as_json(self) -> JsonObject:
        return {
            "case": self.case,
            "output": self.output,
            "relative_rmse": self.relative_rmse,
            "max_abs": self.max_abs,
            "differing": self.differing,
            "count": self.count,
            "nonfinite": self.nonfinite,
            "estimated": self.estimated,
            "why": self.why,
        }


@dataclass(frozen=True)
class Drift:
    """All outputs of one target. `skipped` says what could not be compared, a clause for each."""

    outputs: tuple[OutputDrift, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def compared(self) -> tuple[OutputDrift, ...]:
        return tuple(output for output in self.outputs if output.why is None)

    @property
    def unknown(self) -> tuple[str, ...]:
        """What could not be compared, a clause for each."""
        outputs = []
        for output in self.outputs:
            if output.why is not None:
                outputs.append(f"{output.case}, {output.output}: {output.why}")
        return (*self.skipped, *outputs)

    @property
    def worst(self) -> OutputDrift | None:
        """The output that moved most. None if nothing was compared."""
        return max(self.compared, key=_distance, default=None)

    def as_json(self) -> JsonObject:
        worst = self.worst
        return {
            "worst": worst.relative_rmse if worst is not None else None,
            "outputs": [output.as_json() for output in self.outputs],
            "skipped": list(self.skipped),
        }


def _distance(output: OutputDrift) -> float:
    return math.inf if output.nonfinite else output.relative_rmse or 0.0


@dataclass(frozen=True)
class Reference:
    """The reference data of one side: its file, and the names of what is compared after a call."""

    file: Path
    names: Sequence[str]


def drift_of(old: Reference, new: Reference, missing: Mapping[str, str] | None = None) -> Drift:
    """Compare the outputs of all cases that both files have, with equal inputs.

    `missing` says of cases why a file has no outputs of them. What cannot be compared is listed and
    no error.
    """
    try:
        with ReferenceFile(old.file) as earlier, ReferenceFile(new.file) as later:
            names = old.names, new.names
            return _Comparison(earlier, later, *names, missing or {}).drift()
    except (OSError, ValueError) as error:
        return Drift(skipped=(f"reference data cannot be read: {error}",))


@dataclass(frozen=True)
class _Comparison:
    """Compares two open files."""

    old: ReferenceFile
    new: ReferenceFile
    old_names: Sequence[str]
    new_names: Sequence[str]
    missing: Mapping[str, str]

    def drift(self) -> Drift:
        outputs: list[OutputDrift] = []
        skipped = []
        # A later call of a model with state also depends on the calls before it.
        has_same_calls = True
        for name, entry in self.new.cases.items():
            if entry["call"] == 0:
                has_same_calls = True
            if name in self.missing:
                has_same_calls = False
                continue
            why = self._why_not(name)
            if why is None and not has_same_calls:
                why = "the inputs of an earlier call differ"
            if why is None:
                outputs += self._case(name)
            else:
                has_same_calls = False
                skipped.append(f"{name}: {why}")
        for name in self.old.cases:
            if name not in self.new.cases and name not in self.missing:
                skipped.append(f"{name}: only the old release has this case")
        skipped += [f"{name}: {why}" for name, why in self.missing.items()]
        return Drift(tuple(outputs), tuple(skipped))

    def _why_not(self, case: str) -> str | None:
        """Why a case cannot be compared; None if it can be."""
        if case not in self.old.cases:
            return "only the new release has this case"
        old, new = self.old.cases[case], self.new.cases[case]
        if old["inputs_digest"] != new["inputs_digest"]:
            return "the inputs differ"
        if not old["has_outputs"] or not new["has_outputs"]:
            return "the outputs had no room in the reference data"
        return None

    def _case(self, case: str) -> Iterator[OutputDrift]:
        old_names = _numbered(self.old_names, self.old.cases[case]["outputs"])
        new_names = _numbered(self.new_names, self.new.cases[case]["outputs"])
        for name, index in new_names.items():
            if name in old_names:
                yield self._output(case, name, old_names[name], index)
            else:
                yield OutputDrift(case, name, why="only the new release has this output")
        for name in old_names:
            if name not in new_names:
                yield OutputDrift(case, name, why="only the old release has this output")

    def _output(self, case: str, output: str, old: int, new: int) -> OutputDrift:
        old_name, new_name = f"{case}/output/{old}", f"{case}/output/{new}"
        old_sketch = self.old.sketches.get(old_name)
        new_sketch = self.new.sketches.get(new_name)
        if old_sketch is not None and new_sketch is not None:
            return self._sketches(case, output, old_name, new_name)
        if old_sketch is not None or new_sketch is not None:
            return OutputDrift(case, output, why="one release has only a summary of it")
        old_tensor = self.old.tensors.get(old_name)
        new_tensor = self.new.tensors.get(new_name)
        if old_tensor is not None and new_tensor is not None:
            return self._tensors(case, output, old_tensor, new_tensor)
        if old_tensor is not None or new_tensor is not None:
            return OutputDrift(case, output, why="it is a tensor in one release alone")
        old_text = self.old.cases[case]["plain"].get(str(old))
        new_text = self.new.cases[case]["plain"].get(str(new))
        return _texts(case, output, old_text, new_text)

    def _tensors(self, case: str, output: str, old: StoredTensor, new: StoredTensor) -> OutputDrift:
        if old.shape != new.shape:
            why = f"its shape was {list(old.shape)} and is {list(new.shape)}"
            return OutputDrift(case, output, why=why)
        if self._has_equal_bytes(old, new):
            return OutputDrift(case, output, 0.0, 0.0, 0, new.count)
        if not is_known(old.dtype) or not is_known(new.dtype):
            why = f"values of {old.dtype} and {new.dtype} cannot be read here"
            return OutputDrift(case, output, why=why)
        if old.count != new.count:
            why = f"its dtype was {old.dtype} and is {new.dtype}"
            return OutputDrift(case, output, why=why)
        sums = _Sums()
        for earlier, later in zip(self.old.pieces(old), self.new.pieces(new), strict=True):
            sums.add(decoded(earlier, old.dtype), decoded(later, new.dtype))
        return sums.drift(case, output, new.count)

    def _has_equal_bytes(self, old: StoredTensor, new: StoredTensor) -> bool:
        if old.dtype != new.dtype:
            return False
        pieces = zip(self.old.pieces(old), self.new.pieces(new), strict=True)
        return all(earlier == later for earlier, later in pieces)

    def _sketches(self, case: str, output: str, old_name: str, new_name: str) -> OutputDrift:
        """Compare two summaries of a large output (`_torch/checking/sketch.py`).

        The sum of the squared differences of the buckets estimates that of all values.
        """
        old, new = self.old.sketches[old_name], self.new.sketches[new_name]
        if old["shape"] != new["shape"]:
            why = f"its shape was {old['shape']} and is {new['shape']}"
            return OutputDrift(case, output, why=why)
        count = math.prod(new["shape"]) * (2 if new["dtype"].startswith("complex") else 1)
        if old["digest"] == new["digest"]:
            return OutputDrift(case, output, 0.0, 0.0, 0, count)
        buckets = _Sums()
        buckets.add(self.old.values(f"{old_name}/buckets"), self.new.values(f"{new_name}/buckets"))
        sample = _Sums()
        sample.add(self.old.values(f"{old_name}/sample"), self.new.values(f"{new_name}/sample"))
        rmse = math.sqrt(buckets.squared_error / max(1, count))
        return OutputDrift(
            case,
            output,
            relative_rmse=_relative(rmse, old["rms"], new["rms"]),
            max_abs=sample.max_abs,
            count=count,
            nonfinite=old["nonfinite"] != new["nonfinite"],
            estimated=True,
        )


@dataclass
class _Sums:
    """Sums over pairs of elements. Squares are of elements of which both are finite."""

    squared_error: float = 0.0
    squared_old: float = 0.0
    squared_new: float = 0.0
    max_abs: float = 0.0
    differing: int = 0
    nonfinite: bool = False

    def add(self, old: Sequence[float], new: Sequence[float]) -> None:
        """Add the elements of two pieces. Raises ValueError if their lengths differ."""
        for earlier, later in zip(old, new, strict=True):
            if earlier == later:
                # An infinity is equal to itself, and would make the sums infinite.
                if math.isfinite(earlier):
                    square = float(earlier) * earlier
                    self.squared_old += square
                    self.squared_new += square
                continue
            if not (math.isfinite(earlier) and math.isfinite(later)):
                self._add_nonfinite(earlier, later)
                continue
            # As a float also for integers and booleans, so that no sum grows without a limit.
            error = float(later - earlier)
            self.differing += 1
            self.max_abs = max(self.max_abs, abs(error))
            self.squared_error += error * error
            self.squared_old += float(earlier) * earlier
            self.squared_new += float(later) * later

    def _add_nonfinite(self, old: float, new: float) -> None:
        if not (math.isnan(old) and math.isnan(new)):
            self.differing += 1
            self.nonfinite = True

    def drift(self, case: str, output: str, count: int) -> OutputDrift:
        """What the sums say of an output with `count` elements."""
        squares = (self.squared_error, self.squared_old, self.squared_new, self.max_abs)
        if not all(math.isfinite(square) for square in squares):
            return OutputDrift(case, output, count=count, why="its values are too large to square")
        relative = _relative(
            math.sqrt(self.squared_error), math.sqrt(self.squared_old), math.sqrt(self.squared_new)
        )
        return OutputDrift(
            case,
            output,
            relative_rmse=relative,
            max_abs=self.max_abs,
            differing=self.differing,
            count=count,
            nonfinite=self.nonfinite,
        )


def _relative(error: float, old: float, new: float) -> float:
    """The error relative to the old output, or to the new one if the old one is zero."""
    base = old or new
    return error / base if base else 0.0


def _texts(case: str, output: str, old: str | None, new: str | None) -> OutputDrift:
    """Compare outputs that are no tensors, as Python writes them."""
    if old is None and new is None:
        return OutputDrift(case, output, why="neither release has its value")
    if old == new:
        return OutputDrift(case, output, 0.0, 0.0, 0, 1)
    try:
        values = float(old or ""), float(new or "")
    except ValueError:
        why = f"it was {_shown(old)} and is {_shown(new)}"
        return OutputDrift(case, output, differing=1, count=1, why=why)
    sums = _Sums()
    sums.add(values[:1], values[1:])
    return sums.drift(case, output, 1)


def _shown(text: str | None) -> str:
    return "no value" if text is None else text[:40]


def _numbered(names: Sequence[str], count: int) -> dict[str, int]:
    """The positions of outputs by their names. Without a name of its own an output has its
    position for a name."""
    numbered: dict[str, int] = {}
    for index in range(count):
        name = names[index] if index < len(names) else f"output {index}"
        if name in numbered:
            name = f"output {index}"
        numbered[name] = index
    return numbered
