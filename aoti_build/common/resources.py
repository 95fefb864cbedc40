"""Memory and processors that new processes can have: what the machine has, or what its control
groups leave of it.

In a container /proc/meminfo and the affinity mask tell of the whole host, and it is a group's limit
that kills processes or holds them up. The limits of all groups above count too, each with all that
lives in that group. Only the usual mount points below /sys/fs/cgroup are known. Everything is read
below `root`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

# Bytes: a worker with torch, an export and one C++ compiler; resnet18 peaks near 2 GiB.
JOB_MEMORY = 3 << 30
_ROOT = Path("/")
_MOUNTS = Path("sys/fs/cgroup")


def available_memory(root: Path = _ROOT) -> int:
    """Bytes that new processes can have. Pages of files that nothing has read lately count as free:
    they give way."""
    rooms = [_memory_of_the_machine(root)]
    for group in _groups(root):
        rooms += _rooms(group, ("memory.max", "memory.high"), "memory.current", "inactive_file")
    for group in _groups(root, "memory"):
        rooms += _rooms(
            group, ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"
        )
    return min(rooms)


def processors() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_processors(root: Path = _ROOT) -> int:
    """Processors that new processes can keep busy; a part of one counts as one."""
    counts = [processors()]
    for group in _groups(root):
        counts += _quotas(_text(group / "cpu.max").split())
    for group in _groups(root, "cpu"):
        counts += _quotas(
            [_text(group / "cpu.cfs_quota_us").strip(), _text(group / "cpu.cfs_period_us").strip()]
        )
    return max(1, min(counts))


def _memory_of_the_machine(root: Path) -> int:
    """Everything physical where the system does not tell."""
    available = _field(root / "proc/meminfo", "MemAvailable:")
    return (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if available is None
        else available * 1024
    )


def _groups(root: Path, controller: str = "") -> Iterator[Path]:
    """The directories of the groups that this process is in, the outermost first: of version 2, or
    of version 1's `controller`.

    A container may see its own group as the outermost one, or may see nothing but that group and
    yet be told its path on the host, of which nothing is there then.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        parts = [part for part in path.split("/") if part]
        for mount in dict.fromkeys((controller, controllers) if controller else (".", "unified")):
            group = root / _MOUNTS / mount
            yield group
            for part in parts if ".." not in parts else ():  # it lies outside of what can be seen
                group /= part
                yield group
        return


def _rooms(group: Path, limits: Sequence[str], usage: str, cache: str) -> list[int]:
    """What each of its limits leaves; nothing for a group that has none."""
    taken = _numbers(_text(group / usage).split())
    if not taken:
        return []
    room = (_field(group / "memory.stat", cache) or 0) - taken[0]
    return [
        max(0, limit + room) for name in limits for limit in _numbers(_text(group / name).split())
    ]


def _quotas(words: Sequence[str]) -> list[int]:
    """Of a time and the period that it is granted for, or of words that are no such thing."""
    numbers = _numbers(words)
    return [-(-numbers[0] // numbers[1])] if len(numbers) == 2 and numbers[1] else []


def _field(file: Path, name: str) -> int | None:
    for line in _text(file).splitlines():
        words = line.split()
        if words[:1] == [name]:
            return next(iter(_numbers(words[1:2])), None)
    return None


def _numbers(words: Sequence[str]) -> list[int]:
    """Those that are numbers: no limit is the word `max`, or -1."""
    return [int(word) for word in words if word.isdecimal()]


def _text(file: Path) -> str:
    """Of a file that there may not be."""
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
