"""The history of benchmarks: a directory of JSON lines that the user commits or keeps.

There is one file for each target and class of machines:
``<model>/<variant>/<machine class>.jsonl``,
and one line for each benchmark. Lines are only ever added at the end, so two branches merge with
git's driver ``union``. The order of the lines does not matter: entries are sorted by the time at
which they were measured.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aoti_build.common.fields import is_name
from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.errors import UsageError
from aoti_build.measurement.history_entry import (
    FORMAT,
    FORMAT_VERSION,
    HistoryEntry,
    Series,
    entry_of,
    time_of,
)
from aoti_build.measurement.record import BenchRecord

SUFFIX = ".jsonl"
# A merge conflict that nobody resolved.
_CONFLICT_MARKS = (b"<<<<<<<", b"=======", b">>>>>>>", b"|||||||")


@dataclass(frozen=True)
class BrokenLine:
    """A line of a history that is no entry, and why. `line` begins at 1; 0 is the whole file."""

    file: Path
    line: int
    why: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.why}" if self.line else f"{self.file}: {self.why}"


@dataclass(frozen=True)
class History:
    """What a directory holds.

    Attributes:
        entries: sorted by target, class of machines and time.
        broken: the lines that could not be read.
    """

    entries: tuple[HistoryEntry, ...]
    broken: tuple[BrokenLine, ...] = ()


def history_path(directory: Path, target: str, machine_class: str) -> Path:
    """The file of a target on a class of machines.

    Raises UsageError for a name that could lead to another directory.
    """
    model, slash, variant = target.partition("/")
    file_name = machine_class + SUFFIX
    if not slash or not all(map(is_name, (model, variant, file_name))):
        raise UsageError(
            f"{target} on {machine_class} cannot be the name of a file of the history",
            hint="the record of the benchmark is damaged; measure again",
        )
    return directory / model / variant / file_name


def prepare(directory: Path) -> None:
    """Make the directory of a history. Raises UsageError if it cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(directory, os.W_OK)
        why = "you have no right to write to it"
    except OSError as error:
        is_writable = False
        why = error.strerror or str(error)
    if not is_writable:
        raise _unwritable(directory, why)


def append(directory: Path, record: BenchRecord) -> Path:
    """Add a line for `record` to the history in `directory`, and return the file.

    Directories are made if they are missing. Processes may append at the same time.

    Raises:
        UsageError: a name in the record is unfit, or the file cannot be written.
    """
    path = history_path(directory, record.target, record.machine.machine_class)
    line = msgspec.json.encode(entry_of(record)) + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _append_line(path, line)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error
    return path


def _unwritable(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} cannot be written", cause=why, hint="name another directory with --history"
    )


def _append_line(path: Path, line: bytes) -> None:
    """Add a whole line to a file, or nothing. Raises OSError."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        # An editor may have removed the last line break.
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        try:
            _write_all(descriptor, line)
            os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        # A system call may write less than it was asked to.
        rest = rest[os.write(descriptor, rest) :]


def read(directory: Path, target: str | None = None) -> History:
    """The entries in `directory`, or those of one target.

    A line that is no entry is reported and left out. A directory that does not exist is empty.
    Raises UsageError if `target` is no name of a target, or if `directory` is a file.
    """
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is no directory", hint="name the directory of the history")
    entries: list[HistoryEntry] = []
    broken: list[BrokenLine] = []
    for path in _files(directory, target):
        found, problems = _read_file(directory, path)
        entries += found
        broken += problems
    entries.sort(key=lambda entry: (entry.target, entry.machine_class, entry.time))
    return History(tuple(entries), tuple(broken))


def _files(directory: Path, target: str | None) -> list[Path]:
    if target is None:
        return sorted(directory.glob(f"*/*/*{SUFFIX}"))
    parent = history_path(directory, target, "any").parent
    return sorted(parent.glob(f"*{SUFFIX}"))


def _read_file(directory: Path, path: Path) -> tuple[list[HistoryEntry], list[BrokenLine]]:
    """The entries of a file in its order, and its broken lines."""
    try:
        content = read_bytes(path, RECORD_LIMIT)
    except OSError as error:
        return [], [BrokenLine(path, 0, error.strerror or str(error))]
    entries: list[HistoryEntry] = []
    broken = []
    seen = set()
    for number, line in enumerate(content.split(b"\n"), start=1):
        # A merge of branches that have a line in common may repeat it.
        if not line.strip() or line in seen:
            continue
        seen.add(line)
        try:
            entries.append(_entry_of_line(directory, path, line))
        except ValueError as error:
            broken.append(BrokenLine(path, number, str(error)))
    return entries, broken


_decoder = msgspec.json.Decoder(HistoryEntry)


def _entry_of_line(directory: Path, path: Path, line: bytes) -> HistoryEntry:
    """The entry in a line of `path`. Raises ValueError if there is none."""
    if line.startswith(_CONFLICT_MARKS):
        raise ValueError("the mark of a merge conflict; keep the lines of both sides")
    try:
        head = msgspec.json.decode(line, type=_Head)
        _check_head(head)
        entry = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no entry: {error}") from None
    time_of(entry.measured)
    if not all(math.isfinite(series.median) for series in entry.series):
        raise ValueError("a median is not finite")
    if _path_or_none(directory, entry) != path:
        raise ValueError(f"of {entry.target} on {entry.machine_class}, which has another file")
    return entry


class _Head(msgspec.Struct):
    """The fields of every version."""

    format: str
    format_version: int


def _check_head(head: _Head) -> None:
    if head.format != FORMAT:
        raise ValueError(f"the format is {head.format[:40]!r}, not {FORMAT!r}")
    if head.format_version != FORMAT_VERSION:
        raise ValueError(
            f"version {head.format_version} of the format; this release reads {FORMAT_VERSION}"
        )


def _path_or_none(directory: Path, entry: HistoryEntry) -> Path | None:
    try:
        return history_path(directory, entry.target, entry.machine_class)
    except UsageError:
        return None


def by_machine(entries: Sequence[HistoryEntry]) -> dict[tuple[str, str], list[HistoryEntry]]:
    """The entries of each target on each class of machines, in order."""
    groups: dict[tuple[str, str], list[HistoryEntry]] = {}
    for entry in entries:
        groups.setdefault((entry.target, entry.machine_class), []).append(entry)
    return groups


def points_by_series(
    entries: Sequence[HistoryEntry],
) -> dict[str, list[tuple[HistoryEntry, Series]]]:
    """The entries of each series, by its name. An entry that lacks the series has no point."""
    points: dict[str, list[tuple[HistoryEntry, Series]]] = {}
    for entry in entries:
        for series in entry.series:
            points.setdefault(series.name, []).append((entry, series))
    return points
