"""The bill of materials of a release, in CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/).

Each artifact is a component of the type `machine-learning-model` with a model card. The libraries
that it was made with are components too.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence

from aoti_build import __version__
from aoti_build.artifact.manifest import Manifest, tensor_inputs
from aoti_build.commands.release.licences import EXPRESSION_FIELD, licence_of
from aoti_build.commands.release.statements import libraries, package_url
from aoti_build.commands.release.target import ReleasedArtifact
from aoti_build.common.digests import digest_json
from aoti_build.common.json_object import JsonObject
from aoti_build.figures import CallFigures
from aoti_build.measurement.record import BenchRecord

_SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_RELEASE = "release"
_OWN = "aoti_build"
_DECLARED = "declared"


def sbom(
    artifacts: Sequence[ReleasedArtifact], name: str, version: str, created: str
) -> JsonObject:
    """The bill of materials. `name` is that of the project, and `created` a time in ISO 8601.

    Equal artifacts, names, versions and times give an equal serial number.
    """
    packages = {artifact.name: artifact.package_sha256 for artifact in artifacts}
    identity = digest_json([name, version, created, packages])
    components = [_model(artifact, version) for artifact in artifacts]
    dependencies = [{"ref": _RELEASE, "dependsOn": [_reference(each) for each in artifacts]}]
    urls: dict[str, tuple[str, str]] = {}
    for artifact in artifacts:
        used = {package_url(*item): item for item in _used(artifact)}
        urls.update(used)
        dependencies.append({"ref": _reference(artifact), "dependsOn": sorted(used)})
    for url, (library, library_version) in sorted(urls.items()):
        components.append(_library(url, library, library_version))
        dependencies.append({"ref": url})
    return {
        "$schema": _SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, identity)}",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "lifecycles": [{"phase": "build"}],
            "tools": {
                "components": [{"type": "application", "name": _OWN, "version": __version__}]
            },
            "component": {
                "type": "application",
                "bom-ref": _RELEASE,
                "name": name,
                "version": version,
            },
        },
        "components": components,
        "dependencies": dependencies,
    }


def _used(artifact: ReleasedArtifact) -> list[tuple[str, str]]:
    """The names and versions of the libraries of an artifact, and of this program."""
    return [*libraries(artifact).items(), (_OWN, __version__)]


def _reference(artifact: ReleasedArtifact) -> str:
    return f"model:{artifact.name}"


def _model(artifact: ReleasedArtifact, version: str) -> JsonObject:
    manifest = artifact.manifest
    source = manifest.source["spec"].get("source")
    parameters: JsonObject = {
        "inputs": [{"format": text} for text in _formats(tensor_inputs(manifest.signature))],
        "outputs": [{"format": text} for text in _formats(manifest.signature["outputs"])],
    }
    if isinstance(source, str):
        parameters["modelArchitecture"] = source
    return {
        "type": "machine-learning-model",
        "bom-ref": _reference(artifact),
        "name": artifact.name,
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": artifact.package_sha256}],
        "modelCard": {
            "modelParameters": parameters,
            "quantitativeAnalysis": {
                "performanceMetrics": [
                    *_errors(artifact.verdict.cases),
                    *_latencies(artifact.bench),
                ]
            },
        },
        "properties": _properties(artifact, manifest),
    }


def _properties(artifact: ReleasedArtifact, manifest: Manifest) -> list[JsonObject]:
    values = {
        "path": artifact.package_path,
        "key": manifest.key,
        "graph_key": manifest.graph_key,
        "device": manifest.requires["device"],
        "machine": manifest.requires["machine"],
        "torch": manifest.requires["torch"],
    }
    return [{"name": f"{_OWN}:{name}", "value": value} for name, value in values.items()]


def _formats(leaves: Iterable[Mapping[str, object]]) -> list[str]:
    """Inputs or outputs as text, such as ``input: float32 [batch, 3]``."""
    texts = []
    for leaf in leaves:
        text = f"{leaf.get('name', 'unnamed')}"
        shape = leaf.get("shape")
        if isinstance(shape, list):
            sizes = ", ".join(str(size) for size in shape)
            text += f": {leaf.get('dtype')} [{sizes}]"
        texts.append(text)
    return texts


def _errors(cases: Iterable[CallFigures]) -> list[JsonObject]:
    """The errors of outputs against eager mode, by case."""
    metrics = []
    for case in cases:
        for output in case.outputs:
            where = f"output {output.name}, case {case.name}, seed {case.seed}"
            if case.call is not None:
                where += f", call {case.call}"
            for kind, value in (("rmse", output.rmse), ("max_abs", output.max_abs)):
                if value is not None:
                    metric = {"type": f"{kind} against eager mode", "value": repr(value)}
                    metrics.append({**metric, "slice": where})
    return metrics


def _latencies(bench: BenchRecord | None) -> list[JsonObject]:
    """The median seconds of a call in each measured process."""
    metrics: list[JsonObject] = []
    if bench is None:
        return metrics
    for row in bench.rows:
        for index, sample in enumerate(row.samples):
            for steady in sample.steady:
                words = [str(row.way), f"process {index + 1}"]
                words += [f"{name}={size}" for name, size in steady.sizes.items()]
                metric = {"type": "median seconds of a call", "value": repr(steady.p50)}
                metrics.append({**metric, "slice": ", ".join(words)})
    return metrics


def _library(url: str, name: str, version: str) -> JsonObject:
    component: JsonObject = {
        "type": "library",
        "bom-ref": url,
        "name": name,
        "version": version,
        "purl": url,
    }
    licence = licence_of(name)
    if licence is not None:
        if licence.source.startswith(EXPRESSION_FIELD):
            choice: JsonObject = {"expression": licence.expression, "acknowledgement": _DECLARED}
        else:
            named = {"name": licence.expression, "acknowledgement": _DECLARED}
            choice = {"license": named}
        component["licenses"] = [choice]
    return component
