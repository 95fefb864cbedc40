"""The target that a manifest is about, for a host that has no models.yaml.

Only what a comparison with eager mode needs is restored: the name, the device with its options, the
inputs with their dims, and the tolerance. The record goes through the same checks as one of
models.yaml (`models_file.records`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aoti_build.artifact.manifest import Manifest
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import ArtifactError
from aoti_build.host.devices import device_named
from aoti_build.models_file.project import (
    DEFAULT_PRESET,
    Baseline,
    CudaOptions,
    Model,
    Source,
    Target,
    Tolerance,
)
from aoti_build.models_file.records import target_from_json, target_to_json
from aoti_build.models_file.rules import RefusedError, parse_source

# Fields of an input that the source key leaves out if they are not set.
_OPTIONAL_FIELDS = ("probability", "memory_format")


def target_of(manifest: Manifest) -> Target:
    """The target that the manifest describes.

    Raises `ArtifactError` if its parts of models.yaml are not those of such a target.
    """
    try:
        target = target_from_json(_record(manifest))
    except (KeyError, TypeError, ValueError, AttributeError, RefusedError) as error:
        raise _undescribed(manifest, str(error)) from error
    if target.name != manifest.target:
        raise _undescribed(manifest, f"its parts are those of {target.name}")
    return target


def _record(manifest: Manifest) -> JsonObject:
    """The record of the target, as `target_to_json` writes it."""
    spec = manifest.source["spec"]
    device = manifest.requires["device"]
    architecture = spec[f"{device}.{device_named(device).architecture_key}"]
    listed, preset = _named_by(manifest.target, device, architecture)
    model = Model(
        name=manifest.target.partition("/")[0],
        source=parse_source(spec["source"]),
        inputs=(),
        baseline=_baseline(manifest),
        cuda=CudaOptions(spec.get("cuda.tf32"), spec.get("cuda.reduced_precision")),
        tolerance=_tolerance(manifest),
    )
    target = Target(
        model,
        device,
        preset=preset,
        inductor_config=manifest.source["config"],
        architecture=architecture,
        listed=listed,
    )
    # As workers read it: with lists in place of tuples.
    record: JsonObject = json.loads(json.dumps(target_to_json(target)))
    record["model"]["inputs"] = _inputs(spec)
    record["model"]["dims"] = _dims(spec)
    record["model"]["tolerance"] = _tolerance_record(manifest)
    return record


def _named_by(name: str, device: str, architecture: str) -> tuple[bool, str]:
    """Whether the name of a target has its architecture, and the preset in it."""
    rest = name.partition("/")[2].removeprefix(device).removeprefix("-")
    listed = rest == architecture or rest.startswith(f"{architecture}-")
    if listed:
        rest = rest.removeprefix(architecture).removeprefix("-")
    return listed, rest or DEFAULT_PRESET


def _inputs(spec: Mapping[str, Any]) -> Any:
    """The inputs in the order of their positions, or the callable that makes them."""
    if "inputs" in spec:
        source = parse_source(spec["inputs"])
        return {
            "attribute": source.attribute,
            "module": source.module,
            "path": source.path,
        }
    inputs = sorted(_fields_by_name(spec, "inputs").values(), key=lambda entry: entry["position"])
    for entry in inputs:
        del entry["position"]
        if "value" in entry:
            continue
        for field in _OPTIONAL_FIELDS:
            entry.setdefault(field, None)
    return inputs


def _dims(spec: Mapping[str, Any]) -> list[JsonObject]:
    dims = []
    for name, fields in _fields_by_name(spec, "dims").items():
        dims.append({"name": name, **fields})
    return dims


def _fields_by_name(spec: Mapping[str, Any], group: str) -> dict[str, JsonObject]:
    """The parts ``GROUP.NAME.FIELD`` of a source key, by name."""
    tables: dict[str, JsonObject] = {}
    for part, value in spec.items():
        words = part.split(".")
        if len(words) == 3 and words[0] == group:
            tables.setdefault(words[1], {})[words[2]] = value
    return tables


def _tolerance(manifest: Manifest) -> Tolerance:
    record = _tolerance_record(manifest)
    return Tolerance(record["atol"], record["rtol"])


def _tolerance_record(manifest: Manifest) -> JsonObject:
    tolerance = manifest.check.get("tolerance")
    if tolerance is None:
        return {"atol": None, "rtol": None, "outputs": {}}
    return {name: tolerance[name] for name in ("atol", "rtol", "outputs")}


def _baseline(manifest: Manifest) -> Baseline | None:
    """What the model was compared with besides eager mode, if that had a limit."""
    limit = manifest.check.get("tolerance", {}).get("baseline")
    if limit is None:
        return None
    source: Source = parse_source(manifest.source["spec"]["baseline"])
    return Baseline(source, limit=limit)


def _undescribed(manifest: Manifest, cause: str) -> ArtifactError:
    return ArtifactError(
        "the manifest does not say how to compare the artifact",
        target=manifest.target,
        cause=cause,
        hint="release the model again with this version of aoti_build",
    )
