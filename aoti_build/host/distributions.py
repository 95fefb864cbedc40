"""Installed distributions, their versions, files and modules, without importing any of them.

Everything is read from the directories on sys.path.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import NamedTuple

from aoti_build.common.digests import digest_bytes, digest_json
from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.common.stat_cache import StatCache

_IDENTITY_DIGITS = 16


@cache
def version_of(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    # The names of the *.dist-info directories hold the versions (packaging specifications, "The
    # .dist-info directory"). To import importlib.metadata takes longer than the rest of a no-op.
    info = _dist_info(name)
    if info is not None:
        return info.version
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def identity(
    name: str,
    digests: StatCache | None = None,
    path: tuple[str, ...] | None = None,
) -> str | None:
    """The version of a distribution and the start of a digest of its files; None if not installed.

    The files are those that its RECORD lists. The digest tells apart installations of one version
    ("0.1.0" during development). `digests` remembers it, since torch's RECORD has 20,000 lines.
    `path` replaces sys.path. The name ``*`` stands for the names and versions of all distributions.
    """
    if name == "*":
        return _digest_of_all_versions(path)
    info = _dist_info(name, path)
    version = info.version if info else version_of(name)
    record = record_of(name, path)
    if version is None or record is None:
        return version
    file = str(record)
    if digests is None:
        digest: str | None = _digest_installed(file)
    else:
        digest = digests.remember(f"installed by {file}", file, _digest_installed)
    return f"{version} {digest[:_IDENTITY_DIGITS]}" if digest else version


def record_of(name: str, path: tuple[str, ...] | None = None) -> Path | None:
    """The RECORD (path,hash,size) of a distribution's files, or None if it has none."""
    info = _dist_info(name, path)
    if info is None or not info.record.is_file():
        return None
    return info.record


@cache
def installation(name: str, path: tuple[str, ...] | None = None) -> tuple[str | None, str | None]:
    """The version of a distribution and the path of its RECORD.

    The path tells apart two environments, which can hold different files of one version. `path`
    replaces sys.path.
    """
    info = _dist_info(name, path)
    record = record_of(name, path)
    version = info.version if info else version_of(name)
    return version, str(record) if record else None


def installed_module(name: str, path: tuple[str, ...] | None = None) -> str | None:
    """``installed`` if there is a module of that name among installed distributions, else None.

    `path` replaces sys.path.
    """
    installed = _installed(path or tuple(sys.path))
    top, _, rest = name.partition(".")
    if top not in installed.modules:
        return None
    # Several distributions can contribute to one namespace package: look for the module itself.
    if rest and not _is_module_in(installed.directories, name.replace(".", "/")):
        return None
    return "installed"


def installed_names(path: tuple[str, ...]) -> frozenset[str]:
    """The names of what lies in the directories of installed distributions on `path`."""
    return _installed(path).modules


def _is_module_in(directories: Iterable[str], module_path: str) -> bool:
    for directory in directories:
        path = f"{directory}/{module_path}"
        if os.path.isdir(path):
            return True
        for suffix in all_suffixes():
            if os.path.isfile(path + suffix):
                return True
    return False


def _digest_of_all_versions(path: tuple[str, ...] | None) -> str:
    distributions = _installed(path or tuple(sys.path)).distributions
    return digest_json({name: info.version for name, info in distributions.items()})


def _digest_installed(record: str) -> str:
    """The digest of the lines of a RECORD that are about code."""
    lines = read_bytes(record, RECORD_LIMIT).decode(errors="replace").splitlines()
    code_lines = sorted(line for line in lines if _is_code(line))
    return digest_bytes("\n".join(code_lines).encode())


def _is_code(record_line: str) -> bool:
    """Whether a line of a RECORD is about code.

    Scripts and metadata are left out: they differ with the environment.
    """
    # path,hash,size
    path = record_line.rpartition(",")[0].rpartition(",")[0]
    if path.startswith("../") or path.endswith(".pyc"):
        return False
    return ".dist-info/" not in path


class _DistInfo(NamedTuple):
    version: str
    record: Path


class _Installed(NamedTuple):
    """Distributions by normalised name, their directories, and the names of modules there."""

    distributions: Mapping[str, _DistInfo]
    directories: tuple[str, ...]
    modules: frozenset[str]


def _dist_info(name: str, path: tuple[str, ...] | None = None) -> _DistInfo | None:
    installed = _installed(path or tuple(sys.path))
    return installed.distributions.get(_normalised(name))


@lru_cache(maxsize=2)
def _installed(path: tuple[str, ...]) -> _Installed:
    """The content of the directories in `path`. As for an import, the first distribution wins."""
    distributions: dict[str, _DistInfo] = {}
    modules: set[str] = set()
    directories: list[str] = []
    for directory in path:
        try:
            entries = os.listdir(directory or ".")
        except OSError:
            continue
        infos = [entry for entry in entries if entry.endswith(".dist-info")]
        if not infos:
            continue
        directories.append(directory)
        modules.update(entry.partition(".")[0] for entry in entries)
        for entry in infos:
            name, _, version = entry.removesuffix(".dist-info").rpartition("-")
            info = _DistInfo(version, Path(directory, entry, "RECORD"))
            distributions.setdefault(_normalised(name), info)
            # An editable distribution has its modules elsewhere; usually they have its name.
            modules.add(entry.partition("-")[0].lower())
    return _Installed(distributions, tuple(directories), frozenset(modules))


def _normalised(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
