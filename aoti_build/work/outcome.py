"""What became of one target in a build, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aoti_build.artifact.manifest import MODEL, Manifest
from aoti_build.artifact.reasons import Reason
from aoti_build.errors import AotiBuildError
from aoti_build.models_file.project import Target
from aoti_build.planning.actions import Done
from aoti_build.planning.index import Published


@dataclass(frozen=True)
class Outcome:
    """What became of one target. `action` is of docs/reference/formats.md; `seconds` are wall times
    by phase; `unverified` says why the published artifact was never compared with eager, if it was
    not; `baseline` what the model loses against that, if it was made or checked now."""

    target: Target
    action: Done
    reasons: tuple[Reason, ...] = ()
    published: Published | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    error: AotiBuildError | None = None
    unverified: str | None = None
    baseline: tuple[Mapping[str, Any], ...] = ()


def outcome_of(
    target: Target,
    action: Done,
    reasons: tuple[Reason, ...],
    manifest: Manifest | None,
    *,
    seconds: Mapping[str, float] | None = None,
    error: AotiBuildError | None = None,
) -> Outcome:
    """The outcome where an artifact with this `manifest` is published now; None if there is
    none."""
    unverified = manifest.unverified if manifest else None
    lost = tuple(manifest.check.get("baseline", ())) if manifest else ()
    return Outcome(
        target, action, reasons, published_of(manifest), seconds or {}, error, unverified, lost
    )


def published_of(manifest: Manifest | None) -> Published | None:
    """What reports say of an artifact with this manifest."""
    return Published(manifest.key, manifest.files[MODEL].size) if manifest else None
