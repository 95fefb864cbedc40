"""`bench` with a worker that only pretends: rows, rounds, the gate, exit codes and bench.json."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from small_projects import (
    CUDA_MODEL,
    ONE_MODEL,
    TWO_MODELS,
    FakeWorker,
    contents,
    publish_fake,
    write_project,
)

from aoti_build.artifact.manifest import BENCH, read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.commands.bench import command
from aoti_build.commands.bench.command import Options, bench
from aoti_build.commands.bench.measure import TargetBench
from aoti_build.commands.bench.report import Benchmark, BenchReport
from aoti_build.commands.bench.target import Bencher, Measured
from aoti_build.errors import ArtifactError, BuildError, ExitCode, Interrupted, UsageError
from aoti_build.host import cuda, distributions
from aoti_build.measurement.gate import Rule, parse_limits
from aoti_build.measurement.history import read
from aoti_build.measurement.record import BenchRecord, Cache, Metric, Row, Way, read_bench
from aoti_build.measurement.statistics import PAIRS
from aoti_build.messages import BenchJob, CallsJob
from aoti_build.models_file import Project
from aoti_build.models_file.project import Target
from aoti_build.report.bench_text import bench_lines

SIZES = ONE_MODEL.replace("[2, 4]", "[batch, 4]") + (
    "    dims: {batch: {min: 1, max: 64, example: 2}}\n"
)


@dataclass
class Machine:
    """Tells the fake worker how long things take, by the way and by the directory of artifacts.

    `slower` multiplies the metrics of artifacts in directories whose path has the word. A job of a
    way in `broken` fails.
    """

    fake: FakeWorker
    steady: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    base: dict[str, float] = field(default_factory=dict)
    noise: float = 0.001
    broken: dict[str, BaseException] = field(default_factory=dict)
    jobs: list[BenchJob] = field(default_factory=list)
    _turn: Iterator[int] = field(default_factory=lambda: itertools.cycle([-1, 0, 1, 1, 0, -1, 1]))

    def during(self, job_name: str, job: Any) -> None:
        if not isinstance(job, BenchJob):
            return
        self.jobs.append(job)
        self.fake.answers["bench"] = self.broken.get(job.way) or self.answer(job)

    def answer(self, job: BenchJob) -> dict[str, Any]:
        factors = self.base if is_base(job) else {}
        wobble = 1 + self.noise * next(self._turn)
        seconds = 0.002 * self.steady.get(job.way, 1.0) * factors.get("steady", 1.0) * wobble
        first = 0.03 * self.first.get(job.way, 1.0) * factors.get("first", 1.0) * wobble
        return {
            "first_seconds": first,
            "peak_memory": int((1 << 28) * factors.get("memory", 1.0) * wobble),
            "times": [[seconds] * 5] * job.timed,
        }


def is_base(job: BenchJob) -> bool:
    return Path(job.artifacts).name == "base"


@pytest.fixture(autouse=True)
def quiet_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))


@pytest.fixture
def machine(fake_worker: FakeWorker) -> Machine:
    machine = Machine(fake_worker)
    fake_worker.during = machine.during
    return machine


@pytest.fixture
def measured(tmp_path: Path) -> Project:
    """A project whose only artifact is published."""
    project = write_project(tmp_path / "project")
    publish_fake(project)
    return project


@pytest.fixture
def release(measured: Project, tmp_path: Path) -> str:
    """A directory with an earlier artifact of the same target."""
    directory = artifact_directory(measured, measured.targets[0])
    copy = tmp_path / "release" / "small" / "cpu"
    copy.mkdir(parents=True)
    for name, content in contents(directory).items():
        (copy / name).write_bytes(content)
    return str(tmp_path / "release")


def against(release: str, fail_if: str = "", **changes: Any) -> Options:
    rule = Rule(
        limits=parse_limits(fail_if) if fail_if else {}, strict=changes.pop("strict", False)
    )
    return Options(against=release, rule=rule, **changes)


def only(report: BenchReport) -> Benchmark:
    (found,) = report.benchmarks
    return found


def record_of(report: BenchReport) -> BenchRecord:
    record = only(report).record
    assert record is not None
    return record


def row(report: BenchReport, way: Way, cache: Cache | None = None) -> Row:
    rows = record_of(report).rows
    return next(entry for entry in rows if (entry.way, entry.cache) == (way, cache))


def verdicts(report: BenchReport) -> dict[str, str]:
    return {record.metric: record.verdict for record in only(report).gated}


# Rows


def test_every_way_is_measured_with_used_and_empty_caches(
    measured: Project, machine: Machine
) -> None:
    report = bench(measured, measured.targets, Options())
    counts = {(entry.way, entry.cache): len(entry.samples) for entry in record_of(report).rows}
    assert counts == {
        (Way.ARTIFACT, Cache.USED): 8,
        (Way.ARTIFACT, Cache.EMPTY): 8,
        (Way.AOTI_LOAD_PACKAGE, Cache.USED): 3,
        (Way.AOTI_LOAD_PACKAGE, Cache.EMPTY): 1,
        (Way.EAGER, None): 8,
        (Way.COMPILE, Cache.USED): 3,
        (Way.COMPILE, Cache.EMPTY): 1,
    }
    assert (report.exit_code, report.error) == (0, None)
    assert row(report, Way.ARTIFACT, Cache.USED).samples[0].steady[0].p50 == pytest.approx(
        0.002, rel=0.01
    )
    # How fast calls are does not depend on the cache, so nothing is timed with an empty one.
    assert row(report, Way.COMPILE, Cache.EMPTY).samples[0].steady == ()


def test_rounds_alternate_in_their_order(measured: Project, machine: Machine) -> None:
    bench(measured, measured.targets, Options(ways=(Way.ARTIFACT, Way.EAGER), samples=2))
    # The first sample fills the cache.
    assert [(job.way, job.timed) for job in machine.jobs] == [
        ("artifact", 0),
        ("artifact", 1),
        ("eager", 1),
        ("eager", 1),
        ("artifact", 0),
        ("artifact", 1),
    ], "artifact, eager; eager, artifact"


def test_a_used_cache_is_the_one_that_the_first_sample_filled(
    measured: Project, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, str, bool]] = []
    real = machine.fake.__call__

    def run(job: Any, *, environment: dict[str, str], **others: Any) -> Any:
        if isinstance(job, BenchJob):
            cache = Path(environment["TORCHINDUCTOR_CACHE_DIR"])
            seen.append((job.timed == 0, str(cache), (cache / "filled").exists()))
            (cache / "filled").touch()
        return real(job, **others)

    monkeypatch.setattr("aoti_build.measurement.bench_samples.run_worker", run)
    bench(measured, measured.targets, Options(ways=(Way.ARTIFACT,), samples=3))
    empty = [entry for entry in seen if entry[0]]
    used = [entry for entry in seen if not entry[0]]
    assert [filled for _, _, filled in empty] == [False] * 3
    assert [filled for _, _, filled in used] == [True] * 3
    assert {path for _, path, _ in used} == {empty[0][1]}


def test_processes_are_pinned_and_that_is_recorded(measured: Project, machine: Machine) -> None:
    before = os.sched_getaffinity(0)
    seen: list[set[int]] = []
    during = machine.during

    def look(name: str, job: Any) -> None:
        seen.append(os.sched_getaffinity(0))
        during(name, job)

    machine.fake.during = look
    report = bench(measured, measured.targets, Options(ways=(Way.ARTIFACT,), threads=1))
    assert {frozenset(cpus) for cpus in seen} == {frozenset({min(before)})}
    assert os.sched_getaffinity(0) == before
    found = record_of(report).machine
    assert (found.threads, found.cpus) == (1, (min(before),))
    assert {job.threads for job in machine.jobs} == {1}
    assert found.facts["kernel"] == os.uname().release


def test_calls_are_timed_at_the_example_the_smallest_and_the_largest_sizes(
    tmp_path: Path, machine: Machine
) -> None:
    project = write_project(tmp_path / "sizes", SIZES)
    publish_fake(project)
    made: list[CallsJob] = []
    during = machine.during

    def look(name: str, job: Any) -> None:
        if isinstance(job, CallsJob):
            made.append(job)
        during(name, job)

    machine.fake.during = look
    report = bench(project, project.targets, Options(ways=(Way.ARTIFACT,), samples=1))
    sizes = [{"batch": 2}, {"batch": 1}, {"batch": 64}]
    assert [dict(point) for point in made[0].points] == sizes
    steady = row(report, Way.ARTIFACT, Cache.USED).samples[0].steady
    assert [dict(entry.sizes) for entry in steady] == sizes
    assert steady[2].samples_per_second == pytest.approx(64 / 0.002, rel=0.01)
    assert "batch 64" in "\n".join(bench_lines(report))


def test_a_way_that_fails_is_the_error_of_its_row(measured: Project, machine: Machine) -> None:
    machine.broken["torch.compile"] = BuildError("it broke", cause="graph break\nmore")
    report = bench(measured, measured.targets, Options(samples=2))
    broken = row(report, Way.COMPILE, Cache.EMPTY)
    assert (broken.samples, broken.error) == ((), "it broke: graph break")
    assert len(row(report, Way.EAGER).samples) == 2
    assert report.exit_code == 0
    assert "it broke: graph break" in "\n".join(bench_lines(report))


def test_an_artifact_that_fails_is_the_error_of_its_target(
    measured: Project, machine: Machine
) -> None:
    machine.broken["artifact"] = ArtifactError("torch could not load the package")
    report = bench(measured, measured.targets, Options())
    assert only(report).record is None
    assert report.exit_code == ExitCode.UNFIT_ARTIFACT
    assert "small/cpu: torch could not load the package" in str(report.error)
    assert not (artifact_directory(measured, measured.targets[0]) / BENCH).exists()
    assert {job.way for job in machine.jobs} == {"artifact"}, "nothing else is then measured"


def test_a_library_that_is_not_installed_is_a_note(
    measured: Project, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = distributions.version_of
    monkeypatch.setattr(
        distributions, "version_of", lambda name: None if name == "openvino" else real(name)
    )
    ways = (Way.ARTIFACT, Way.OPENVINO)
    report = bench(measured, measured.targets, Options(ways=ways, samples=1))
    assert only(report).notes == ("openvino was not measured: openvino is not installed",)


def test_installed_libraries_are_measured_on_request(
    measured: Project, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = distributions.version_of
    installed = {"onnxruntime": "1.30", "openvino": "2026.4"}
    monkeypatch.setattr(distributions, "version_of", lambda name: installed.get(name) or real(name))
    options = Options(ways=(Way.EAGER,), peers=True, samples=1)
    report = bench(measured, measured.targets, options)
    assert [len(row(report, way).samples) for way in (Way.ONNXRUNTIME, Way.OPENVINO)] == [1, 1]
    converted = {Path(job.converted).name for job in machine.jobs if job.converted}
    assert converted == {"small.onnx", "small.xml"}
    # A library that cannot convert the model does not stop the others.
    machine.fake.answers["peer"] = BuildError("onnxruntime cannot run this model")
    failed = bench(measured, measured.targets, options)
    assert row(failed, Way.OPENVINO).error == "onnxruntime cannot run this model"
    assert len(row(failed, Way.EAGER).samples) == 1


def test_nothing_is_made_where_nothing_was_built(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    assert bench(project, project.targets, Options()).exit_code == ExitCode.VERIFICATION_FAILED
    assert not project.artifacts.exists()


def test_what_does_not_fit_into_the_budget_is_left_out(
    measured: Project, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = artifact_directory(measured, measured.targets[0])
    # Each look at the clock takes 20 s.
    times = itertools.count(time.monotonic(), 20.0)
    slow = partial(TargetBench, clock=lambda: next(times))
    monkeypatch.setattr("aoti_build.commands.bench.target.TargetBench", slow)
    report = bench(measured, measured.targets, Options(budget=200.0))
    assert row(report, Way.ARTIFACT, Cache.EMPTY).samples
    assert row(report, Way.COMPILE, Cache.USED).error == "the budget ended before"
    assert report.exit_code == 0
    assert read_bench(directory / BENCH) == record_of(report)


def test_a_budget_without_room_for_a_sample_leaves_the_earlier_figures(
    measured: Project, machine: Machine
) -> None:
    kept = replace(measured, layout=replace(measured.layout, history="kept"))
    good = bench(kept, kept.targets, Options(ways=(Way.ARTIFACT,), samples=1))
    report = bench(kept, kept.targets, Options(budget=0.0))
    assert {entry.error for entry in record_of(report).rows} == {"the budget ended before"}
    assert report.exit_code == ExitCode.VERIFICATION_FAILED
    assert "nothing was measured: the budget ended before" in str(report.error)
    directory = artifact_directory(measured, measured.targets[0])
    assert read_bench(directory / BENCH) == record_of(good)
    assert len(read(kept.root / "kept").entries) == 1


def test_what_cannot_be_measured_takes_no_share_of_the_budget(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_project(tmp_path / "project", TWO_MODELS)
    published, missing = project.targets
    publish_fake(project, published)
    deadlines: list[float] = []
    real = Bencher.measure

    def measure(bencher: Bencher, target: Target, deadline: float) -> Measured:
        deadlines.append(deadline - time.monotonic())
        return real(bencher, target, deadline)

    monkeypatch.setattr(Bencher, "measure", measure)
    report = bench(project, (missing, published), Options(ways=(Way.EAGER,), budget=1000.0))
    assert [found.error is None for found in report.benchmarks] == [False, True]
    assert deadlines == [pytest.approx(1000.0, abs=50.0)]


def test_a_busy_host_is_a_note(
    measured: Project, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 0.0, 0.0))
    report = bench(measured, measured.targets, Options(ways=(Way.ARTIFACT,), samples=1))
    assert "kept this host busy (load 99.0" in only(report).notes[0]
    assert "note: other programs" in "\n".join(bench_lines(report))


# bench.json


def test_the_record_lies_beside_the_artifact_and_changes_nothing_else(
    measured: Project, machine: Machine
) -> None:
    directory = artifact_directory(measured, measured.targets[0])
    before = contents(directory)
    report = bench(measured, measured.targets, Options(samples=2))
    after = contents(directory)
    assert after.pop(BENCH)
    assert after == before
    assert read_bench(directory / BENCH) == record_of(report)
    assert record_of(report).key == getattr(read_manifest(directory), "key", None)


def test_an_artifact_of_another_key_gets_no_record(measured: Project, machine: Machine) -> None:
    during = machine.during

    def exchange(name: str, job: Any) -> None:
        during(name, job)
        publish_fake(measured, key="f" * 64)

    machine.fake.during = exchange
    report = bench(measured, measured.targets, Options(ways=(Way.ARTIFACT,), samples=1))
    assert "another artifact took the place" in only(report).notes[0]
    assert not (artifact_directory(measured, measured.targets[0]) / BENCH).exists()


def test_artifacts_that_cannot_be_written_are_measured_all_the_same(
    measured: Project, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, record: BenchRecord) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("aoti_build.commands.bench.record.write_bench", refuse)
    report = bench(measured, measured.targets, Options(ways=(Way.ARTIFACT,), samples=1))
    assert only(report).notes == ("bench.json was not written: Read-only file system",)
    assert report.exit_code == 0


def test_an_interruption_leaves_no_file(measured: Project, machine: Machine) -> None:
    machine.broken["eager"] = Interrupted("interrupted")
    with pytest.raises(Interrupted):
        bench(measured, measured.targets, Options())
    directory = artifact_directory(measured, measured.targets[0])
    assert not [path for path in directory.iterdir() if path.name.startswith(BENCH)]


# Targets


def test_a_missing_an_outdated_and_a_good_one(tmp_path: Path, machine: Machine) -> None:
    text = TWO_MODELS + "  third:\n    source: other.py:build\n    inputs: [{shape: [3, 4]}]\n"
    root = tmp_path / "project"
    root.mkdir()
    (root / "other.py").write_text("def build(): ...\n")
    project = write_project(root, text)
    for target in project.targets[1:]:
        publish_fake(project, target)
    manifest = artifact_directory(project, project.targets[1]) / "manifest.json"
    document = json.loads(manifest.read_text())
    assert document["target"] == "second/cpu"
    publish_fake(project, project.targets[1], source={**document["source"], "spec": {"seed": "9"}})
    report = bench(project, project.targets, Options(ways=(Way.ARTIFACT,), samples=1))
    missing, outdated, good = report.benchmarks
    assert missing.error is not None
    assert missing.error.message == "there is no artifact"
    assert outdated.error is not None
    assert "out of date" in outdated.error.message
    assert good.record is not None
    assert report.exit_code == ExitCode.VERIFICATION_FAILED
    said = str(report.error)
    assert "2 of 3 targets failed: first/cpu, second/cpu" in said
    assert "invoke build --target" in said


def test_a_damaged_artifact_is_refused(measured: Project, machine: Machine) -> None:
    (artifact_directory(measured, measured.targets[0]) / "model.pt2").write_bytes(b"x")
    report = bench(measured, measured.targets, Options())
    assert report.exit_code == ExitCode.UNFIT_ARTIFACT
    assert machine.jobs == []


def test_an_artifact_for_another_processor_is_refused(measured: Project, machine: Machine) -> None:
    manifest = publish_fake(measured)
    needs = {**manifest.requires, "cpu_features": ["of_tomorrow"]}
    publish_fake(measured, requires=needs)
    report = bench(measured, measured.targets, Options())
    assert report.exit_code == ExitCode.UNFIT_ARTIFACT
    assert "cannot run on this host" in str(report.error)
    assert machine.jobs == []


@pytest.mark.parametrize(("strict", "code"), [(False, 0), (True, 3)])
def test_a_missing_device_is_a_failure_by_strict_only(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, strict: bool, code: int
) -> None:
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ())
    project = write_project(tmp_path / "gpu", CUDA_MODEL)
    report = bench(project, project.targets, Options(rule=Rule(strict=strict)))
    assert report.exit_code == code
    assert "unavailable, no-device: cuda" in "\n".join(bench_lines(report))


# The gate


def test_what_is_compared_with_the_base_takes_turns_with_it(
    measured: Project, release: str, machine: Machine
) -> None:
    ways = (Way.ARTIFACT, Way.EAGER)
    bench(measured, measured.targets, against(release, ways=ways))
    in_turns = [is_base(job) for job in machine.jobs if job.turns]
    assert in_turns[:4] == [True, False, False, True], "the base, the artifact; then the opposite"
    assert len(in_turns) == 2 * PAIRS
    alone = {(job.way, job.timed) for job in machine.jobs if not job.turns}
    assert alone == {("artifact", 0), ("eager", 1)}


def test_packages_that_do_not_fit_into_memory_together_are_measured_one_by_one(
    measured: Project, release: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aoti_build.measurement.turns._MOST_BYTES", 1)
    report = bench(measured, measured.targets, against(release))
    assert not any(job.turns for job in machine.jobs)
    assert verdicts(report)["steady"] == "same"


def test_the_same_package_is_never_worse(measured: Project, machine: Machine, release: str) -> None:
    report = bench(measured, measured.targets, against(release))
    assert verdicts(report) == {
        "first": "same",
        "memory": "same",
        "steady": "same",
        "size": "same",
    }
    assert report.exit_code == 0
    # Base and artifact are neighbours in each round.
    timed = [is_base(job) for job in machine.jobs if job.timed]
    assert timed == [True, False, False, True] * 4


def test_a_slower_artifact_fails_and_the_error_says_by_how_much(
    measured: Project, machine: Machine, release: str
) -> None:
    machine.base = {"steady": 1 / 1.1}
    report = bench(measured, measured.targets, against(release))
    assert verdicts(report) == {
        "first": "same",
        "memory": "same",
        "steady": "worse",
        "size": "same",
    }
    assert report.exit_code == ExitCode.VERIFICATION_FAILED
    assert "worse (8 pairs)" in "\n".join(bench_lines(report))
    said = str(report.error)
    assert "1 of 1 target did not pass: small/cpu" in said
    assert "steady is worse: 1.100 (1.0" in said
    assert f"times that of {release}" in said
    directory = artifact_directory(measured, measured.targets[0])
    written = read_bench(directory / BENCH)
    assert written is not None
    assert written.base is not None
    assert len(written.base.samples) == 8
    assert written.base.comparisons == only(report).gated


@pytest.mark.parametrize(
    ("fail_if", "verdict", "code"),
    [
        ("steady>1.05", "worse", 3),
        ("steady>1.2", "same", 0),
        ("steady>2.5", "same", 0),
        ("first>1.2", "worse", 0),
        ("first>1.2,steady>1.05", "worse", 3),
    ],
)
def test_only_what_is_above_its_limit_fails(
    measured: Project, machine: Machine, release: str, fail_if: str, verdict: str, code: int
) -> None:
    machine.base = {"steady": 1 / 1.1}
    report = bench(measured, measured.targets, against(release, fail_if))
    assert verdicts(report)["steady"] == verdict
    assert report.exit_code == code


def test_noise_leads_to_more_pairs_and_then_to_unknown(
    measured: Project, machine: Machine, release: str
) -> None:
    machine.noise = 0.15
    report = bench(measured, measured.targets, against(release))
    assert verdicts(report)["steady"] == "unknown"
    steady = next(record for record in only(report).gated if record.metric == Metric.STEADY)
    assert steady.pairs == 16
    assert "this host is too noisy" in str(steady.why)
    assert report.exit_code == 0
    strict = bench(measured, measured.targets, against(release, strict=True))
    assert strict.exit_code == ExitCode.VERIFICATION_FAILED
    assert "steady is unknown" in str(strict.error)


def test_a_host_that_is_too_noisy_tells_nothing(
    measured: Project, machine: Machine, release: str
) -> None:
    machine.noise = 0.1
    report = bench(measured, measured.targets, against(release))
    steady = next(record for record in only(report).gated if record.metric == Metric.STEADY)
    assert steady.verdict == "unknown"
    assert "this host is too noisy" in str(steady.why)
    band = record_of(report).machine.band
    assert band is not None
    assert band > 0.03


def test_a_line_of_the_history_for_each_benchmark(measured: Project, machine: Machine) -> None:
    kept = replace(measured, layout=replace(measured.layout, history="kept"))
    for _ in range(2):
        bench(kept, kept.targets, Options(ways=(Way.ARTIFACT,), samples=1))
    entries = read(kept.root / "kept").entries
    assert [entry.target for entry in entries] == ["small/cpu"] * 2
    assert entries[0].key == record_of(bench(kept, kept.targets, Options(samples=1))).key


def test_a_history_that_cannot_be_written_is_said_before_the_measurement(
    measured: Project, machine: Machine
) -> None:
    (measured.root / "kept").write_text("a file")
    kept = replace(measured, layout=replace(measured.layout, history="kept"))
    with pytest.raises(UsageError, match="cannot be written"):
        bench(kept, kept.targets, Options())
    assert machine.jobs == []


def test_an_interruption_keeps_what_was_measured_before(tmp_path: Path, machine: Machine) -> None:
    project = write_project(tmp_path / "project", TWO_MODELS)
    project = replace(project, layout=replace(project.layout, history="kept"))
    first, second = project.targets
    publish_fake(project, first)
    publish_fake(project, second)
    during = machine.during

    def interrupt(name: str, job: Any) -> None:
        during(name, job)
        if isinstance(job, BenchJob) and job.target.name == second.name:
            raise Interrupted("interrupted")

    machine.fake.during = interrupt
    with pytest.raises(Interrupted):
        bench(project, project.targets, Options(ways=(Way.ARTIFACT,), samples=1))
    assert [entry.target for entry in read(project.root / "kept").entries] == [first.name]


def test_a_line_that_cannot_be_written_does_not_hide_the_figures(
    measured: Project, machine: Machine
) -> None:
    kept = replace(measured, layout=replace(measured.layout, history="kept"))
    (kept.root / "kept").mkdir()
    (kept.root / "kept" / "small").write_text("a file in the place of a directory")
    report = bench(kept, kept.targets, Options(ways=(Way.ARTIFACT,), samples=1))
    assert report.exit_code == ExitCode.USAGE
    assert "cannot be written" in str(report.error)
    assert "first" in "\n".join(bench_lines(report))


def test_a_gate_without_a_pair_has_not_passed(
    measured: Project, machine: Machine, release: str
) -> None:
    report = bench(measured, measured.targets, against(release, budget=0.0))
    assert verdicts(report) == {"size": "same"}
    assert report.exit_code == ExitCode.VERIFICATION_FAILED
    assert f"nothing was compared with {release}: the budget ended before" in str(report.error)


def test_a_base_that_cannot_be_loaded_is_an_error(
    measured: Project, machine: Machine, release: str
) -> None:
    during = machine.during

    def fail(name: str, job: Any) -> None:
        during(name, job)
        if isinstance(job, BenchJob) and is_base(job):
            machine.fake.answers["bench"] = ArtifactError("the base cannot be loaded")

    machine.fake.during = fail
    report = bench(measured, measured.targets, against(release))
    assert report.exit_code == ExitCode.UNFIT_ARTIFACT
    assert "the base cannot be loaded" in str(report.error)


def test_a_base_without_the_target_is_an_error_of_the_target(
    measured: Project, machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    report = bench(measured, measured.targets, against(str(tmp_path / "empty")))
    assert report.exit_code == ExitCode.USAGE
    assert "empty has no artifact of small/cpu" in str(report.error)


def test_limits_without_a_base_are_wrong_usage(measured: Project) -> None:
    rule = Rule(limits={Metric.STEADY: 1.05})
    with pytest.raises(UsageError, match="there is none"):
        bench(measured, measured.targets, Options(rule=rule))


def test_several_targets_are_judged_together(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_project(tmp_path / "project", TWO_MODELS)
    for target in project.targets:
        publish_fake(project, target)
        copy = tmp_path / "release" / target.model.name / target.variant
        copy.mkdir(parents=True)
        for name, content in contents(artifact_directory(project, target)).items():
            (copy / name).write_bytes(content)
    asked: list[int] = []
    real = command.answers

    def counting(questions: Any, *others: Any) -> Any:
        asked.append(len(questions))
        return real(questions, *others)

    monkeypatch.setattr(command, "answers", counting)
    machine.base = {"first": 0.5}
    report = bench(project, project.targets, against(str(tmp_path / "release")))
    assert asked == [6]
    for found in report.benchmarks:
        assert {record.metric: record.verdict for record in found.gated}["first"] == "worse"
        assert found.record is not None
        assert read_bench(artifact_directory(project, found.target) / BENCH) == found.record
