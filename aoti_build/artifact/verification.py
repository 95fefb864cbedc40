"""What an artifact must fulfil to be verified, and whether it was."""

from __future__ import annotations

from dataclasses import asdict

from aoti_build.artifact.manifest import Manifest
from aoti_build.common.json_object import JsonObject
from aoti_build.models_file.project import Target


def required_tolerance(target: Target) -> JsonObject:
    """All that an artifact must fulfil: how near to eager it is, and how near to its baseline, if
    that has a limit."""
    baseline = target.model.baseline
    limit = {} if baseline is None or baseline.limit is None else {"baseline": baseline.limit}
    return {**asdict(target.model.tolerance), **limit}


def is_verified(manifest: Manifest, target: Target) -> bool:
    """Whether the artifact was compared with eager, by the tolerance that models.yaml has now."""
    return manifest.unverified is None and manifest.check.get("tolerance") == required_tolerance(
        target
    )
