"""What is installed, read off the directories on sys.path without importing anything:
distributions, their versions and files, and the modules that they bring."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import NamedTuple

from aoti_build.common.digests import digest_bytes, digest_json
from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.common.stat_cache import StatCache


@cache
def version_of(name: str) -> str | None:
    """The installed version of a distribution, or None.

    Read off the names of the ``*.dist-info`` directories on sys.path (their form is the packaging
    specifications'), since importing importlib.metadata takes longer than the rest of a no-op; that
    is asked only where no name tells.
    """
    if known := _installed(tuple(sys.path)).distributions.get(_normalised(name)):
        return known.version
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def identity(
    name: str, digests: StatCache | None = None, path: tuple[str, ...] | None = None
) -> str | None:
    """The version of a distribution and the beginning of a digest of its installed files, as far as
    its RECORD lists them; None if it is not installed. `digests` remembers: torch's has 20,000
    lines. `path` replaces sys.path.

    ``*`` means all that are installed, by name and version.

    A library that is installed again and again under one version ("0.1.0", as in development)
    differs in the digest.
    """
    if name == "*":
        known_all = _installed(path or tuple(sys.path)).distributions
        return digest_json({one: info.version for one, info in known_all.items()})
    record = record_of(name, path)
    known = _installed(path or tuple(sys.path)).distributions.get(_normalised(name))
    version = known.version if known else version_of(name)
    if version is None or record is None:
        return version
    file = str(record)
    digest = (
        digests.remember(f"installed by {file}", file, _digest_installed)
        if digests
        else _digest_installed(file)
    )
    return f"{version} {digest[:16]}" if digest else version


def record_of(name: str, path: tuple[str, ...] | None = None) -> Path | None:
    """The RECORD of a distribution's installed files (path,hash,size), if its installer left
    one."""
    known = _installed(path or tuple(sys.path)).distributions.get(_normalised(name))
    return known.record if known and known.record.is_file() else None


@cache
def place(name: str) -> tuple[str | None, str | None]:
    """Version of a distribution and the path of its RECORD: two environments can hold other files
    of one version."""
    record = record_of(name)
    return version_of(name), str(record) if record else None


def installed_module(name: str, path: tuple[str, ...] | None = None) -> str | None:
    """``installed`` if a module of that name lies among installed distributions (on sys.path, or
    `path`)."""
    installed = _installed(path or tuple(sys.path))
    top, _, rest = name.partition(".")
    found = top in installed.modules
    if found and rest:  # a part of a namespace, which several distributions fill
        place = name.replace(".", "/")
        found = any(
            os.path.isdir(f"{directory}/{place}")
            or any(os.path.isfile(f"{directory}/{place}{s}") for s in all_suffixes())
            for directory in installed.directories
        )
    return "installed" if found else None


def _digest_installed(record: str) -> str:
    """Without scripts and metadata, which differ with the environment that a distribution is
    installed in."""
    lines = read_bytes(record, RECORD_LIMIT).decode(errors="replace").splitlines()
    return digest_bytes("\n".join(sorted(filter(_is_installed_code, lines))).encode())


def _is_installed_code(line: str) -> bool:
    path = line.rpartition(",")[0].rpartition(",")[0]
    return not path.startswith("../") and ".dist-info/" not in path and not path.endswith(".pyc")


class _DistInfo(NamedTuple):
    version: str
    record: Path


class _Installed(NamedTuple):
    """Distributions by normalised name, the directories that hold them, and the names of modules
    there."""

    distributions: Mapping[str, _DistInfo]
    directories: tuple[str, ...]
    modules: frozenset[str]


@lru_cache(maxsize=2)
def _installed(path: tuple[str, ...]) -> _Installed:
    """What the directories in `path` hold; the first one with a distribution wins, as in an
    import."""
    distributions: dict[str, _DistInfo] = {}
    modules: set[str] = set()
    directories: list[str] = []
    for directory in path:
        try:
            entries = os.listdir(directory or ".")
        except OSError:
            continue
        infos = [entry for entry in entries if entry.endswith(".dist-info")]
        for entry in infos:
            name, _, version = entry.removesuffix(".dist-info").rpartition("-")
            distributions.setdefault(
                _normalised(name), _DistInfo(version, Path(directory, entry, "RECORD"))
            )
        if infos:
            directories.append(directory)
            modules.update(entry.partition(".")[0] for entry in entries)
            # An editable one has its modules elsewhere, and as a rule its name.
            modules.update(entry.partition("-")[0].lower() for entry in infos)
    return _Installed(distributions, tuple(directories), frozenset(modules))


def _normalised(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
