"""Compiled GPU kernels and autotuning results, which the store keeps from build to build.

The inductor cache of a job is private and is removed with the job: with a shared one, two models
with equal graphs would get each other's weights. The kernels that Triton compiles and the results
that autotuning measures contain no weights and are worth keeping. They are found by the kernel, not
by the model. So another model with the same convolutions, or this one after a small change, need
not search again.

The files of one toolchain are in a directory below ``kernels/`` in the store:

- ``<aa>/<key>.kernel``: a kernel's files as Triton has them, by Triton's own key. That is a digest
  of the kernel's source, signature, constants and options, of Triton itself, of the assembler's
  version, of the GPU's architecture and of Triton's environment.
- ``tuning/<digest>.json``: the results of autotuning, by the digest of the GPU's name and of
  torch's switches.

Both contain a digest of their content. A file that is corrupted or cannot be read is a miss. If the
disk cannot be written to, nothing is kept, and the next build is slower.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from aoti_build.common.digests import digest_json
from aoti_build.common.fields import (
    anything,
    digest,
    integer,
    loads,
    matching,
    one_of,
    table,
    table_of,
)
from aoti_build.common.locks import lock
from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.common.records import write_json
from aoti_build.common.removal import own_entries
from aoti_build.common.writing import write_atomic

# Tells worker processes the directory. They pass it on to the processes in which inductor compiles
# kernels.
KERNELS_VARIABLE = "AOTI_BUILD_KERNELS"
TUNING_FORMAT = "aoti-build/tuning"
TUNING_VERSION = 1
SUFFIX = ".kernel"
_DIGEST_SIZE = sha256().digest_size
# The files of autotuning in inductor's cache: a file in ``cache/`` has the timings of all choices
# for matrix products and convolutions, a ``.best_config`` the best configuration of one kernel.
_TUNING_FILE = re.compile(r"cache/[0-9a-z]{16,64}|[0-9a-z]{2}/[0-9a-z]{16,64}\.best_config")
_TIMINGS = "cache/"
_TUNING = table(
    {
        "format": one_of(TUNING_FORMAT),
        "format_version": integer(),
        "digest": digest,
        "files": table_of(anything, matching("(?s).*")),
    }
)
# The errors of Python's reader of zip files, besides its own, for a file with the right digest.
_ZIP_ERRORS = (ValueError, KeyError, NotImplementedError, RuntimeError, EOFError, zlib.error)


class KernelCache:
    """The kernels and autotuning results of one toolchain, in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def of_environment(cls) -> KernelCache | None:
        """The cache that `KERNELS_VARIABLE` names; None if it is not set."""
        directory = os.environ.get(KERNELS_VARIABLE)
        return cls(Path(directory)) if directory else None

    def fetch(self, key: str) -> dict[str, bytes] | None:
        """The files of the kernel with Triton's `key`, by name; None for a miss."""
        path = self._path(key)
        try:
            data = read_bytes(path, RECORD_LIMIT)
            archive = data[_DIGEST_SIZE:]
            if sha256(archive).digest() != data[:_DIGEST_SIZE]:
                return None
            os.utime(path)  # `gc` removes first what was not used for longest
        except OSError:
            return None
        return _unpack(archive)

    def add(self, key: str, files: Mapping[str, bytes]) -> None:
        """Keep the files of a kernel."""
        archive = _pack(files)
        digest = sha256(archive).digest()
        with contextlib.suppress(OSError):
            write_atomic(self._path(key), digest + archive)

    def tuning(self, key: str) -> dict[str, str]:
        """The texts of autotuning files, by their path in inductor's cache. Empty for a miss."""
        try:
            record = loads(read_bytes(self._tuning_path(key), RECORD_LIMIT))
            _TUNING(record)
        except (OSError, ValueError):
            return {}
        files: dict[str, str] = record["files"]
        if record["format_version"] != TUNING_VERSION or record["digest"] != digest_json(files):
            return {}
        # Other names could lead out of inductor's cache.
        return {path: text for path, text in files.items() if _TUNING_FILE.fullmatch(path)}

    def add_tuning(self, key: str, files: Mapping[str, str]) -> None:
        """Keep autotuning files with those that are there. The newer of two measurements counts."""
        path = self._tuning_path(key)
        with contextlib.suppress(OSError), lock(path.with_suffix(".lock")):
            merged = self.tuning(key)
            for name, text in files.items():
                if name in merged and name.startswith(_TIMINGS):
                    merged[name] = _merge_timings(merged[name], text)
                else:
                    merged[name] = text
            record = {
                "format": TUNING_FORMAT,
                "format_version": TUNING_VERSION,
                "digest": digest_json(merged),
                "files": merged,
            }
            write_json(path, record)

    def _path(self, key: str) -> Path:
        return self.directory / key[:2].lower() / f"{key}{SUFFIX}"

    def _tuning_path(self, key: str) -> Path:
        return self.directory / "tuning" / f"{key}.json"


def tuning_files(cache: Path) -> dict[str, str]:
    """The autotuning files that a compile wrote to its inductor cache, by path."""
    files = {}
    for pattern in ("cache/*", "??/*.best_config"):
        for path in cache.glob(pattern):
            name = path.relative_to(cache).as_posix()
            if _TUNING_FILE.fullmatch(name) and path.is_file():
                files[name] = path.read_text(encoding="utf-8")
    return files


def write_tuning(cache: Path, files: Mapping[str, str]) -> None:
    """Write autotuning files to the inductor cache `cache` of a compile."""
    for name, text in files.items():
        path = cache / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def kernel_files(kernels: Path) -> Iterator[Path]:
    """The files below the store's ``kernels/`` that `gc` may remove. Links are not followed."""
    yield from own_entries(kernels.parent, kernels.name, "*", "??", f"*{SUFFIX}")
    yield from own_entries(kernels.parent, kernels.name, "*", "tuning", "*.json")


def _pack(files: Mapping[str, bytes]) -> bytes:
    import zipfile  # not for a process that only lists files

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def _unpack(packed: bytes) -> dict[str, bytes] | None:
    """The files in a zip archive, without those whose names lead to another directory."""
    import zipfile

    files = {}
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            for name in archive.namelist():
                if Path(name).name == name:
                    files[name] = archive.read(name)
    except (*_ZIP_ERRORS, zipfile.BadZipFile):
        return None
    return files


def _merge_timings(old: str, new: str) -> str:
    """Two of inductor's files of timings as one. The new one, if one of them is not JSON."""
    try:
        union = _union(json.loads(old), json.loads(new))
        return json.dumps(union)
    except (ValueError, RecursionError):
        return new


def _union(old: Any, new: Any) -> Any:
    """Two JSON values as one, where tables are merged and other values are the new ones."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    merged = dict(old)
    for key, value in new.items():
        if key in old:
            merged[key] = _union(old[key], value)
        else:
            merged[key] = value
    return merged
