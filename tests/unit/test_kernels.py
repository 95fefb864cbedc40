"""Kernels and autotuning results are given back as they were kept, or not at all; `gc` takes them
like all else."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from small_projects import ONE_MODEL, publish_fake, store_of, write_project

from aoti_build.artifact.paths import stat_cache_path
from aoti_build.commands.gc import gc
from aoti_build.common.digests import digest_json
from aoti_build.common.stat_cache import StatCache
from aoti_build.errors import BuildError
from aoti_build.messages import BuildJob, BuildResult
from aoti_build.models_file import Project
from aoti_build.planning.plan import Step
from aoti_build.store.kernels import KERNELS_VARIABLE, KernelCache, tuning_files, write_tuning
from aoti_build.store.local import LocalStore
from aoti_build.work.context import BuildContext
from aoti_build.work.gpu import gpu_environment
from aoti_build.work.target import TargetBuilder

KEY = "4IKIFY3STH2IBPJGBL2RFAMLELZAXGM6B7X6EQPCOXEQDZFJNSBA"
FILES = {"double.cubin": b"\x7fELF\0code", "double.json": b'{"shared": 0}'}
RECORD = {
    "format": "aoti-build/tuning",
    "format_version": 1,
    "digest": digest_json({}),
    "files": {},
}
TIMINGS, BEST = f"cache/{'0' * 64}", f"ab/{'c' * 51}.best_config"


@pytest.fixture
def cache(tmp_path: Path) -> KernelCache:
    return KernelCache(tmp_path / "kernels" / "toolchain")


@pytest.fixture
def kept(cache: KernelCache) -> Path:
    """The file of a kernel in the cache."""
    cache.add(KEY, FILES)
    (path,) = cache.directory.glob("*/*.kernel")
    return path


def test_a_kernel_is_given_back_as_it_was_kept(cache: KernelCache, kept: Path) -> None:
    assert cache.fetch(KEY) == FILES
    assert cache.fetch("OTHER") is None


def test_processes_find_the_cache_that_the_environment_names(
    cache: KernelCache, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, str(cache.directory))
    named = KernelCache.of_environment()
    assert named is not None
    assert named.fetch(KEY) == FILES
    monkeypatch.setenv(KERNELS_VARIABLE, "")
    assert KernelCache.of_environment() is None


def test_a_file_with_the_right_digest_that_is_no_archive_is_a_miss(
    cache: KernelCache, kept: Path
) -> None:
    kept.write_bytes(sha256(b"no archive").digest() + b"no archive")
    assert cache.fetch(KEY) is None


def test_timings_that_are_not_json_are_replaced(cache: KernelCache) -> None:
    cache.add_tuning("gpu", {TIMINGS: "{"})
    cache.add_tuning("gpu", {TIMINGS: '{"a": 1}'})
    assert cache.tuning("gpu") == {TIMINGS: '{"a": 1}'}


@pytest.mark.parametrize("position", [0, 40, -1])
def test_a_corrupted_kernel_is_a_miss_and_can_be_kept_again(
    cache: KernelCache, kept: Path, position: int
) -> None:
    data = bytearray(kept.read_bytes())
    data[position] ^= 1
    kept.write_bytes(data)
    assert cache.fetch(KEY) is None
    cache.add(KEY, FILES)
    assert cache.fetch(KEY) == FILES


def test_half_a_kernel_is_a_miss(cache: KernelCache, kept: Path) -> None:
    kept.write_bytes(kept.read_bytes()[:20])
    assert cache.fetch(KEY) is None


def test_no_file_leaves_the_directory_it_is_written_to(cache: KernelCache) -> None:
    cache.add(KEY, {**FILES, "../elsewhere": b"", "/etc/elsewhere": b""})
    assert cache.fetch(KEY) == FILES


def test_a_disk_that_cannot_be_written_to_costs_nothing_but_the_shortcut(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = KernelCache(tmp_path / "file")
    cache.add(KEY, FILES)
    cache.add_tuning("gpu", {BEST: "{}"})
    assert (cache.fetch(KEY), cache.tuning("gpu")) == (None, {})


def test_measurements_of_two_builds_are_united_and_the_newer_wins(cache: KernelCache) -> None:
    first = {"cache": {"mm": {"a": {"one": 1.0, "two": float("inf")}}}}
    second = {"cache": {"mm": {"a": {"one": 3.0}, "b": {"one": 4.0}}, "convolution": {}}}
    cache.add_tuning("gpu", {TIMINGS: json.dumps(first), BEST: "old"})
    cache.add_tuning("gpu", {TIMINGS: json.dumps(second), BEST: "new"})
    found = cache.tuning("gpu")
    both = {"mm": {"a": {"one": 3.0, "two": float("inf")}, "b": {"one": 4.0}}, "convolution": {}}
    assert json.loads(found[TIMINGS]) == {"cache": both}
    assert found[BEST] == "new"
    assert cache.tuning("another gpu") == {}


def test_builds_that_end_at_once_lose_nothing(cache: KernelCache) -> None:
    names = [f"ab/{number:032}.best_config" for number in range(20)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: cache.add_tuning("gpu", {name: "{}"}), names))
    assert sorted(cache.tuning("gpu")) == names


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[]",
        "{",
        json.dumps(
            {
                "format": "aoti-build/tuning",
                "format_version": 2,
                "digest": digest_json({}),
                "files": {},
            }
        ),
        json.dumps(
            {
                "format": "aoti-build/tuning",
                "format_version": 1,
                "digest": digest_json({}),
                "files": {BEST: ""},
            }
        ),
    ],
)
def test_unknown_and_altered_measurements_are_a_miss(cache: KernelCache, record: str) -> None:
    (cache.directory / "tuning").mkdir(parents=True)
    (cache.directory / "tuning" / "gpu.json").write_text(record)
    assert cache.tuning("gpu") == {}


def test_only_results_of_autotuning_travel_from_one_inductor_cache_to_the_next(
    cache: KernelCache, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    write_tuning(old, {TIMINGS: "{}", BEST: "{}", "ab/cdef.so": "code", "ab/cdef.cpp": "code"})
    assert tuning_files(old) == {TIMINGS: "{}", BEST: "{}"}
    cache.add_tuning("gpu", {**tuning_files(old), "../escape": "{}"})
    write_tuning(new, cache.tuning("gpu"))
    assert sorted(
        path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file()
    ) == [BEST, TIMINGS]


def test_what_only_looks_like_a_result_of_autotuning_stays(tmp_path: Path) -> None:
    write_tuning(tmp_path, {TIMINGS: "{}", BEST: "{}", "cache/a lock": "", "AB/x.best_config": ""})
    (tmp_path / f"cd/{'e' * 51}.best_config").mkdir(parents=True)
    assert tuning_files(tmp_path) == {TIMINGS: "{}", BEST: "{}"}


def test_gc_takes_the_kernels_that_were_not_used_for_long(project: Project) -> None:
    cache = KernelCache(store_of(project).kernels({"toolchain": {"torch": "2"}, "environment": {}}))
    for key in ("AAAA", "BBBB"):
        cache.add(key, FILES)
    cache.add_tuning("gpu", {BEST: "{}"})
    day = time.time() - 86400
    for path in cache.directory.rglob("*.*"):
        os.utime(path, (day, day))
    assert cache.fetch("BBBB") is not None  # which is a use
    report = gc(project, max_age=3600)
    assert (report.removed, report.kept) == (2, 1)
    assert (cache.fetch("AAAA"), cache.fetch("BBBB"), cache.tuning("gpu")) == (None, FILES, {})


def test_each_toolchain_has_its_own(
    store_root_parts: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    store, parts = LocalStore(tmp_path), store_root_parts
    other = {**parts, "toolchain": {**parts["toolchain"], "ptxas": "13.0"}}
    tuned = {**parts, "environment": {"TRITON_DEFAULT_FP_FUSION": "0"}}
    assert len({store.kernels(each) for each in (parts, other, tuned)}) == 3


@pytest.fixture
def store_root_parts() -> dict[str, dict[str, str]]:
    return {"toolchain": {"torch": "2", "ptxas": "12.8"}, "environment": {}}


@pytest.fixture
def on_gpu(tmp_path: Path) -> Project:
    return write_project(tmp_path / "gpu", ONE_MODEL + "    devices: [cuda]\n")


def test_one_assembler_for_all_processes_and_what_the_user_set_stays(
    on_gpu: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda = on_gpu.targets[0]
    for name in ("TRITON_PTXAS_PATH", "TRITON_CACHE_MANAGER", "TRITON_DISABLE_LINE_INFO"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("aoti_build.host.cuda.ptxas", lambda: "/opt/ptxas")
    with_store = gpu_environment(cuda, tmp_path)
    assert with_store["TRITON_PTXAS_PATH"] == "/opt/ptxas"
    assert with_store[KERNELS_VARIABLE] == str(tmp_path)
    assert "TRITON_CACHE_MANAGER" in with_store
    monkeypatch.setenv("TRITON_PTXAS_PATH", "/my/ptxas")
    assert "TRITON_PTXAS_PATH" not in gpu_environment(cuda, tmp_path)
    assert gpu_environment(replace(cuda, device="cpu"), tmp_path) == {}


def test_builds_share_kernels_and_a_reproduction_compiles_its_own(
    on_gpu: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aoti_build.host.cuda.compute_capabilities", lambda: ("9.0",))
    told: list[str] = []

    def worker(job: BuildJob, *, environment: Mapping[str, str], **_: Any) -> BuildResult:
        told.append(environment[KERNELS_VARIABLE])
        raise BuildError("far enough")

    monkeypatch.setattr("aoti_build.work.target.run_worker", worker)
    context = BuildContext(on_gpu, StatCache(stat_cache_path(on_gpu)), store_of(on_gpu))
    step = Step(on_gpu.targets[0], "build", (), manifest=publish_fake(on_gpu))
    with pytest.raises(BuildError, match="far enough"):
        TargetBuilder(context).build(step, from_nothing=True)
    with pytest.raises(BuildError, match="far enough"):
        TargetBuilder(context).reproduce(step)
    assert Path(told[0]).parent == store_of(on_gpu).root / "kernels"
    assert told[1] == ""
