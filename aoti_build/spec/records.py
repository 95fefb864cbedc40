"""Targets as JSON and back: how a target travels to a worker. Positions do not travel; places are resolved before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from aoti_build.spec.project import CpuOptions, Dim, Model, Source, Target, TensorInput, Tolerance


def target_to_json(target: Target) -> dict[str, Any]:
    model = asdict(target.model)
    del model["positions"]
    return {
        "model": {**model, "kwargs": dict(target.model.kwargs)},
        "device": target.device,
        "preset": target.preset,
        "inductor_config": dict(target.inductor_config),
    }


def target_from_json(record: Mapping[str, Any]) -> Target:
    fields = dict(record["model"])
    inputs: tuple[TensorInput, ...] | Source
    if isinstance(fields["inputs"], Mapping):
        inputs = Source(**fields["inputs"])
    else:
        inputs = tuple(TensorInput(**{**tensor, "shape": tuple(tensor["shape"])}) for tensor in fields["inputs"])
    fields.update(
        source=Source(**fields["source"]),
        inputs=inputs,
        dims=tuple(Dim(**dim) for dim in fields["dims"]),
        tolerance=Tolerance(**fields["tolerance"]),
        cpu=CpuOptions(**fields["cpu"]),
    )
    return Target(Model(**fields), record["device"], record["preset"], record["inductor_config"])
