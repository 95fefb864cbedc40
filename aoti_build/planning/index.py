"""The index of up-to-date artifacts.

With it a build that has nothing to do needs only the stats of files: no manifest is read and no key
is computed.

An entry has everything that the full comparison in `plan` used: digests of the target and of the
toolchain's facts, versions of distributions, and every file (sources, weights, the artifact's own)
with its digest. The stat cache shows whether a file still has that content. So an entry is valid
only if the full comparison would come to the same result. Only the full comparison makes entries.
Deleting the index changes the speed and never a result.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aoti_build.artifact.fingerprint import variable_parts
from aoti_build.common.fields import digest, integer
from aoti_build.common.records import read_cache_record, write_cache_record
from aoti_build.common.stat_cache import StatCache
from aoti_build.host import distributions
from aoti_build.models_file.project import Project

FORMAT = "aoti-build/index"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Published:
    """What reports show of an up-to-date artifact: its key, and the sha256 and the bytes of its
    model.pt2."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Entry:
    """Everything by which one target is up to date.

    Attributes:
        spec: digest of the target.
        facts: digest of the toolchain's facts.
        distributions: version and path of the RECORD of each distribution.
        modules: where modules of the project, and others that its code tried to import, are found.
        variables: digests of environment variables.
        files: digests of files, by absolute path or path from the project on.
        sizes: bytes of the artifact's own files, with the same names.
        key: the artifact key.
        sha256: digest of model.pt2.
        size: bytes of model.pt2.
    """

    spec: str
    facts: str
    distributions: Mapping[str, list[str | None]]
    modules: Mapping[str, str | None]
    variables: Mapping[str, str | None]
    files: Mapping[str, str | None]
    sizes: Mapping[str, int]
    key: str
    sha256: str
    size: int


class Index:
    """The entries by target name, in the JSON file `record`.

    `save()` writes that file if there are new entries.
    """

    def __init__(self, record: Path, project: Project, digests: StatCache) -> None:
        self._record = record
        self._root = str(project.root)
        self._path = project.import_path()
        self._digests = digests
        self._entries = read_cache_record(record, FORMAT, FORMAT_VERSION, "targets")
        self._changed = False
        # Targets share sources, so each file is looked at once per run.
        self._digest_of: dict[str, str | None] = {}

    def look_up(self, target: str, spec: str, facts: str) -> Published | None:
        """The published artifact if it is certainly up to date, else None.

        `spec` and `facts` are digests.
        """
        entry = self._entries.get(target)
        try:
            if entry is None or entry["spec"] != spec or entry["facts"] != facts:
                return None
            if not self._is_valid(entry):
                return None
            # These are shown to people. All other values were compared.
            digest(entry["key"])
            digest(entry["sha256"])
            integer()(entry["size"])
            return Published(entry["key"], entry["sha256"], entry["size"])
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            return None  # a garbled entry

    def _is_valid(self, entry: Mapping[str, Any]) -> bool:
        """Whether everything that the entry lists is still the same. Cheap comparisons go first."""
        for name, recorded in entry["distributions"].items():
            if list(distributions.installation(name, self._path.installed)) != recorded:
                return False
        if self._path.module_parts(entry["modules"]) != entry["modules"]:
            return False
        if variable_parts(entry["variables"], os.environ) != entry["variables"]:
            return False
        sizes = entry.get("sizes", {})  # entries of earlier releases have none
        for name, recorded in entry["files"].items():
            if self._digest(name, sizes.get(name)) != recorded:
                return False
        return True

    def note(self, target: str, entry: Entry) -> None:
        """Remember why `target` is up to date."""
        self._entries[target] = asdict(entry)
        self._changed = True

    def save(self) -> None:
        """Write new entries. On a read-only or full disk the next build is slower."""
        if not self._changed:
            return
        content = {"targets": self._entries}
        is_written = write_cache_record(self._record, FORMAT, FORMAT_VERSION, content)
        self._changed = not is_written

    def _digest(self, name: str, size: int | None) -> str | None:
        """The digest of a file. One that does not have the recorded `size` is not read."""
        if name not in self._digest_of:
            path = os.path.expanduser(name) if name.startswith("~/") else name  # a file of weights
            if not path.startswith("/"):
                path = f"{self._root}/{path}"
            self._digest_of[name] = self._digests.digest(path, size)
        return self._digest_of[name]
