"""Memory and processors in containers: their control groups' limits count, as the kernel would
apply them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aoti_build.common import resources
from aoti_build.common.resources import JOB_MEMORY, available_memory, usable_processors
from aoti_build.host.checks import directories
from aoti_build.host.checks.finding import FAIL
from aoti_build.work.schedule import default_jobs

GIB = 1 << 30
HOST = 64 * GIB
# What version 1 says of a group without a limit: the largest number of pages.
UNLIMITED = 9223372036854771712


@pytest.fixture(autouse=True)
def _sixteen_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


def system(root: Path, own: str, files: dict[str, object]) -> Path:
    """A machine with 64 GiB available; `own` is /proc/self/cgroup, `files` are below
    /sys/fs/cgroup."""
    meminfo = (
        f"MemTotal:       {2 * HOST // 1024} kB\nMemAvailable:   {HOST // 1024} kB\nBuffers: 1 kB\n"
    )
    written = {"proc/meminfo": meminfo, "proc/self/cgroup": own}
    written |= {f"sys/fs/cgroup/{name}": f"{content}\n" for name, content in files.items()}
    for name, content in written.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def limited(limit: object, current: int, cached: int = 0, at: str = "") -> dict[str, object]:
    """Files of a version 2 group."""
    stat = (
        f"anon {current - cached}\nfile {cached}\ninactive_anon 0\nactive_file 0\ninactive_file"
        f" {cached}"
    )
    return {f"{at}memory.max": limit, f"{at}memory.current": current, f"{at}memory.stat": stat}


def limited_v1(limit: int, usage: int, cached: int = 0, at: str = "") -> dict[str, object]:
    stat = (
        f"cache {cached}\ninactive_file 0\nhierarchical_memory_limit {limit}\ntotal_inactive_file"
        f" {cached}"
    )
    files = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": usage, "memory.stat": stat}
    return {f"memory/{at}{name}": content for name, content in files.items()}


def test_without_groups_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert available_memory(system(tmp_path, "0::/\n", {"cgroup.procs": ""})) == HOST
    assert usable_processors(tmp_path) == 16


def test_a_container_sees_its_limit_at_the_top(tmp_path: Path) -> None:
    """Docker, podman and Kubernetes with a cgroup namespace."""
    assert available_memory(system(tmp_path, "0::/\n", limited(8 * GIB, 2 * GIB))) == 6 * GIB


def test_a_limit_above_what_the_machine_has_changes_nothing(tmp_path: Path) -> None:
    assert available_memory(system(tmp_path, "0::/\n", limited(100 * GIB, GIB))) == HOST


def test_no_limit_is_none(tmp_path: Path) -> None:
    assert available_memory(system(tmp_path, "0::/\n", limited("max", 2 * GIB))) == HOST


def test_cached_files_give_way(tmp_path: Path) -> None:
    assert (
        available_memory(system(tmp_path, "0::/\n", limited(8 * GIB, 7 * GIB, cached=5 * GIB)))
        == 6 * GIB
    )


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    assert available_memory(system(tmp_path, "0::/\n", limited(2 * GIB, 3 * GIB))) == 0


def test_every_group_above_counts_with_all_that_lives_there(tmp_path: Path) -> None:
    """systemd-run -p MemoryMax=..., inside a slice that is limited and in use."""
    files = limited("max", 40 * GIB, at="user.slice/")
    files |= limited(12 * GIB, 9 * GIB, cached=GIB, at="user.slice/job.slice/")
    files |= limited(8 * GIB, GIB, at="user.slice/job.slice/own.scope/")
    own = "0::/user.slice/job.slice/own.scope\n"
    assert available_memory(system(tmp_path, own, files)) == 4 * GIB


def test_groups_beside_the_own_one_do_not_count(tmp_path: Path) -> None:
    files = limited(GIB, GIB, at="other.slice/") | limited(8 * GIB, GIB, at="own.slice/")
    assert available_memory(system(tmp_path, "0::/own.slice\n", files)) == 7 * GIB


def test_where_processes_are_held_up_counts_as_where_they_are_killed(tmp_path: Path) -> None:
    files = {**limited(8 * GIB, GIB), "memory.high": 5 * GIB}
    assert available_memory(system(tmp_path, "0::/\n", files)) == 4 * GIB


@pytest.mark.parametrize("own", ["0::/docker/0123abcd\n", "0::/../../system.slice\n"])
def test_a_path_of_the_host_that_is_not_to_be_seen_here(tmp_path: Path, own: str) -> None:
    assert available_memory(system(tmp_path, own, limited(8 * GIB, GIB))) == 7 * GIB


def test_version_1(tmp_path: Path) -> None:
    own = "5:cpu,cpuacct:/docker/01\n4:memory:/docker/01\n1:name=systemd:/docker/01\n0::/\n"
    files = limited_v1(8 * GIB, 7 * GIB, cached=2 * GIB) | limited_v1(UNLIMITED, GIB, at="other/")
    assert available_memory(system(tmp_path, own, files)) == 3 * GIB


def test_version_1_nested(tmp_path: Path) -> None:
    files = limited_v1(UNLIMITED, 50 * GIB) | limited_v1(9 * GIB, 5 * GIB, at="a/")
    files |= limited_v1(UNLIMITED, GIB, at="a/b/")
    assert available_memory(system(tmp_path, "4:memory:/a/b\n0::/\n", files)) == 4 * GIB


@pytest.mark.parametrize("spoilt", ["", "garbage", "-1", "\N{SUPERSCRIPT TWO}"])
def test_what_cannot_be_read_is_no_limit(tmp_path: Path, spoilt: str) -> None:
    files = dict.fromkeys(("memory.max", "memory.current", "memory.stat", "cpu.max"), spoilt)
    root = system(tmp_path, "0::/\n", files)
    assert (available_memory(root), usable_processors(root)) == (HOST, 16)


def test_a_system_that_tells_nothing_is_taken_for_free(tmp_path: Path) -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert (available_memory(tmp_path), usable_processors(tmp_path)) == (physical, 16)


@pytest.mark.parametrize(
    ("quota", "processors"),
    [
        ("max 100000", 16),
        ("400000 100000", 4),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("9900000 100000", 16),
    ],
)
def test_a_quota_of_processor_time(tmp_path: Path, quota: str, processors: int) -> None:
    assert usable_processors(system(tmp_path, "0::/\n", {"cpu.max": quota})) == processors


def test_the_smallest_quota_of_the_groups_above_counts(tmp_path: Path) -> None:
    files: dict[str, object] = {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}
    assert usable_processors(system(tmp_path, "0::/a/b\n", files)) == 3


def test_a_quota_of_version_1(tmp_path: Path) -> None:
    files: dict[str, object] = {
        "cpu,cpuacct/cpu.cfs_quota_us": 250000,
        "cpu,cpuacct/cpu.cfs_period_us": 100000,
    }
    own = "3:cpu,cpuacct:/\n"
    assert usable_processors(system(tmp_path, own, files)) == 3
    assert usable_processors(system(tmp_path, own, {"cpu,cpuacct/cpu.cfs_quota_us": -1})) == 16


@pytest.mark.parametrize(
    ("files", "jobs"),
    [
        ({}, 16),
        (limited(4 * JOB_MEMORY, JOB_MEMORY), 3),
        (limited(4 * JOB_MEMORY, JOB_MEMORY // 2), 3),
        (limited(JOB_MEMORY, JOB_MEMORY), 1),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "200000 100000", **limited(4 * JOB_MEMORY, 3 * JOB_MEMORY)}, 1),
    ],
    ids=["free", "memory", "half a job's memory", "none left", "processors", "both"],
)
def test_a_build_starts_no_more_workers_than_the_container_bears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, object], jobs: int
) -> None:
    root = system(tmp_path, "0::/\n", files)
    monkeypatch.setattr("aoti_build.work.schedule.available_memory", lambda: available_memory(root))
    monkeypatch.setattr(
        "aoti_build.work.schedule.usable_processors", lambda: usable_processors(root)
    )
    assert default_jobs(100) == jobs
    assert type(default_jobs(100)) is int
    # No more than there are steps.
    assert default_jobs(2) == min(jobs, 2)
    assert default_jobs(1) == 1


def test_doctor_says_what_the_container_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = system(
        tmp_path, "0::/\n", {"cpu.max": "150000 100000", **limited(2 * GIB, 3 * GIB // 2)}
    )
    monkeypatch.setattr(resources, "available_memory", lambda: available_memory(root))
    monkeypatch.setattr(resources, "usable_processors", lambda: usable_processors(root))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    finding = directories.check_memory()
    assert finding.outcome == FAIL
    assert finding.message.startswith("0.5 GiB available")
    assert "a quota has time for 2 of them" in directories.check_processors().message
