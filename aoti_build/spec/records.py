"""Targets as JSON and back: how a target travels to a worker. Positions do not travel; places are resolved before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from aoti_build.digests import digest_bytes
from aoti_build.spec.project import (
    CudaOptions,
    Dim,
    Image,
    Model,
    OutputTolerance,
    Position,
    Source,
    Target,
    TensorInput,
    Tolerance,
)


def target_to_json(target: Target) -> dict[str, Any]:
    model = asdict(replace(target.model, positions={}))
    del model["positions"]
    return {
        "model": {**model, "kwargs": dict(target.model.kwargs)},
        "device": target.device,
        "preset": target.preset,
        "inductor_config": dict(target.inductor_config),
        "floor": target.floor,
        "listed": target.listed,
    }


def with_digest(target: Target) -> Target:
    """The target with its `digest` set."""
    # Not the canonical spelling: the order of kwargs counts.
    return replace(target, digest=digest_bytes(json.dumps(target_to_json(target)).encode()))


def target_from_json(
    record: Mapping[str, Any], positions: Mapping[str, Position] | None = None, digest: str = ""
) -> Target:
    """The target that `target_to_json` recorded. Raises KeyError or TypeError for anything else."""
    fields = dict(record["model"])
    inputs: tuple[TensorInput, ...] | Source
    if isinstance(fields["inputs"], Mapping):
        inputs = Source(**fields["inputs"])
    else:
        inputs = tuple(TensorInput(**{**tensor, "shape": tuple(tensor["shape"])}) for tensor in fields["inputs"])
    fields.update(
        source=Source(**fields["source"]),
        inputs=inputs,
        files=tuple(fields["files"]),
        dims=tuple(Dim(**dim) for dim in fields["dims"]),
        tolerance=_tolerance(fields["tolerance"]),
        cuda=CudaOptions(**fields["cuda"]),
        image=_image(fields["image"]),
    )
    model = Model(**fields, positions=positions or {})
    return Target(
        model,
        record["device"],
        record["preset"],
        record["inductor_config"],
        record["floor"],
        record["listed"],
        digest,
    )


def _tolerance(record: Mapping[str, Any]) -> Tolerance:
    outputs = {name: OutputTolerance(**bounds) for name, bounds in record["outputs"].items()}
    return Tolerance(record["atol"], record["rtol"], outputs)


def _image(record: Mapping[str, Any] | None) -> Image | Source | None:
    if record is None:
        return None
    if "attribute" in record:
        return Source(**record)
    return Image(**{**record, "mean": tuple(record["mean"]), "std": tuple(record["std"])})
