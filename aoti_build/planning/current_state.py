"""The parts of the source key as they are now, by files, installed tools and models.yaml."""

from __future__ import annotations

import os

from aoti_build.artifact.fingerprint import (
    KEY_VERSION,
    Fingerprint,
    Parts,
    declared_files,
    spec_parts,
    variable_parts,
)
from aoti_build.common.stat_cache import StatCache
from aoti_build.host import distributions, toolchain
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.weights import weights_files


def current_parts(
    project: Project, target: Target, recorded: Parts, digests: StatCache
) -> Fingerprint:
    """The parts of the source key as they are now; `recorded` names the discovered files and
    distributions to look at."""
    names = {**recorded.get("sources", {}), **dict.fromkeys(declared_files(target.model))}
    # Not with Path, which drops the slash that marks a directory.
    sources = {
        name: digests.digest(name if name.startswith("/") else f"{project.root}/{name}")
        for name in names
    }
    return Fingerprint(
        {
            "spec": spec_parts(target),
            "config": dict(target.inductor_config),
            "sources": sources,
            "distributions": {
                name: distributions.identity(name, digests)
                for name in recorded.get("distributions", {})
            },
            "modules": {
                name: distributions.installed_module(name) for name in recorded.get("modules", {})
            },
            "variables": variable_parts(recorded.get("variables", {}), os.environ),
            "weights": weight_parts(project, target, digests),
            **toolchain_parts(target),
        }
    )


def toolchain_parts(target: Target) -> dict[str, dict[str, str]]:
    """The groups `toolchain` and `environment` for a target on this host."""
    facts = toolchain.facts(target.device, target.architecture)
    facts["recipe"] = f"{KEY_VERSION}.{toolchain.FACTS_VERSION}"
    return {"toolchain": facts, "environment": toolchain.environment()}


def weight_parts(project: Project, target: Target, digests: StatCache) -> dict[str, str | None]:
    """The files of a target's weights, as models.yaml names them, with their digests."""
    weights = target.model.weights
    files = {} if weights is None else weights_files(weights, project.root)
    return {name: digests.digest(path) for name, path in files.items()}
