"""`release-push`: uploads a release to a registry. Its directory stays the canonical form.

Files that the registry has already are not uploaded again. The manifest is the last upload, so the
tag names a whole release or none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from aoti_build.artifact.signing.files import contents_of, digests_of
from aoti_build.artifact.signing.refusals import some
from aoti_build.commands.conclusion import head
from aoti_build.commands.release.files import read_record, require_recorded
from aoti_build.commands.release.stored import StoredRelease
from aoti_build.common.digests import digest_bytes
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import ArtifactError, UsageError
from aoti_build.registry.client import PUSH, Registry
from aoti_build.registry.oci_manifest import EMPTY, EMPTY_SHA256, ReleaseLayer, manifest_bytes
from aoti_build.registry.reference import Reference, parse_reference

# Receives a line for each file.
OnLine = Callable[[str], None]


@dataclass(frozen=True)
class PushReport(StoredRelease):
    """A release that was pushed.

    Attributes:
        uploaded: how many different files the registry did not have before.
        uploaded_size: the bytes of these.
    """

    uploaded: int
    uploaded_size: int

    def as_json(self) -> JsonObject:
        return {**head("aoti-build/release-push", 1), **self.facts()}

    def facts(self) -> JsonObject:
        """The part of the JSON that the report of `release` has too."""
        uploaded = {"uploaded": self.uploaded, "uploaded_size": self.uploaded_size}
        return {**super().facts(), **uploaded}


def push_target(text: str) -> Reference:
    """The address to push to. Raises `UsageError` unless it has a tag and no digest."""
    reference = parse_reference(text)
    if reference.tag is None or reference.digest is not None:
        raise UsageError(
            f"{text[:300]} names a digest, and a release gets its digest by the push",
            hint="name a tag, as in oci://registry.example.org/team/models:1.4.0",
        )
    return reference


def require_access(reference: Reference, *, insecure: bool = False) -> None:
    """Log in to a registry before anything is built for it. Raises as `Registry`."""
    assert reference.tag is not None  # `push_target` refuses an address without one
    Registry(reference, PUSH, insecure=insecure).manifest(reference.tag)


def push(
    directory: str,
    address: str,
    *,
    insecure: bool = False,
    replace: bool = False,
    on_line: OnLine = lambda line: None,
) -> PushReport:
    """Upload the release in `directory`, and let the tag in `address` name it.

    With `insecure` the registry is asked over http. With `replace` the tag may name something else
    now.

    Raises:
        UsageError: there is no such directory, the address is wrong, the tag names something else,
            or the registry refuses access.
        ArtifactError: the files are not those of `release.json`. Nothing was uploaded.
        NetworkError: the registry cannot be reached, or fails. The tag is as it was.
    """
    reference = push_target(address)
    path = Path(directory)
    if not path.is_dir():
        raise UsageError(
            f"{directory} is no directory",
            hint="name the directory of a release: `invoke release-push DIR ADDRESS`",
        )
    record = read_record(path, directory)
    layers = _layers_of(path)
    require_recorded(record, layers, directory)
    content = manifest_bytes(record, layers)
    registry = Registry(reference, PUSH, insecure=insecure)
    if not replace:
        _require_free(registry, reference, content)
    missing = _missing(registry, layers)
    for layer in missing:
        on_line(f"upload {layer.path}")
        registry.upload_blob(layer.sha256, path / layer.path)
    if not registry.has_blob(EMPTY_SHA256):
        registry.upload_blob(EMPTY_SHA256, EMPTY)
    assert reference.tag is not None  # `push_target` refuses an address without one
    digest = registry.upload_manifest(content, reference.tag)
    return PushReport(
        reference=reference,
        digest=digest,
        record=record,
        files=len(layers),
        size=_size(layers),
        uploaded=len(missing),
        uploaded_size=_size(missing),
    )


def _layers_of(directory: Path) -> list[ReleaseLayer]:
    """All files of a release. Raises `ArtifactError` for links, empty directories and the like."""
    contents = contents_of(directory, leave_out="")
    empty = contents.empty_directories()
    if empty:
        raise ArtifactError(
            f"the release has directories without files: {some(empty)}",
            where=str(directory),
            cause="a registry has files alone",
            hint="remove them",
        )
    layers = []
    for path, digest in digests_of(directory, contents.files).items():
        layers.append(ReleaseLayer(path, digest, (directory / path).stat().st_size))
    return layers


def _require_free(registry: Registry, reference: Reference, content: bytes) -> None:
    """Raise `UsageError` if the tag names something else than this manifest."""
    assert reference.tag is not None  # `push_target` refuses an address without one
    present = registry.manifest(reference.tag)
    if present is not None and present != content:
        raise UsageError(
            f"the tag {reference.tag} names something else already",
            where=str(reference),
            cause=f"it names sha256:{digest_bytes(present)}",
            hint="push with another tag, or let --replace move this one",
        )


def _missing(registry: Registry, layers: Iterable[ReleaseLayer]) -> list[ReleaseLayer]:
    """One file of each content that the registry does not have, the smallest first."""
    different = {layer.sha256: layer for layer in layers}
    ordered = sorted(different.values(), key=lambda layer: (layer.size, layer.path))
    return [layer for layer in ordered if not registry.has_blob(layer.sha256)]


def _size(layers: Iterable[ReleaseLayer]) -> int:
    return sum(layer.size for layer in layers)
