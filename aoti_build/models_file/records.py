"""Targets as JSON and back: how a target travels to a worker, and how one is kept. Positions do not
travel; places are resolved before.

A target that is read here fulfils the rules of models.yaml: a record decides nothing that they
would refuse, whoever wrote it. They are asked without pydantic, which a process that finds a known
project does not import.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from aoti_build.common import fields, sizes
from aoti_build.common.digests import digest_bytes
from aoti_build.common.fields import flag, integer, number, one_of, or_none, table, table_of
from aoti_build.common.json_object import JsonObject
from aoti_build.host.devices import device_named, device_names
from aoti_build.models_file import agreements, rules
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
    model = asdict(replace(target.model, positions={}))
    del model["positions"]
    return {
        "model": {**model, "kwargs": dict(target.model.kwargs)},
        "device": target.device,
        "preset": target.preset,
        "inductor_config": dict(target.inductor_config),
        "architecture": target.architecture,
        "listed": target.listed,
    }


def with_digest(target: Target) -> Target:
    """The target with its `digest` set."""
    return replace(target, digest=record_digest(target_to_json(target)))


def record_digest(record: Mapping[str, Any]) -> str:
    """The digest of what `target_to_json` made. Not of the canonical spelling: the order of kwargs
    counts."""
    return digest_bytes(json.dumps(record).encode())


def target_from_json(
    record: Mapping[str, Any], positions: Mapping[str, Position] | None = None, digest: str = ""
) -> Target:
    """The target that `target_to_json` recorded. Raises KeyError, TypeError or ValueError for
    anything else, and for what models.yaml may not say."""
    _TARGET(record)
    device_named(record["device"]).require_architecture(record["architecture"])
    parts = dict(record["model"])
    dims = tuple(_ruled(Dim(**dim), agreements.dim_complaints) for dim in parts["dims"])
    parts.update(
        source=_source(parts["source"]),
        inputs=_inputs(parts["inputs"], {dim.name: dim for dim in dims}),
        files=tuple(parts["files"]),
        imports=tuple(parts["imports"]),
        weights=_weights(parts["weights"]),
        dims=dims,
        tolerance=_tolerance(parts["tolerance"]),
        cuda=CudaOptions(**parts["cuda"]),
        image=_image(parts["image"]),
        baseline=_baseline(parts["baseline"]),
    )
    model = Model(**parts, positions=positions or {})
    return Target(
        model,
        record["device"],
        record["preset"],
        record["inductor_config"],
        record["architecture"],
        record["listed"],
        digest,
    )


def _by(rule: Callable[[str], Any]) -> fields.Reader:
    """A text as `rule` of models.yaml leaves it."""

    def read(value: Any) -> None:
        fields.text(value)
        if rule(value) != value:
            raise ValueError("is not in its plainest form")

    return read


_POSITIVE, _BOUND = or_none(integer(1)), or_none(number)


def _device(value: Any) -> None:
    one_of(*device_names())(value)


_PATH = _by(rules.project_path)
_SOURCE = table(
    {"attribute": fields.text, "module": or_none(fields.text), "path": or_none(fields.text)}
)
_SHAPE = fields.list_of(fields.either(integer(), _by(rules.shape_size)))
_TENSOR = table(
    {
        "shape": _SHAPE,
        "dtype": one_of(*rules.DTYPES),
        "name": or_none(_by(rules.identifier)),
        "low": _BOUND,
        "high": _BOUND,
        "probability": _BOUND,
    }
)
_CONSTANT = table({"value": fields.anything, "name": or_none(_by(rules.identifier))})


def _input(value: Any) -> None:
    (_CONSTANT if type(value) is dict and "value" in value else _TENSOR)(value)


_DIM = table(
    {
        "name": _by(rules.identifier),
        **dict.fromkeys(("min", "max", "example", "multiple_of"), integer(1)),
    }
)
_BOUNDS = table(dict.fromkeys(("atol", "rtol", "agreement", "iou"), _BOUND))
_IMAGE = table(
    {
        "resize": _POSITIVE,
        "crop": _POSITIVE,
        "mean": fields.list_of(number),
        "std": fields.list_of(number),
        "classes": or_none(_PATH),
    }
)
_BASELINE = table(
    {"source": _SOURCE, "kwargs": table_of(fields.anything, fields.anything), "limit": _BOUND}
)
_WEIGHTS = table(
    {
        "file": _by(rules.weights_path),
        "key": or_none(fields.text),
        "prefix": or_none(fields.text),
        "rename": fields.list_of(fields.list_of(fields.text)),
        "ignore": fields.list_of(fields.text),
    }
)
_TARGET = table(
    {
        "model": table(
            {
                "name": _by(rules.directory_name),
                "source": _SOURCE,
                "inputs": fields.either(fields.list_of(_input), _SOURCE),
                "kwargs": table_of(fields.anything, fields.anything),
                "seed": integer(),
                "method": or_none(_by(rules.identifier)),
                "strict": flag,
                "weights": or_none(_WEIGHTS),
                "files": fields.list_of(_PATH),
                "imports": fields.list_of(fields.module_name),
                "outputs": one_of(None, "dict"),
                "dims": fields.list_of(_DIM),
                "dtype": or_none(one_of(*rules.FLOATS)),
                "baseline": or_none(_BASELINE),
                "tolerance": table(
                    {"atol": _BOUND, "rtol": _BOUND, "outputs": table_of(fields.anything, _BOUNDS)},
                ),
                "cuda": table(dict.fromkeys(("tf32", "reduced_precision"), or_none(flag))),
                "reference_data_limit": integer(),
                "image": or_none(fields.either(_IMAGE, _SOURCE)),
            }
        ),
        "device": _device,
        "preset": _by(rules.directory_name),
        "inductor_config": table_of(_by(rules.option), fields.anything),
        "listed": flag,
    }
)


def _ruled(value: Any, rule: Callable[[Any], Iterable[tuple[str, str]]]) -> Any:
    """The value if `rule` has no complaint of it. Raises ValueError."""
    for _, complaint in rule(value):
        raise ValueError(complaint)
    return value


def _source(record: Mapping[str, Any]) -> Source:
    source = Source(**record)
    if rules.parse_source(str(source)) != source:
        raise ValueError("source")  # it names a module and a file, or none
    return source


def _inputs(record: Any, dims: Mapping[str, Dim]) -> Inputs | Source:
    if isinstance(record, Mapping):
        return _source(record)
    inputs = tuple(map(_tensor_or_constant, record))
    shapes = [tensor.shape for tensor in inputs if isinstance(tensor, TensorInput)]
    texts = [size for shape in shapes for size in shape if isinstance(size, str)]
    varying = [sizes.parse(text) for text in texts]
    if not all(name in dims for size in varying for name in size.names) or agreements.untold(
        varying
    ):
        raise ValueError("shape")
    for size in varying:
        for complaint in agreements.size_complaints(size, dims):
            raise ValueError(complaint)
    return inputs


def _tensor_or_constant(record: Mapping[str, Any]) -> TensorInput | ConstantInput:
    if "value" in record:
        return ConstantInput(rules.constant(record["value"]), record["name"])
    tensor = TensorInput(**{**record, "shape": tuple(record["shape"])})
    return _ruled(tensor, agreements.range_complaints)  # type: ignore[no-any-return]


def _tolerance(record: Mapping[str, Any]) -> Tolerance:
    outputs = {
        name: _ruled(OutputTolerance(**bounds), agreements.bound_complaints)
        for name, bounds in record["outputs"].items()
    }
    return Tolerance(record["atol"], record["rtol"], outputs)


def _weights(record: Mapping[str, Any] | None) -> Weights | None:
    if record is None:
        return None
    rename = tuple((old, new) for old, new in record["rename"])
    return Weights(**{**record, "rename": rename, "ignore": tuple(record["ignore"])})


def _image(record: Mapping[str, Any] | None) -> Image | Source | None:
    if record is None:
        return None
    if "attribute" in record:
        return _source(record)
    image = Image(**{**record, "mean": tuple(record["mean"]), "std": tuple(record["std"])})
    return _ruled(image, agreements.image_complaints)  # type: ignore[no-any-return]


def _baseline(record: Mapping[str, Any] | None) -> Baseline | None:
    if record is None:
        return None
    if record["limit"] is not None and record["limit"] < 0:
        raise ValueError("limit")
    return Baseline(_source(record["source"]), record["kwargs"], record["limit"])
