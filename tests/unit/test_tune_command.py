"""`tune` with a worker that only pretends: candidates, what counts, the budget, and tuned.yaml."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from small_projects import CUDA_MODEL, ONE_MODEL, FakeWorker, inv, write_project

from aoti_build.artifact.paths import artifact_directory, log_path, tuning_path
from aoti_build.commands.build import build
from aoti_build.commands.tune import candidates as tune_candidates
from aoti_build.commands.tune.candidates import PRECISION, candidates, thread_counts
from aoti_build.commands.tune.command import tune
from aoti_build.commands.tune.measure import relative_rmse
from aoti_build.commands.tune.report import Outcome, TuneReport, Tuning
from aoti_build.errors import ArtifactError, BuildError, ExitCode, UsageError
from aoti_build.host import cpu, cuda, distributions
from aoti_build.host.devices import device_named
from aoti_build.measurement.statistics import PAIRS, Verdict
from aoti_build.messages import BuildJob, MeasureJob, PeerJob
from aoti_build.models_file import Project
from aoti_build.models_file.parsing.tuned_file import parse_tuned
from aoti_build.models_file.project import Choice, TensorInput
from aoti_build.report.tune_text import tune_lines
from aoti_build.work.crash import crash_of

PRESET = "inductor_configs: {mine: {coordinate_descent_tuning: true}}\n"
MODELS = ONE_MODEL.replace("models:", f"{PRESET}models:", 1) + "    inductor_configs: tuned\n"
Settings = frozenset[tuple[str, Any]]


@dataclass
class Machine:
    """Tells the fake worker how long a call takes, by what the artifact was built with.

    `factors` multiply the time for each option that is set. A job fails with the error of
    `broken`, by the name of the job and an option.
    """

    fake: FakeWorker
    factors: dict[str, float] = field(default_factory=dict)
    broken: dict[tuple[str, str], BaseException] = field(default_factory=dict)
    jobs: list[MeasureJob | PeerJob] = field(default_factory=list)
    built: list[Mapping[str, Any]] = field(default_factory=list)
    peers: dict[str, float] = field(default_factory=dict)
    formats: dict[str, float] = field(default_factory=dict)
    _noise: Any = field(default_factory=lambda: itertools.cycle([0.999, 1.0, 1.001]))

    def during(self, job_name: str, job: Any) -> None:
        self.fake.answers.pop(job_name, None)
        options = dict(job.target.inductor_config) if hasattr(job, "target") else {}
        for (broken_job, option), error in self.broken.items():
            if broken_job == job_name and option in {*options, getattr(job, "library", "")}:
                self.fake.answers[job_name] = error
        if isinstance(job, BuildJob):
            self.built.append(options)
        if isinstance(job, MeasureJob | PeerJob):
            self.jobs.append(job)
            if job_name not in self.fake.answers:
                self.fake.answers[job_name] = {"median": self.seconds(job, options)}

    def seconds(self, job: Any, options: Mapping[str, Any]) -> float:
        seconds = 0.010 * next(self._noise)
        if isinstance(job, PeerJob):
            return seconds * self.peers[job.library]
        for option in options:
            seconds *= self.factors.get(option, 1.0)
        return float(seconds * self.formats.get(job.target.model.memory_format, 1.0))


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with one processor, so that no number of threads is tried."""
    monkeypatch.setattr(type(device_named("cpu")), "host_class", lambda _: "this-host")
    monkeypatch.setattr(tune_candidates, "physical_cores", lambda: 1)
    monkeypatch.setattr(tune_candidates, "processors", lambda: 1)


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_candidates, "physical_cores", lambda: 2)
    monkeypatch.setattr(tune_candidates, "processors", lambda: 2)


@pytest.fixture
def machine(fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """One job runs at a time."""
    monkeypatch.setattr("aoti_build.commands.tune.measure.default_jobs", lambda _: 1)
    machine = Machine(fake_worker)
    fake_worker.during = machine.during
    return machine


@pytest.fixture
def tunable(tmp_path: Path) -> Project:
    return write_project(tmp_path / "project", MODELS)


def only(report: TuneReport) -> Tuning:
    (tuning,) = report.tunings
    return tuning


def verdicts(tuning: Tuning) -> dict[str, Verdict]:
    found = {}
    for row in (*tuning.rows, *tuning.peers):
        if row.comparison is not None:
            found[row.name] = row.comparison.verdict
    return found


def tuned_file(project: Project) -> dict[str, dict[str, Choice]]:
    entries = parse_tuned((project.root / "tuned.yaml").read_bytes())
    return {name: {host: e.choice for host, e in hosts.items()} for name, hosts in entries.items()}


# Candidates


@pytest.mark.usefixtures("two_cores")
def test_the_candidates_are_presets_and_built_in_ones_and_both_with_threads(
    tunable: Project,
) -> None:
    found = candidates(tunable, tunable.targets[0], ())
    assert [(one.name, dict(one.choice.options)) for one in found] == [
        ("mine", {"coordinate_descent_tuning": True}),
        ("freezing", {"freezing": True}),
        ("default, 1 thread", {"cpp.threads": 1}),
        ("mine, 1 thread", {"coordinate_descent_tuning": True, "cpp.threads": 1}),
        ("freezing, 1 thread", {"freezing": True, "cpp.threads": 1}),
        ("max-autotune", {"max_autotune": True}),
        ("freezing+max-autotune", {"freezing": True, "max_autotune": True}),
        ("max-autotune, 1 thread", {"max_autotune": True, "cpp.threads": 1}),
        (
            "freezing+max-autotune, 1 thread",
            {"freezing": True, "max_autotune": True, "cpp.threads": 1},
        ),
    ]
    assert len({one.target.name for one in found}) == len(found)


def test_what_equals_the_default_or_another_one_is_no_candidate(tmp_path: Path) -> None:
    presets = "inductor_configs: {default: {freezing: true}, f: {freezing: true}, none: {}}\n"
    project = write_project(tmp_path / "p", MODELS.replace(PRESET, presets))
    found = candidates(project, project.targets[0], ())
    assert [one.name for one in found] == ["none", "max-autotune"]
    assert found[1].choice.options == {"freezing": True, "max_autotune": True}


@pytest.mark.parametrize(
    ("cores", "usable", "counts"),
    [(2, 2, [1]), (2, 4, [2, 1]), (1, 1, []), (None, 8, [4]), (1, 2, [1]), (16, 32, [16, 8])],
)
def test_threads_are_those_of_the_cores_and_half_of_them(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, usable: int, counts: list[int]
) -> None:
    monkeypatch.setattr(tune_candidates, "physical_cores", lambda: cores)
    monkeypatch.setattr(tune_candidates, "processors", lambda: usable)
    assert thread_counts() == counts


def test_two_threads_of_a_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    for number in range(4):
        topology = tmp_path / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        first = number // 2 * 2
        (topology / "thread_siblings_list").write_text(f"{first}-{first + 1}\n")
    assert cpu.physical_cores(tmp_path) == 2
    assert cpu.physical_cores(tmp_path / "absent") is None


def test_a_lower_precision_is_tried_only_if_allowed(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p", CUDA_MODEL)
    target = project.targets[0]
    assert [one.name for one in candidates(project, target, ())] == ["max-autotune"]
    found = candidates(project, target, PRECISION)
    assert [one.name for one in found] == [
        "default, tf32",
        "default, reduced_precision",
        "max-autotune",
        "max-autotune, tf32",
        "max-autotune, reduced_precision",
    ]
    assert [one.lowers_precision for one in found] == [True, True, False, True, True]
    assert found[0].target.model.cuda.tf32


def test_a_memory_format_is_tried_where_an_input_has_its_rank(tmp_path: Path) -> None:
    image = MODELS.replace(PRESET, "").replace("[2, 4]", "[2, 3, 8, 8]")
    project = write_project(tmp_path / "p", image)
    found = candidates(project, project.targets[0], ())
    assert [one.name for one in found] == [
        "freezing",
        "default, channels_last",
        "freezing, channels_last",
        "max-autotune",
        "freezing+max-autotune",
        "max-autotune, channels_last",
        "freezing+max-autotune, channels_last",
    ], "those that search for kernels take the longest and are last"
    model = found[2].target.model
    assert model.memory_format == "channels_last"
    assert isinstance(model.inputs, tuple)
    assert isinstance(model.inputs[0], TensorInput)
    assert model.inputs[0].memory_format == "channels_last"
    own = write_project(tmp_path / "own", image + "    memory_format: contiguous\n")
    assert len(candidates(own, own.targets[0], ())) == 3


def test_a_chosen_memory_format_is_built_and_pays_for_its_copy(
    tmp_path: Path, machine: Machine
) -> None:
    image = MODELS.replace(PRESET, "").replace("[2, 4]", "[2, 3, 8, 8]")
    project = write_project(tmp_path / "p", image)
    machine.formats = {"channels_last": 0.5}
    tuning = only(tune(project, project.targets))
    assert tuning.chosen is not None
    assert "channels_last" in tuning.chosen
    jobs = [job for job in machine.jobs if isinstance(job, MeasureJob)]
    assert {job.contiguous_inputs for job in jobs if job.target.model.memory_format} == {True}
    assert {job.contiguous_inputs for job in jobs if not job.target.model.memory_format} == {False}
    (target,) = write_project(project.root, image).targets
    assert target.model.memory_format == "channels_last"


@pytest.mark.parametrize("kind", ["bf16", "int8", "tf23"])
def test_a_precision_that_cannot_be_tried_is_a_usage_error(tunable: Project, kind: str) -> None:
    with pytest.raises(UsageError, match=kind):
        tune(tunable, tunable.targets, allowed=(kind,))


# The command


@pytest.mark.usefixtures("two_cores")
def test_the_fastest_of_the_better_ones_is_written(tunable: Project, machine: Machine) -> None:
    machine.factors = {"freezing": 0.8, "cpp.threads": 1.2, "coordinate_descent_tuning": 0.9}
    report = tune(tunable, tunable.targets)
    tuning = only(report)
    assert verdicts(tuning)["freezing"] == Verdict.BETTER
    assert verdicts(tuning)["mine"] == Verdict.BETTER
    assert verdicts(tuning)["max-autotune"] == Verdict.SAME
    assert verdicts(tuning)["default, 1 thread"] == Verdict.WORSE
    # With max-autotune it is as fast within the noise. The one that changes less is chosen.
    assert verdicts(tuning)["freezing+max-autotune"] == Verdict.BETTER
    assert tuning.chosen == "freezing"
    choice = tuned_file(tunable)["small/cpu-tuned"]["this-host"]
    assert choice.options["freezing"] is True
    assert (report.exit_code, report.changes) == (0, {"small/cpu-tuned": "written"})
    row = tuning.row("freezing")
    assert row.seconds == pytest.approx(0.008, rel=0.01)
    assert row.samples == PAIRS
    assert tuning.rows[0].samples == PAIRS, "the first sample of all is left out"
    assert row.comparison is not None
    assert row.comparison.ratio == pytest.approx(0.8, rel=0.01)


def test_a_build_then_takes_the_choice_from_the_store(tunable: Project, machine: Machine) -> None:
    machine.factors = {"freezing": 0.5}
    tune(tunable, tunable.targets)
    machine.built.clear()
    project = write_project(tunable.root, MODELS)
    report = build(project, project.targets)
    assert [outcome.action for outcome in report.outcomes] == ["restored"]
    assert machine.built == []


def test_a_second_run_builds_nothing(tunable: Project, machine: Machine) -> None:
    tune(tunable, tunable.targets)
    assert len(machine.built) == 5
    machine.built.clear()
    tune(tunable, tunable.targets)
    assert machine.built == []


def test_without_a_difference_no_entry_is_written_and_an_old_one_is_removed(
    tunable: Project, machine: Machine
) -> None:
    report = tune(tunable, tunable.targets)
    assert (only(report).chosen, report.exit_code) == (None, 0)
    assert not (tunable.root / "tuned.yaml").exists()
    assert "no difference" in "\n".join(tune_lines(report))
    machine.factors = {"freezing": 0.8}
    tune(tunable, tunable.targets)
    machine.factors = {}
    project = write_project(tunable.root, MODELS)
    report = tune(project, project.targets)
    assert report.changes == {"small/cpu-tuned": "removed"}
    assert tuned_file(tunable) == {}


def test_entries_of_others_stay(tunable: Project, machine: Machine) -> None:
    machine.factors = {"freezing": 0.8}
    tune(tunable, tunable.targets)
    file = tunable.root / "tuned.yaml"
    text = file.read_text().replace("this-host", "other-host")
    file.write_text(text)
    project = write_project(tunable.root, MODELS)
    tune(project, project.targets)
    assert set(tuned_file(tunable)["small/cpu-tuned"]) == {"this-host", "other-host"}


@pytest.mark.parametrize("job", ["build", "check", "measure"])
def test_a_candidate_that_fails_is_listed_and_does_not_count(
    tunable: Project, machine: Machine, job: str
) -> None:
    machine.factors = {"freezing": 0.5, "max_autotune": 0.8}
    error: BaseException = BuildError("it differs from eager", cause="7 of 8\nmore")
    if job == "measure":
        error = crash_of(-11, tunable.root / "log")
    machine.broken = {(job, "freezing"): error}
    tuning = only(tune(tunable, tunable.targets))
    row = tuning.row("freezing")
    assert (row.outcome, row.comparison) == (Outcome.FAILED, None)
    assert tuning.chosen == "max-autotune"
    if job == "build":
        assert row.why == "it differs from eager: 7 of 8"
        failed = candidates(tunable, tunable.targets[0], ())[1]
        assert log_path(tunable, failed.target).exists(), "its log stays"


def test_without_the_default_nothing_is_compared(tunable: Project, machine: Machine) -> None:
    (tunable.root / "tuned.yaml").write_text("version: 1\ntargets: {}\n")
    machine.fake.answers["build small"] = BuildError("no export")
    report = tune(tunable, tunable.targets)
    assert report.exit_code == ExitCode.BUILD_FAILED
    assert machine.jobs == []
    assert report.changes == {"small/cpu-tuned": "unchanged"}
    assert "no export" in "\n".join(tune_lines(report))


def test_candidates_are_measured_as_services_load_them_from_a_private_directory(
    tunable: Project, machine: Machine
) -> None:
    tune(tunable, tunable.targets, cuda_graphs=True)
    # A CPU package has no graphs.
    assert not any(job.cuda_graphs for job in machine.jobs if isinstance(job, MeasureJob))
    private = tuning_path(tunable)
    assert {Path(job.artifacts) for job in machine.jobs if isinstance(job, MeasureJob)} == {private}
    assert not private.exists()
    assert not artifact_directory(tunable, tunable.targets[0]).exists()
    assert not list(tunable.artifacts.glob("small")), "nothing was published"


def test_a_link_in_the_place_of_the_private_directory_is_not_followed(
    tunable: Project, machine: Machine, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("")
    tunable.artifacts.mkdir(exist_ok=True)
    tuning_path(tunable).symlink_to(elsewhere)
    seen: list[list[Path]] = []
    machine.fake.during = lambda name, job: seen.append(sorted(elsewhere.iterdir()))
    tune(tunable, tunable.targets)
    assert seen
    assert all(found == [elsewhere / "kept"] for found in seen)
    assert (elsewhere / "kept").exists()


class Clock:
    """A clock that jobs push forward."""

    def __init__(self, machine: Machine, seconds: Mapping[str, float]) -> None:
        self.now = 1000.0
        self.seconds = seconds
        self.next: Callable[[str, Any], None] = machine.during
        machine.fake.during = self.during

    def during(self, job_name: str, job: Any) -> None:
        self.now += self.seconds.get(job_name, 0.0)
        self.next(job_name, job)


@pytest.fixture
def clock(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A build takes 10 seconds and a sample 1."""
    clock = Clock(machine, {"build": 10.0, "measure": 1.0})
    for module in ("command", "measure"):
        monkeypatch.setattr(f"aoti_build.commands.tune.{module}.time.monotonic", lambda: clock.now)
    return clock


def test_the_budget_bounds_builds_and_samples(
    tunable: Project, machine: Machine, clock: Clock
) -> None:
    machine.factors = {"freezing": 0.5}
    report = tune(tunable, tunable.targets, budget=60)
    tuning = only(report)
    # Three builds fit into 60 % of the budget, and 8 samples of each into the rest.
    assert len(machine.built) == 3
    assert clock.now <= 1060
    outcomes = [row.outcome for row in tuning.rows]
    assert outcomes == [Outcome.MEASURED] * 3 + [Outcome.UNTRIED] * 2
    assert tuning.chosen == "freezing"
    assert "untried: the budget ended before" in "\n".join(tune_lines(report))
    assert clock.now - 1000 == pytest.approx(report.seconds)


@pytest.mark.usefixtures("clock")
def test_a_budget_that_reaches_nothing_leaves_the_entry(tunable: Project, machine: Machine) -> None:
    machine.factors = {"freezing": 0.5}
    tune(tunable, tunable.targets, budget=1000)
    before = (tunable.root / "tuned.yaml").read_text()
    project = write_project(tunable.root, MODELS)
    report = tune(project, project.targets, budget=5)
    assert report.changes == {"small/cpu-tuned": "unchanged"}
    assert (tunable.root / "tuned.yaml").read_text() == before


@pytest.mark.usefixtures("clock")
def test_the_present_choice_is_tried_first(tunable: Project, machine: Machine) -> None:
    machine.factors = {"freezing": 0.5, "max_autotune": 0.9}
    tune(tunable, tunable.targets, budget=1000)
    project = write_project(tunable.root, MODELS)
    first = candidates(project, project.targets[0], ())[0]
    assert first.name == "freezing+max-autotune"


def test_a_model_without_a_tuned_target_is_told_how_to_use_the_choice(
    tmp_path: Path, machine: Machine
) -> None:
    machine.factors = {"freezing": 0.5}
    project = write_project(tmp_path / "p", ONE_MODEL)
    report = tune(project, project.targets)
    assert "small/cpu-tuned" in tuned_file(project)
    assert "add `tuned` to inductor_configs of small" in "\n".join(tune_lines(report))


def test_variants_of_one_model_are_tuned_once(tmp_path: Path, machine: Machine) -> None:
    text = MODELS.replace("inductor_configs: tuned", "inductor_configs: [default, mine, tuned]")
    project = write_project(tmp_path / "p", text)
    assert [one.target.name for one in tune(project, project.targets).tunings] == [
        "small/cpu-tuned"
    ]


def test_a_preset_with_the_name_tuned_is_in_the_way(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p", MODELS.replace("mine:", "tuned:"))
    with pytest.raises(UsageError, match="preset with the name tuned"):
        tune(project, project.targets)


def test_a_host_without_the_device_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "compute_capabilities", tuple)
    project = write_project(tmp_path / "p", CUDA_MODEL)
    report = tune(project, project.targets)
    assert isinstance(only(report).error, ArtifactError)
    assert report.exit_code == ExitCode.UNFIT_ARTIFACT


# Other libraries


def test_peers_are_compared_and_never_chosen(
    tunable: Project, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"onnxruntime": "1.30", "openvino": None}
    real = distributions.version_of
    monkeypatch.setattr(
        distributions,
        "version_of",
        lambda name: versions[name] if name in versions else real(name),
    )
    machine.peers = {"onnxruntime": 0.5}
    tuning = only(tune(tunable, tunable.targets, peers=True))
    assert verdicts(tuning)["onnxruntime"] == Verdict.BETTER
    assert tuning.chosen is None
    assert tuning.notes == ("openvino is not installed, so it was not compared",)
    assert [row.samples for row in tuning.peers] == [PAIRS], "the sample that converts is left out"


def test_a_peer_that_fails_does_not_end_the_comparison(
    tunable: Project, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributions, "version_of", lambda _: "1.0")
    machine.broken = {("peer", "openvino"): BuildError("openvino cannot run this model")}
    machine.peers = {"onnxruntime": 2.0}
    machine.factors = {"freezing": 0.5}
    tuning = only(tune(tunable, tunable.targets, peers=True))
    assert [row.outcome for row in tuning.peers] == [Outcome.MEASURED, Outcome.FAILED]
    assert verdicts(tuning)["onnxruntime"] == Verdict.WORSE
    assert tuning.chosen is not None


# Reports


def test_a_dry_run_lists_candidates_and_starts_nothing(tunable: Project) -> None:
    answer = inv("tune", "--dry-run", cwd=tunable.root)
    assert answer.returncode == 0
    assert "freezing+max-autotune" in answer.stdout
    assert not (tunable.artifacts / ".locks").exists()


def test_the_json_names_settings_and_numbers(tunable: Project, machine: Machine) -> None:
    machine.factors = {"freezing": 0.5}
    document = tune(tunable, tunable.targets).as_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    (target,) = document["targets"]
    assert (target["host"], target["entry"]) == ("this-host", "written")
    freezing = target["candidates"][2]
    assert freezing["options"] == {"freezing": True}
    assert freezing["comparison"]["verdict"] == "better"


def test_the_table_has_ratio_interval_and_verdict(tunable: Project, machine: Machine) -> None:
    machine.factors = {"freezing": 0.5}
    lines = tune_lines(tune(tunable, tunable.targets))
    (line,) = [line for line in lines if line.strip().startswith("freezing  ")]
    assert "better (8 pairs)" in line
    assert "0.5" in line
    assert ".." in line
    assert lines[0] == "small/cpu-tuned on this-host"
    assert any("invoke build --target small/cpu-tuned" in line for line in lines)


def test_the_loss_is_that_of_the_worst_output_against_float64(tunable: Project) -> None:
    class Checked:
        check: Mapping[str, Any] = {
            "cases": [
                {"outputs": [{"rmse": 0.5, "reference_rms": 2.0, "fp64": {"candidate_rmse": 0.1}}]},
                {"outputs": [{"rmse": 0.2, "reference_rms": 1.0}, {"ok": True}]},
            ]
        }

    assert relative_rmse(Checked()) == 0.2  # type: ignore[arg-type]
