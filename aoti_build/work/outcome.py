"""The outcome of a build for one target, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from aoti_build.artifact.manifest import MODEL, Manifest
from aoti_build.artifact.reasons import Reason
from aoti_build.errors import AotiBuildError
from aoti_build.models_file.project import Target
from aoti_build.planning.actions import Done
from aoti_build.planning.index import Published


@dataclass(frozen=True)
class Outcome:
    """What a build did with one target, and what is published now.

    `action` is a word of docs/reference/formats.md. `seconds` are wall times by phase. `unverified`
    is the reason why the published artifact was never compared with eager mode; None if it was.
    `baseline` has the loss of each output against the model's baseline, from the artifact's check.
    `latency` has indicative seconds of a call, as the manifest's `check.latency`.
    """

    target: Target
    action: Done
    reasons: tuple[Reason, ...] = ()
    published: Published | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    error: AotiBuildError | None = None
    unverified: str | None = None
    baseline: tuple[Mapping[str, Any], ...] = ()
    latency: Mapping[str, float | None] | None = None


def outcome_of(
    target: Target,
    action: Done,
    reasons: tuple[Reason, ...],
    manifest: Manifest | None,
    *,
    seconds: Mapping[str, float] | None = None,
    error: AotiBuildError | None = None,
) -> Outcome:
    """The outcome if the published artifact has this `manifest`; None if there is no artifact."""
    unverified = None
    baseline: tuple[Mapping[str, Any], ...] = ()
    latency = None
    if manifest is not None:
        unverified = manifest.unverified
        baseline = tuple(manifest.check.get("baseline", ()))
        latency = cast("Mapping[str, float | None] | None", manifest.check.get("latency"))
    return Outcome(
        target=target,
        action=action,
        reasons=reasons,
        published=published_of(manifest),
        seconds=seconds or {},
        error=error,
        unverified=unverified,
        baseline=baseline,
        latency=latency,
    )


def published_of(manifest: Manifest | None) -> Published | None:
    """The facts about a published artifact that reports show."""
    if manifest is None:
        return None
    package = manifest.files[MODEL]
    return Published(manifest.key, package.sha256, package.size)
