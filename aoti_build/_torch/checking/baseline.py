"""What a quantised or narrower model loses against the model that it was made of.

Both run in eager mode, on the inputs by which an artifact is verified. The result is therefore the
loss of the model itself. The artifact is compared with its model separately.

The loss covers all calls and all values of an output. It is the root mean square of the difference,
relative to that of the baseline's output, and the same as signal to quantisation noise ratio (SQNR)
in dB. A value that is NaN or infinite where the baseline's is finite counts as 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from aoti_build._torch.checking.eager import CaseCalls, Subject, references
from aoti_build._torch.checking.reference import case_sequences
from aoti_build._torch.checking.reference_data import Case
from aoti_build._torch.checking.widened import as_float64
from aoti_build._torch.program.inputs import Call, pytree_map
from aoti_build._torch.program.model import assemble
from aoti_build._torch.program.writes import Writes
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import BuildError, UsageError
from aoti_build.models_file.project import Model

Losses: TypeAlias = list[JsonObject]


def losses(
    subject: Subject,
    model: Model,
    signature: Mapping[str, Any],
    root: Path,
    where: Mapping[str, str],
    seeds: int = 1,
) -> Losses | None:
    """`relative_rmse` and `sqnr_db` of each floating point output. Either is None where there is no
    signal or no noise. The result is None if models.yaml names no baseline.

    Raises: UsageError: the baseline takes or returns something else than the model.
    """
    if model.baseline is None:
        return None
    names = [output["name"] for output in signature["outputs"]]
    module = _baseline_module(model, root, where)
    baseline = Subject(
        module=module.to(subject.device),
        make=subject.make,
        device=subject.device,
    )
    totals = [_Sums() for _ in names]
    for calls in case_sequences(subject, model.dims, seeds):
        cases = references(subject, calls)
        baseline_cases = _baseline_references(baseline, calls, where["baseline"])
        for case, baseline_case in zip(cases, baseline_cases, strict=True):
            observed = case.outputs or []
            # Without the inputs and buffers that the model writes into.
            values = observed[: len(names)]
            expected = baseline_case.outputs or []
            _check_shapes(values, expected, where["baseline"])
            for total, value, reference in zip(totals, values, expected, strict=True):
                total.add(value, reference)
    figures: Losses = []
    for name, total in zip(names, totals, strict=True):
        if total.count:
            figures.append({"name": name, **total.figures()})
    return figures


def with_verdicts(measured: Losses | None, limit: float | None) -> Losses | None:
    """The losses with `ok`: whether the relative RMSE is at most `limit`. All are if there is no
    limit."""
    if measured is None:
        return None
    judged = []
    for loss in measured:
        relative_rmse = loss["relative_rmse"] or 0.0
        is_within = limit is None or relative_rmse <= limit
        judged.append({**loss, "ok": is_within})
    return judged


def _baseline_module(
    model: Model,
    root: Path,
    where: Mapping[str, str],
) -> nn.Module:
    assert model.baseline is not None
    keys = ("source", "kwargs", "weights", "dtype", "method")
    return assemble(
        model,
        model.baseline.source,
        model.baseline.kwargs,
        dtype=None,
        root=root,
        # Every error in making it belongs to the key `baseline`.
        where=dict.fromkeys(keys, where["baseline"]),
    )


def _baseline_references(
    baseline: Subject,
    calls: CaseCalls,
    where: str,
) -> list[Case]:
    """What the baseline returns for the calls, with floating point inputs in its own type."""
    dtype = torch.float32
    for parameter in baseline.module.parameters():
        if parameter.is_floating_point():
            dtype = parameter.dtype
            break
    converted = []
    for case, call in calls:
        converted.append((case, _in_dtype(call, dtype)))
    try:
        return references(replace(baseline, writes=Writes()), converted)
    except BuildError as error:
        raise UsageError(
            f"the baseline: {error.message}",
            where=where,
            cause=error.cause,
            hint=error.hint,
        ) from error


def _in_dtype(call: Call, dtype: torch.dtype) -> Call:
    """The call with its floating point inputs in `dtype`."""

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf.to(dtype)
        return leaf

    return pytree_map(convert, call)


def _check_shapes(
    values: Sequence[Any],
    expected: Sequence[Any],
    where: str,
) -> None:
    """Raise `UsageError` unless the model's outputs have the shapes of the baseline's."""
    shapes = [_shape(value) for value in values]
    expected_shapes = [_shape(value) for value in expected]
    if shapes == expected_shapes:
        return
    raise UsageError(
        "the baseline does not return what the model returns",
        where=where,
        cause=f"the model's outputs have the shapes {shapes}, the baseline's {expected_shapes}",
        hint="name the model that this one was made of, or remove `baseline`",
    )


def _shape(value: Any) -> list[int] | None:
    if not isinstance(value, Tensor):
        return None
    return list(value.shape)


@dataclass
class _Sums:
    """Sums over all calls of an output: of the squares of the baseline's values (`signal`), and of
    the squared differences to them (`noise`). `count` is the number of values."""

    signal: float = 0.0
    noise: float = 0.0
    count: int = 0

    def add(self, value: Any, reference: Any) -> None:
        """Add the output of one call. Nothing is added unless both are tensors and the baseline's
        is a floating point one."""
        if not isinstance(value, Tensor) or not isinstance(reference, Tensor):
            return
        if not reference.is_floating_point():
            return
        expected = as_float64(reference)
        actual = as_float64(value)
        finite = torch.isfinite(expected)
        expected = expected[finite]
        actual = actual[finite]
        # An overflow loses the value completely.
        actual = torch.where(torch.isfinite(actual), actual, 0.0)
        error = actual - expected
        self.signal += float(expected.square().sum())
        self.noise += float(error.square().sum())
        self.count += expected.numel()

    def figures(self) -> dict[str, float | None]:
        if not self.signal:
            return {"relative_rmse": None, "sqnr_db": None}
        ratio = self.noise / self.signal
        decibels = None
        if ratio:
            decibels = round(-10 * math.log10(ratio), 2)
        return {
            "relative_rmse": math.sqrt(ratio),
            "sqnr_db": decibels,
        }
