"""Archives of directories, with equal bytes for equal content.

An entry has no owner, a fixed time and the mode 644 or 755, and entries are sorted by name. The
compressed bytes also depend on the version of the library that compresses.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from aoti_build.common.writing import UMASK, fsync
from aoti_build.errors import UsageError

GZIP = ".tar.gz"
ZSTD = ".tar.zst"
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 9
_FILE_MODE = 0o644
_DIRECTORY_MODE = 0o755


def require_archive_name(file: str) -> None:
    """Raise `UsageError` unless an archive of this name can be written.

    That is so if its suffix is known, and the compressor of the suffix is installed.
    """
    if file.endswith(GZIP):
        return
    if not file.endswith(ZSTD):
        raise UsageError(
            f"{file} names no known kind of archive",
            hint=f"end its name in {ZSTD} or {GZIP}",
        )
    if not _has_zstd():
        raise UsageError(
            f"{file} needs a compressor that is not installed",
            cause="Python has zstd from 3.14 on, and before that in the package zstandard",
            hint="pip install 'aoti_build[release]', or end the name of the archive in .tar.gz",
        )


@contextlib.contextmanager
def staged_archive(directory: Path, file: Path, top: str, time: int) -> Iterator[Path]:
    """Write an archive of `directory` next to `file`, under a name of its own.

    The caller renames it. It is removed at the end if it still has that name. `top` is the name of
    the directory in the archive, and `time` that of all entries, in seconds since 1970.
    Raises OSError.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    staged = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as raw:
            os.fchmod(raw.fileno(), 0o666 & ~UMASK)
            with _compressor(raw, file.name) as compressed:
                _write_entries(directory, compressed, top, time)
        fsync(staged)
        yield staged
    finally:
        staged.unlink(missing_ok=True)


def _write_entries(directory: Path, compressed: IO[bytes], top: str, time: int) -> None:
    import tarfile  # those who ask for the suffixes alone write nothing

    # The GNU format has no limit of sizes and names, and no extended headers with further times.
    with tarfile.open(fileobj=compressed, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        for path in (directory, *sorted(directory.rglob("*"))):
            name = "/".join((top, *path.relative_to(directory).parts))
            entry = tarfile.TarInfo(name)
            entry.mtime = time
            if path.is_dir():
                entry.type = tarfile.DIRTYPE
                entry.mode = _DIRECTORY_MODE
                archive.addfile(entry)
                continue
            entry.mode = _FILE_MODE
            entry.size = path.stat().st_size
            with path.open("rb") as content:
                archive.addfile(entry, content)


@contextlib.contextmanager
def _compressor(raw: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    if name.endswith(GZIP):
        import gzip

        # Without a name and a time, which would be parts of the bytes.
        with gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0) as compressed:
            yield cast("IO[bytes]", compressed)
        return
    with _zstd_writer(raw) as compressed:
        yield compressed


def _has_zstd() -> bool:
    from importlib.util import find_spec

    with contextlib.suppress(ModuleNotFoundError):
        if find_spec("compression.zstd") is not None:
            return True
    return find_spec("zstandard") is not None


def _zstd_writer(raw: IO[bytes]) -> contextlib.AbstractContextManager[IO[bytes]]:
    from importlib import import_module

    try:
        zstd = import_module("compression.zstd")
    except ModuleNotFoundError:
        compressor = import_module("zstandard").ZstdCompressor(_ZSTD_LEVEL, write_checksum=True)
        writer = compressor.stream_writer(raw, closefd=False)
        return cast("contextlib.AbstractContextManager[IO[bytes]]", writer)
    checksum = {zstd.CompressionParameter.checksum_flag: 1}
    options = {zstd.CompressionParameter.compression_level: _ZSTD_LEVEL, **checksum}
    writer = zstd.ZstdFile(raw, "wb", options=options)
    return cast("contextlib.AbstractContextManager[IO[bytes]]", writer)
