"""`ci-cache`: by what a CI system should key its cache of the store, and which directory to keep.

The key has three parts. What every stored object depends on comes first: release, toolchain,
environment. The facts of the host on which only some targets depend come second, such as processor
features and the number of processors. The last part changes whenever a build may have something new
to store. A CI system that finds no cache under the whole key takes the newest one under a shorter
one. A wrong cache costs time and never changes a result, because the store is addressed by content.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from aoti_build.artifact.fingerprint import declared_files
from aoti_build.artifact.manifest import FORMAT_VERSION
from aoti_build.artifact.paths import stat_cache_path
from aoti_build.commands.conclusion import head
from aoti_build.common.digests import digest_json
from aoti_build.common.json_object import JsonObject
from aoti_build.common.python_files import python_files
from aoti_build.common.stat_cache import StatCache
from aoti_build.host import distributions, toolchain
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.tuned import TUNED_FILE
from aoti_build.planning.current_state import recipe, toolchain_parts, weight_parts
from aoti_build.store.local import STORE_VERSION
from aoti_build.store.selection import open_store

_DIGITS = 16
# Where GitHub's runners look for relative paths of a cache.
_WORKSPACE = "GITHUB_WORKSPACE"
_DELIMITER = "END_OF_KEYS"


@dataclass(frozen=True)
class CacheReport:
    """The key, the shorter keys to fall back to, and the directory to keep.

    `facts` are those of the host that only some targets depend on, by the name of a target.
    """

    key: str
    restore_keys: tuple[str, ...]
    path: str
    facts: dict[str, dict[str, str]]

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/ci-cache", 1),
            "key": self.key,
            "restore_keys": list(self.restore_keys),
            "path": self.path,
            "facts": self.facts,
        }

    def lines(self) -> list[str]:
        """The report as GitHub reads the outputs of a step. A value of several lines has a
        delimiter."""
        return [
            f"key={self.key}",
            f"restore-keys<<{_DELIMITER}",
            *self.restore_keys,
            _DELIMITER,
            f"path={self.path}",
        ]


def ci_cache(project: Project, targets: tuple[Target, ...]) -> CacheReport:
    """The key and the path of a cache for builds of `targets` on this host.

    Raises:
        ToolchainError: torch is not installed.
    """
    digests = StatCache(stat_cache_path(project))
    common = toolchain.common_facts()
    environment = toolchain.environment()
    versions = [STORE_VERSION, FORMAT_VERSION, recipe()]
    base = f"aoti-build-{_short([versions, common, environment])}-"
    facts = {}
    for target in targets:
        # What this host cannot build is not in its cache.
        if target.hardware.cannot_build(target.architecture) is None:
            parts = toolchain_parts(target)["toolchain"]
            names = parts.keys() - common.keys() - {"recipe"}
            facts[target.name] = {name: parts[name] for name in sorted(names)}
    kinds = sorted({digest_json(part) for part in facts.values()})
    host = f"{base}{_short(kinds)}-"
    sources = [_file_parts(project, targets, digests), distributions.identity("*")]
    digests.save()
    path = _shown(Path(open_store(project.main_artifacts).address))
    return CacheReport(f"{host}{_short(sources)}", (host, base), path, facts)


def _short(value: object) -> str:
    return digest_json(value)[:_DIGITS]


def _file_parts(
    project: Project, targets: tuple[Target, ...], digests: StatCache
) -> dict[str, str | None]:
    """Digests of the files whose change may lead to another artifact, by path.

    Only a build finds out which sources a model uses, and a fresh checkout knows of no build. All
    Python files below the project therefore count, with what models.yaml names.
    """
    names: set[str] = set()
    parts: dict[str, str | None] = {}
    for file in (project.file, project.file.with_name(TUNED_FILE)):
        parts[project.shown(file)] = digests.digest(str(file))
    for target in targets:
        names.update(declared_files(target.model))
        parts.update(weight_parts(project, target, digests))
    for path in python_files(project.root, lambda path: path == project.main_artifacts):
        names.add(path.relative_to(project.root).as_posix())
    for name in sorted(names):
        parts[name] = digests.digest(name if name.startswith("/") else f"{project.root}/{name}")
    return parts


def _shown(path: Path) -> str:
    """The path of the cache, relative to the directory from which a CI system sees it."""
    start = Path(os.environ.get(_WORKSPACE) or Path.cwd())
    try:
        return path.relative_to(start).as_posix()
    except ValueError:
        return str(path)
