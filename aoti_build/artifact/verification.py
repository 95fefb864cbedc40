"""The tolerance that an artifact must be within, and whether it was compared with it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from aoti_build.artifact.manifest import Manifest
from aoti_build.models_file.project import Target

if TYPE_CHECKING:
    from aoti_build.artifact.manifest_types import ToleranceRecord


def required_tolerance(target: Target) -> ToleranceRecord:
    """The tolerance of models.yaml for eager mode, and for the baseline if that has a limit."""
    tolerance = cast("ToleranceRecord", asdict(target.model.tolerance))
    baseline = target.model.baseline
    if baseline is not None and baseline.limit is not None:
        tolerance["baseline"] = baseline.limit
    return tolerance


def is_verified(manifest: Manifest, target: Target) -> bool:
    """Whether the artifact was compared with eager mode, by the present tolerance."""
    if manifest.unverified is not None:
        return False
    return manifest.check.get("tolerance") == required_tolerance(target)
