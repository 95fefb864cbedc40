"""The present parts of the source key, from files, installed tools and models.yaml."""

from __future__ import annotations

import os
from collections.abc import Iterable

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
from aoti_build.host.import_path import ImportPath
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.weights import weights_files

# Options with which inductor computes parts of the code from the values of weights.
_COMPUTING_OPTIONS = (
    "freezing",
    "joint_graph_constant_folding",
    "aot_inductor.package_constants_in_so",
)


def current_parts(
    project: Project,
    target: Target,
    recorded: Parts,
    digests: StatCache,
    path: ImportPath | None = None,
) -> Fingerprint:
    """The present parts of the source key.

    `recorded` are the parts of an artifact. Their names say which files, distributions, modules and
    variables the code of the model uses; only a build finds that out. `path` is the project's
    import path, which is read now if it is not given.
    """
    # As keys of a dict, the names have an order and no name is twice.
    source_names = {
        **dict.fromkeys(recorded.get("sources", {})),
        **dict.fromkeys(declared_files(target.model)),
    }
    path = path or project.import_path()
    return Fingerprint(
        {
            "spec": spec_parts(target),
            "config": dict(target.inductor_config),
            "sources": _source_parts(project, source_names, digests),
            "distributions": {
                name: distributions.identity(name, digests, path.installed)
                for name in recorded.get("distributions", {})
            },
            "modules": path.module_parts(recorded.get("modules", {})),
            "variables": variable_parts(recorded.get("variables", {}), os.environ),
            "weights": weight_parts(project, target, digests),
            **toolchain_parts(target),
        }
    )


def _source_parts(
    project: Project, names: Iterable[str], digests: StatCache
) -> dict[str, str | None]:
    """The digests of source files, which are named by absolute paths or from the project on."""
    parts = {}
    for name in names:
        # A Path would drop the slash at the end, which marks a directory.
        path = name if name.startswith("/") else f"{project.root}/{name}"
        parts[name] = digests.digest(path)
    return parts


def toolchain_parts(target: Target) -> dict[str, dict[str, str]]:
    """The groups `toolchain` and `environment` for a target on this host."""
    facts = toolchain.facts(
        target.device, target.architecture, fixed_threads=has_fixed_threads(target)
    )
    facts["recipe"] = recipe()
    return {"toolchain": facts, "environment": toolchain.environment()}


def recipe() -> str:
    """What tells this release's way of building from others. It is a fact of the toolchain."""
    return f"{KEY_VERSION}.{toolchain.FACTS_VERSION}"


def has_fixed_threads(target: Target) -> bool:
    """Whether the preset says for how many threads loops are compiled.

    The number of processors then changes nothing in the code. It may change the last bits of what
    inductor computes from weights at build time, where the preset asks for that.
    """
    config = target.inductor_config
    threads = config.get("cpp.threads")
    if type(threads) is not int or threads < 1:
        return False
    return not any(config.get(name) for name in _COMPUTING_OPTIONS)


def weight_parts(project: Project, target: Target, digests: StatCache) -> dict[str, str | None]:
    """The digests of the files of a target's weights, by their names in models.yaml."""
    weights = target.model.weights
    if weights is None:
        return {}
    files = weights_files(weights, project.root)
    return {name: digests.digest(path) for name, path in files.items()}
