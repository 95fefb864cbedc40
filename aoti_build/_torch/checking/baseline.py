"""What a quantised, or narrower, model loses against the one that it was made of.

Both run in eager mode on the inputs that an artifact is verified by, so what is found is the
model's own loss: that of the artifact beside its model is compared apart. Over all calls and values
of an output: the root mean square of the difference, relative to that of the baseline's output, and
the same as signal to quantisation noise ratio (SQNR) in dB. A value that is NaN or infinite where
the baseline's is finite counts as 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aoti_build._torch.checking.eager import Subject, references
from aoti_build._torch.checking.reference import case_sequences
from aoti_build._torch.checking.reference_data import as_float64
from aoti_build._torch.program.inputs import Call, pytree_map
from aoti_build._torch.program.model import assemble
from aoti_build._torch.program.writes import Writes
from aoti_build.errors import BuildError, UsageError
from aoti_build.models_file.project import Model

Losses = list[dict[str, Any]]


def losses(
    subject: Subject,
    model: Model,
    signature: Mapping[str, Any],
    root: Path,
    where: Mapping[str, str],
    seeds: int = 1,
) -> Losses | None:
    """For each floating point output its `relative_rmse` and `sqnr_db`, None where there is no
    signal or no noise; None if models.yaml names no baseline. Raises `UsageError` for one that
    takes or gives something else."""
    if model.baseline is None:
        return None
    names = [output["name"] for output in signature["outputs"]]
    base = Subject(_made(model, subject.device, root, where), subject.make, subject.device)
    sums = [_Sums() for _ in names]
    for calls in case_sequences(subject, model.dims, seeds):
        mine = references(subject, calls)
        theirs = _references(base, calls, where["baseline"])
        for one, other in zip(mine, theirs, strict=True):
            got, wanted = (one.outputs or [])[: len(names)], other.outputs or []
            if [_shape(value) for value in got] != [_shape(value) for value in wanted]:
                shapes = [[_shape(value) for value in values] for values in (got, wanted)]
                raise UsageError(
                    "the baseline does not return what the model returns",
                    where=where["baseline"],
                    cause=(
                        f"the model's outputs have the shapes {shapes[0]}, the baseline's"
                        f" {shapes[1]}"
                    ),
                    hint="name the model that this one was made of, or remove `baseline`",
                )
            for total, value, reference in zip(sums, got, wanted, strict=True):
                total.add(value, reference)
    return [
        {"name": name, **total.figures()}
        for name, total in zip(names, sums, strict=True)
        if total.count
    ]


def judged(found: Losses | None, limit: float | None) -> Losses | None:
    """The losses, each with whether it is `ok` by the limit of its relative RMSE."""
    if found is None:
        return None
    return [
        {**loss, "ok": limit is None or (loss["relative_rmse"] or 0.0) <= limit} for loss in found
    ]


def _made(model: Model, device: str, root: Path, where: Mapping[str, str]) -> nn.Module:
    assert model.baseline is not None
    here = dict.fromkeys(("source", "kwargs", "weights", "dtype", "method"), where["baseline"])
    return assemble(model, model.baseline.source, model.baseline.kwargs, None, root, here).to(
        device
    )


def _references(base: Subject, calls: list[Any], where: str) -> list[Any]:
    dtype = next(
        (value.dtype for value in base.module.parameters() if value.is_floating_point()),
        torch.float32,
    )
    try:
        return references(
            replace(base, writes=Writes()), [(case, _in_dtype(call, dtype)) for case, call in calls]
        )
    except BuildError as error:
        raise UsageError(
            f"the baseline: {error.message}", where=where, cause=error.cause, hint=error.hint
        ) from error


def _in_dtype(call: Call, dtype: torch.dtype) -> Call:
    """The call with its floating point inputs in the baseline's type."""

    def converted(leaf: Any) -> Any:
        return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return pytree_map(converted, call)


def _shape(value: Any) -> list[int] | None:
    return list(value.shape) if isinstance(value, Tensor) else None


class _Sums:
    """Sums of squares of an output of the baseline, and of its difference to the model's."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0
        self.count = 0

    def add(self, value: Any, reference: Any) -> None:
        if (
            not isinstance(value, Tensor)
            or not isinstance(reference, Tensor)
            or not reference.is_floating_point()
        ):
            return
        finite = torch.isfinite(as_float64(reference))
        wanted, got = as_float64(reference)[finite], as_float64(value)[finite]
        # What overflows is lost, as much as a value can be.
        got = torch.where(torch.isfinite(got), got, 0.0)
        self.signal += float(wanted.square().sum())
        self.noise += float((got - wanted).square().sum())
        self.count += wanted.numel()

    def figures(self) -> dict[str, float | None]:
        if not self.signal:
            return {"relative_rmse": None, "sqnr_db": None}
        ratio = self.noise / self.signal
        return {
            "relative_rmse": math.sqrt(ratio),
            "sqnr_db": round(-10 * math.log10(ratio), 2) if ratio else None,
        }
