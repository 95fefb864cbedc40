"""A release as an OCI artifact: a manifest of the OCI image specification 1.1 that lists its files.

Each file is a layer of its own, named by the annotation ``org.opencontainers.image.title`` as the
tool oras does. The same release gives the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from aoti_build.artifact.bundle.record import ReleaseRecord
from aoti_build.artifact.signing.files import parents
from aoti_build.artifact.signing.names import name_fault
from aoti_build.common.fields import MAX_INT, loads
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import ArtifactError

ARTIFACT_TYPE = "application/vnd.aoti-build.release.v1"
MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"
FILE_TYPE = "application/octet-stream"
TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
# A manifest must have a configuration. This is the empty one of the specification.
EMPTY = b"{}"
EMPTY_SHA256 = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
# What registries must accept by the distribution specification.
MANIFEST_LIMIT = 4 << 20  # bytes
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class ReleaseLayer:
    """A file of a release: its relative path, the sha256 in hex digits, and its size in bytes."""

    path: str
    sha256: str
    size: int


class _Descriptor(msgspec.Struct, frozen=True):
    """A blob in a manifest. Fields that are not read here may be there."""

    digest: str
    size: int
    annotations: dict[str, str] = {}


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int
    layers: tuple[_Descriptor, ...]
    artifact_type: str = ""


def manifest_bytes(record: ReleaseRecord, layers: Iterable[ReleaseLayer]) -> bytes:
    """The manifest of a release with these files, in the order of their paths."""
    ordered = sorted(layers, key=lambda layer: layer.path)
    document = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {**_descriptor(_EMPTY_TYPE, EMPTY_SHA256, len(EMPTY)), "data": "e30="},
        "layers": [_layer(layer) for layer in ordered],
        "annotations": _annotations(record),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def parse_manifest(content: bytes, where: str) -> tuple[ReleaseLayer, ...]:
    """The files of the release that a manifest lists.

    Raises `ArtifactError` unless it is the manifest of a release, and all names of its files are
    relative, safe and different.
    """
    try:
        document = loads(content)
        manifest = msgspec.convert(document, _Manifest)
    except (ValueError, msgspec.ValidationError) as error:
        raise _unfit(where, f"its manifest cannot be read: {error}") from error
    if manifest.artifact_type != ARTIFACT_TYPE:
        shown = manifest.artifact_type[:100] or "no type"
        raise _unfit(where, f"it has {shown}, and a release has {ARTIFACT_TYPE}")
    layers = tuple(_read_layer(descriptor, where) for descriptor in manifest.layers)
    _require_different(layers, where)
    return layers


def _read_layer(descriptor: _Descriptor, where: str) -> ReleaseLayer:
    path = descriptor.annotations.get(TITLE, "")
    fault = name_fault(path)
    if fault:
        raise _unfit(where, f"the name {path[:200]!a} of a file {fault}")
    match = _DIGEST.fullmatch(descriptor.digest)
    if match is None or not 0 <= descriptor.size <= MAX_INT:
        raise _unfit(where, f"{path} has no sha256 or no size")
    return ReleaseLayer(path, match[1], descriptor.size)


def _require_different(layers: tuple[ReleaseLayer, ...], where: str) -> None:
    """No two files may have one name, and no file that of a directory of another."""
    names: set[str] = set()
    for layer in layers:
        if layer.path in names:
            raise _unfit(where, f"{layer.path} is listed twice")
        names.add(layer.path)
    for layer in layers:
        for directory in parents(layer.path):
            if directory in names:
                raise _unfit(where, f"{directory} is a file, and {layer.path} lies in it")


def _layer(layer: ReleaseLayer) -> JsonObject:
    descriptor = _descriptor(FILE_TYPE, layer.sha256, layer.size)
    return {**descriptor, "annotations": {TITLE: layer.path}}


def _descriptor(media_type: str, sha256: str, size: int) -> JsonObject:
    return {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": size}


def _annotations(record: ReleaseRecord) -> Mapping[str, str]:
    annotations = {
        TITLE: record.name,
        VERSION: record.version,
        "org.opencontainers.image.created": record.created,
    }
    if record.source.commit:
        annotations["org.opencontainers.image.revision"] = record.source.commit
    if record.source.repository:
        annotations["org.opencontainers.image.source"] = record.source.repository
    return annotations


def _unfit(where: str, cause: str) -> ArtifactError:
    return ArtifactError(
        "what the registry has there is no release that can be pulled",
        where=where,
        cause=cause,
        hint="see that the repository and the tag are those of a release",
    )
