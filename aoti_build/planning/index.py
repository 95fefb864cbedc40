"""The index of what was found up to date: it lets a no-op look at stats only, with no manifest read
and no key computed.

An entry holds all that the long way compared: digests of the target and of the toolchain facts, the
versions of the distributions, and every file (sources, weights, manifest, the artifact's own) with
its content's digest. The stat cache says whether a file still has that content. So an entry is good
only if the long way would come to the same answer; it is made by the long way alone, and deleting
the index changes speed, never a result.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from aoti_build.artifact.fingerprint import variable_parts
from aoti_build.common.fields import digest, integer
from aoti_build.common.records import read_cache_record, write_cache_record
from aoti_build.common.stat_cache import StatCache
from aoti_build.host import distributions

FORMAT = "aoti-build/index"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Published:
    """What reports say of an up-to-date artifact: its key, and the size of its model.pt2 in
    bytes."""

    key: str
    size: int


@dataclass(frozen=True)
class Entry:
    """What makes one target up to date: digests of its spec and of the toolchain's `facts`; version
    and RECORD of each distribution; modules that were looked for; digests of environment variables;
    of files, by path below the root or absolute; the `sizes` in bytes of the artifact's own files;
    and what `Published` says."""

    spec: str
    facts: str
    distributions: Mapping[str, list[str | None]]
    modules: Mapping[str, str | None]
    variables: Mapping[str, str | None]
    files: Mapping[str, str | None]
    sizes: Mapping[str, int]
    key: str
    size: int


class Index:
    """Entries by target name, in the JSON file `record`; `save()` writes it if anything new was
    learnt."""

    def __init__(self, record: Path, root: Path, digests: StatCache) -> None:
        self._record = record
        self._root = str(root)
        self._digests = digests
        self._entries = read_cache_record(record, FORMAT, FORMAT_VERSION, "targets")
        self._changed = False
        self._seen: dict[str, str | None] = {}

    def look_up(self, target: str, spec: str, facts: str) -> Published | None:
        """The published artifact if it is certainly up to date, else None. `spec` and `facts` are
        digests."""
        entry = self._entries.get(target)
        try:
            if entry is None or entry["spec"] != spec or entry["facts"] != facts:
                return None
            installed = entry["distributions"].items()
            if any(list(distributions.installation(name)) != place for name, place in installed):
                return None
            if any(
                distributions.installed_module(name) != found
                for name, found in entry["modules"].items()
            ):
                return None
            if variable_parts(entry["variables"], os.environ) != entry["variables"]:
                return None
            sizes = entry.get("sizes", {})  # an earlier release wrote none
            if any(
                self._digest(name, sizes.get(name)) != found
                for name, found in entry["files"].items()
            ):
                return None
            digest(entry["key"])
            integer()(entry["size"])
            return Published(entry["key"], entry["size"])
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            return None

    def note(self, target: str, entry: Entry) -> None:
        """Remember what the long way compared when it found `target` up to date."""
        self._entries[target] = asdict(entry)
        self._changed = True

    def save(self) -> None:
        """Persist what was learnt. A read-only or full disk loses speed, not results."""
        if not self._changed:
            return
        self._changed = not write_cache_record(
            self._record, FORMAT, FORMAT_VERSION, {"targets": self._entries}
        )

    def _digest(self, name: str, size: int | None) -> str | None:
        """Once per run for each file: many targets share sources. Of an artifact's own file nothing
        is read if it has not its `size`."""
        if name not in self._seen:
            whole = os.path.expanduser(name) if name.startswith("~/") else name  # a file of weights
            path = whole if whole.startswith("/") else f"{self._root}/{whole}"
            self._seen[name] = self._digests.digest(path, size)
        return self._seen[name]
