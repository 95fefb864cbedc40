"""Targets as JSON, and back. Workers and the project cache receive targets in this form.

A target that is read here follows the rules of models.yaml. Another program may have written the
record, and it must not bring in what the parser would refuse. The rules need no pydantic, which a
process with a cached project does not import.

Records have no positions: only the process that read models.yaml reports them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from aoti_build.common import sizes
from aoti_build.common.digests import digest_bytes
from aoti_build.common.json_object import JsonObject
from aoti_build.host.devices import device_named
from aoti_build.models_file import agreements, rules, target_shape
from aoti_build.models_file.agreements import Complaints
from aoti_build.models_file.project import (
    Baseline,
    ConstantInput,
    CudaOptions,
    Dim,
    Image,
    Inputs,
    Model,
    OutputTolerance,
    Position,
    Source,
    Target,
    TensorInput,
    Tolerance,
    Weights,
)


def target_to_json(target: Target) -> JsonObject:
    """Return the record of `target`, without its positions and its digest."""
    model = asdict(replace(target.model, positions={}))
    del model["positions"]
    model["kwargs"] = dict(target.model.kwargs)
    return {
        "model": model,
        "device": target.device,
        "preset": target.preset,
        "inductor_config": dict(target.inductor_config),
        "architecture": target.architecture,
        "listed": target.listed,
    }


def with_digest(target: Target) -> Target:
    """Return the target with its `digest` set."""
    return replace(target, digest=record_digest(target_to_json(target)))


def record_digest(record: JsonObject) -> str:
    """Return the digest of a record of `target_to_json`.

    The keys are not sorted, because the order of kwargs counts.
    """
    return digest_bytes(json.dumps(record).encode())


def target_from_json(
    record: Mapping[str, Any],
    positions: Mapping[str, Position] | None = None,
    digest: str = "",
) -> Target:
    """Return the target of a record.

    Raises:
        KeyError, TypeError, ValueError: `target_to_json` did not make the record, or it breaks a
            rule of models.yaml.
    """
    target_shape.TARGET(record)
    device_named(record["device"]).require_architecture(record["architecture"])
    return Target(
        model=_model(record["model"], positions or {}),
        device=record["device"],
        preset=record["preset"],
        inductor_config=record["inductor_config"],
        architecture=record["architecture"],
        listed=record["listed"],
        digest=digest,
    )


def _refuse_complaints(complaints: Complaints) -> None:
    """Raise ValueError for the first complaint."""
    for field, message in complaints:
        raise ValueError(f"{field}: {message}")


def _model(record: JsonObject, positions: Mapping[str, Position]) -> Model:
    dims = tuple(_dim(dim) for dim in record["dims"])
    values = {
        **record,
        "source": _source(record["source"]),
        "inputs": _inputs(record["inputs"], dims),
        "files": tuple(record["files"]),
        "imports": tuple(record["imports"]),
        "weights": _weights(record["weights"]),
        "dims": dims,
        "tolerance": _tolerance(record["tolerance"]),
        "cuda": CudaOptions(**record["cuda"]),
        "image": _image(record["image"]),
        "baseline": _baseline(record["baseline"]),
    }
    return Model(**values, positions=positions)


def _dim(record: JsonObject) -> Dim:
    dim = Dim(**record)
    _refuse_complaints(agreements.dim_complaints(dim))
    return dim


def _source(record: JsonObject) -> Source:
    source = Source(**record)
    # The text has only one of module and path, so a source with both does not parse to itself.
    if rules.parse_source(str(source)) != source:
        raise ValueError("a source must have either a module or a path")
    return source


def _inputs(record: Any, dims: tuple[Dim, ...]) -> Inputs | Source:
    if isinstance(record, dict):
        return _source(record)
    inputs = tuple(_input(entry) for entry in record)
    _check_shapes(inputs, {dim.name: dim for dim in dims})
    return inputs


def _check_shapes(inputs: Inputs, dims: Mapping[str, Dim]) -> None:
    """Raise ValueError unless all shapes follow the rules of dims."""
    dynamic_sizes = []
    for tensor in inputs:
        if isinstance(tensor, TensorInput):
            texts = [entry for entry in tensor.shape if isinstance(entry, str)]
            dynamic_sizes += [sizes.parse(text) for text in texts]
    for size in dynamic_sizes:
        for name in size.names:
            if name not in dims:
                raise ValueError(f"the dim {name} is not declared")
        for message in agreements.size_complaints(size, dims):
            raise ValueError(message)
    if agreements.undetermined_dims(dynamic_sizes):
        raise ValueError("the shapes do not determine every dim")


def _input(record: JsonObject) -> TensorInput | ConstantInput:
    if "value" in record:
        return ConstantInput(rules.constant(record["value"]), record["name"])
    shape = tuple(record["shape"])
    tensor = TensorInput(**{**record, "shape": shape})
    _refuse_complaints(agreements.range_complaints(tensor))
    _refuse_complaints(agreements.format_complaints(tensor))
    return tensor


def _tolerance(record: JsonObject) -> Tolerance:
    outputs = {}
    for name, bounds in record["outputs"].items():
        outputs[name] = OutputTolerance(**bounds)
        _refuse_complaints(agreements.output_complaints(outputs[name]))
    return Tolerance(record["atol"], record["rtol"], outputs)


def _weights(record: JsonObject | None) -> Weights | None:
    if record is None:
        return None
    rename = tuple((old, new) for old, new in record["rename"])
    ignore = tuple(record["ignore"])
    weights = Weights(**{**record, "rename": rename, "ignore": ignore})
    _refuse_complaints(agreements.weights_complaints(weights.file, weights.key, rename))
    return weights


def _image(record: JsonObject | None) -> Image | Source | None:
    if record is None:
        return None
    if "attribute" in record:
        return _source(record)
    mean = tuple(record["mean"])
    std = tuple(record["std"])
    image = Image(**{**record, "mean": mean, "std": std})
    _refuse_complaints(agreements.image_complaints(image))
    return image


def _baseline(record: JsonObject | None) -> Baseline | None:
    if record is None:
        return None
    return Baseline(_source(record["source"]), record["kwargs"], record["limit"])
