"""Memory and processors that new processes can use, within the limits of control groups.

In a container, /proc/meminfo and the affinity mask describe the whole host. But the limit of a
control group kills processes or stops them for a time. The limits of all groups above count too,
each against everything that runs in that group. Only the usual mount points below /sys/fs/cgroup
are known. All files are read below `root`, which tests replace.
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
    """Bytes that new processes can use.

    Cached pages of files that were not read lately count as free: the system drops them.
    """
    amounts = [_machine_memory(root)]
    for group in _groups(root):
        amounts += _memory_below_limits(
            group,
            limits=("memory.max", "memory.high"),
            usage="memory.current",
            cache="inactive_file",
        )
    for group in _groups(root, "memory"):
        amounts += _memory_below_limits(
            group,
            limits=("memory.limit_in_bytes",),
            usage="memory.usage_in_bytes",
            cache="total_inactive_file",
        )
    return min(amounts)


def processors() -> int:
    """The number of processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_processors(root: Path = _ROOT) -> int:
    """The number of processors that new processes can keep busy; a fraction counts as one."""
    counts = [processors()]
    for group in _groups(root):
        counts += _quota(_text(group / "cpu.max").split())
    for group in _groups(root, "cpu"):
        time = _text(group / "cpu.cfs_quota_us").strip()
        period = _text(group / "cpu.cfs_period_us").strip()
        counts += _quota([time, period])
    return max(1, min(counts))


def _machine_memory(root: Path) -> int:
    available_kib = _field(root / "proc/meminfo", "MemAvailable:")
    if available_kib is not None:
        return available_kib * 1024
    # The system reports no free memory: take all physical memory.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _groups(root: Path, controller: str = "") -> Iterator[Path]:
    """Directories of the control groups that this process is in, the outermost first.

    They are of version 2, or of version 1's `controller`.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        # Each line is "number:controllers:path"; version 2 has no controllers.
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        names = [name for name in path.split("/") if name]
        # The group lies above everything that this container can see.
        if ".." in names:
            names = []
        mounts = [controller, controllers] if controller else [".", "unified"]
        for mount in dict.fromkeys(mounts):
            # A container may see its own group as the outermost one. Or it sees only that group,
            # but reads the group's path on the host; the directories below then do not exist.
            group = root / _MOUNTS / mount
            yield group
            for name in names:
                group /= name
                yield group
        return


def _memory_below_limits(
    group: Path,
    *,
    limits: Sequence[str],
    usage: str,
    cache: str,
) -> list[int]:
    """Bytes below each limit of a group. `limits` and `usage` are files, `cache` is a field."""
    used = _numbers(_text(group / usage).split())
    if not used:
        return []
    reclaimable = _field(group / "memory.stat", cache) or 0
    amounts = []
    for file in limits:
        for limit in _numbers(_text(group / file).split()):
            amounts.append(max(0, limit - used[0] + reclaimable))
    return amounts


def _quota(words: Sequence[str]) -> list[int]:
    """Processors by a quota, rounded up; empty if there is no quota.

    The words are a time and the period in which the group may run for that time.
    """
    numbers = _numbers(words)
    if len(numbers) != 2 or not numbers[1]:
        return []
    time, period = numbers
    return [-(-time // period)]


def _field(file: Path, name: str) -> int | None:
    """The number after `name` in a file with one field on a line."""
    for line in _text(file).splitlines():
        words = line.split()
        if words and words[0] == name:
            numbers = _numbers(words[1:2])
            return numbers[0] if numbers else None
    return None


def _numbers(words: Sequence[str]) -> list[int]:
    """The words that are numbers. A missing limit is the word ``max``, or -1."""
    return [int(word) for word in words if word.isdecimal()]


def _text(file: Path) -> str:
    """The text of a file; empty if it cannot be read."""
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
