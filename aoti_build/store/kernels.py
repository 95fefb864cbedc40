"""Compiled GPU kernels and autotuning results, kept in the store from build to build.

The inductor cache of a job is private and removed with it (two models with equal graphs would get
each other's weights from a shared one). What Triton compiles and what autotuning measures has no
weights in it and is worth keeping: it is found by the kernel, not by the model, so another model
with the same convolutions, or this one after a small change, need not search again.

A directory holds what one toolchain made, below ``kernels/`` in the store:

``<aa>/<key>.kernel``      a kernel's files as Triton keeps them, by Triton's own key: a digest of
                           the kernel's source, signature, constants and options, of Triton itself,
                           of the assembler's version, of the GPU's architecture and of Triton's
                           environment ``tuning/<digest>.json``   what was measured, by the digest
                           of the GPU's name and of torch's switches

Both carry a digest of their content; what is corrupted is a miss, and so is what cannot be read. A
disk that refuses to write loses the next build's shortcut.
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

# Names the directory to worker processes, and through them to the processes in which inductor
# compiles kernels.
KERNELS_VARIABLE = "AOTI_BUILD_KERNELS"
TUNING_FORMAT, TUNING_VERSION = "aoti-build/tuning", 1
SUFFIX = ".kernel"
_DIGEST_SIZE = sha256().digest_size
# Timings of the choices of a matrix product or convolution, all in one file; the best configuration
# of one kernel.
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
# What Python's reader of zip files lets out, beside its own error, of one whose digest is right.
_NO_ARCHIVE = (ValueError, KeyError, NotImplementedError, RuntimeError, EOFError, zlib.error)


class KernelCache:
    """The kernels and results of one toolchain, in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def of_environment(cls) -> KernelCache | None:
        """The one that this process was told to use, if any."""
        return cls(Path(given)) if (given := os.environ.get(KERNELS_VARIABLE)) else None

    def fetch(self, key: str) -> dict[str, bytes] | None:
        """The files of the kernel with Triton's `key`, by name; None for a miss."""
        import zipfile  # not for those who only list what is kept

        path = self._path(key)
        try:
            data = read_bytes(path, RECORD_LIMIT)
            if sha256(data[_DIGEST_SIZE:]).digest() != data[:_DIGEST_SIZE]:
                return None
            os.utime(path)  # for `gc`'s order
        except OSError:
            return None
        try:
            with zipfile.ZipFile(io.BytesIO(data[_DIGEST_SIZE:])) as archive:
                return {
                    name: archive.read(name)
                    for name in archive.namelist()
                    if Path(name).name == name
                }
        except (*_NO_ARCHIVE, zipfile.BadZipFile):
            return None

    def add(self, key: str, files: Mapping[str, bytes]) -> None:
        import zipfile

        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        data = packed.getvalue()
        with contextlib.suppress(OSError):
            write_atomic(self._path(key), sha256(data).digest() + data)

    def tuning(self, key: str) -> dict[str, str]:
        """Files that inductor looks for, by their path in its cache; empty for a miss."""
        try:
            record = loads(read_bytes(self._tuning_path(key), RECORD_LIMIT))
            _TUNING(record)
        except (OSError, ValueError):
            return {}
        files: dict[str, str] = record["files"]
        if record["format_version"] != TUNING_VERSION or record["digest"] != digest_json(files):
            return {}
        return {name: text for name, text in files.items() if _TUNING_FILE.fullmatch(name)}

    def add_tuning(self, key: str, found: Mapping[str, str]) -> None:
        """Keep `found` beside what is there. Of two measurements of one thing the newer stays."""
        path = self._tuning_path(key)
        with contextlib.suppress(OSError), lock(path.with_suffix(".lock")):
            files = self.tuning(key)
            for name, text in found.items():
                files[name] = _merged(files.get(name), text) if name.startswith(_TIMINGS) else text
            record = {
                "format": TUNING_FORMAT,
                "format_version": TUNING_VERSION,
                "digest": digest_json(files),
            }
            write_json(path, {**record, "files": files})

    def _path(self, key: str) -> Path:
        return self.directory / key[:2].lower() / f"{key}{SUFFIX}"

    def _tuning_path(self, key: str) -> Path:
        return self.directory / "tuning" / f"{key}.json"


def tuning_files(cache: Path) -> dict[str, str]:
    """What a compile left of autotuning results in its inductor cache."""
    found = (*cache.glob("cache/*"), *cache.glob("??/*.best_config"))
    names = {path.relative_to(cache).as_posix(): path for path in found if path.is_file()}
    return {
        name: path.read_text(encoding="utf-8")
        for name, path in names.items()
        if _TUNING_FILE.fullmatch(name)
    }


def write_tuning(cache: Path, files: Mapping[str, str]) -> None:
    """Put `files` where a compile that uses the inductor cache `cache` looks for them."""
    for name, text in files.items():
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text(text, encoding="utf-8")


def kept_files(kernels: Path) -> Iterator[Path]:
    """Every file below the store's ``kernels/`` that can be removed by itself; none behind a
    link."""
    yield from own_entries(kernels.parent, kernels.name, "*", "??", f"*{SUFFIX}")
    yield from own_entries(kernels.parent, kernels.name, "*", "tuning", "*.json")


def _merged(old: str | None, new: str) -> str:
    """Two of inductor's files of timings as one; if one of them is not JSON, the new one."""
    if old is None:
        return new
    try:
        return json.dumps(_union(json.loads(old), json.loads(new)))
    except (ValueError, RecursionError):
        return new


def _union(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {
            **old,
            **{key: _union(old[key], value) if key in old else value for key, value in new.items()},
        }
    return new
