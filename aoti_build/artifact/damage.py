"""Files of an artifact that are not what its manifest says."""

from __future__ import annotations

from pathlib import Path

from aoti_build.artifact.manifest import Manifest
from aoti_build.artifact.reasons import Reason, ReasonKind
from aoti_build.common.stat_cache import StatCache, file_size


def damage(directory: Path, manifest: Manifest, digests: StatCache) -> list[Reason]:
    """Files of an artifact that are not what its manifest says. One of another size is not read."""
    found = []
    for name, record in manifest.files.items():
        digest = digests.digest(directory / name, record.size)
        if digest != record.sha256:
            size = file_size(directory / name) if digest is None else None
            now = digest if size is None else f"{size} bytes"
            found.append(Reason(ReasonKind.ARTIFACT_DAMAGED, name, record.sha256, now))
    return found
