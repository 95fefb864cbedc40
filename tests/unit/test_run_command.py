"""`run` with a worker that only pretends: the command line, several targets and inputs, verdicts,
exit codes and text.

What the worker itself does with files and images is in tests/integration/test_run.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from small_projects import (
    CUDA_MODEL,
    ONE_MODEL,
    RAN,
    SIGNATURE,
    TWO_MODELS,
    FakeWorker,
    publish_fake,
    write_project,
)

from aoti_build.artifact.manifest import MODEL
from aoti_build.artifact.paths import artifact_directory
from aoti_build.commands.run.command import RunReport, run
from aoti_build.errors import ArtifactError, BuildError, Interrupted, UsageError
from aoti_build.host import cuda
from aoti_build.messages import RunJob, RunRequest
from aoti_build.models_file import Project
from aoti_build.report.run_text import run_lines
from aoti_build.work.crash import WorkerCrash
from aoti_build.work.processes import check_stopping, stop_all

IMAGE = "    image: {crop: 4, classes: classes.txt}\n"
NO_CHECK: Mapping[str, Any] = {"check": "none", "verdicts": []}
MISMATCH = {
    "passed": False,
    "verdicts": [{"name": "output", "ok": False, "why": "7 of 8 values differ"}],
}


@pytest.fixture
def two(tmp_path: Path) -> Project:
    """Two targets with artifacts."""
    project = write_project(tmp_path / "project", TWO_MODELS)
    for target in project.targets:
        publish_fake(project, target)
    return project


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with files of every kind; nobody looks into them here."""
    directory = tmp_path / "files"
    directory.mkdir()
    for name in (
        "a.npz",
        "b.pt",
        "c.safetensors",
        "d.npy",
        "one.png",
        "two.jpg",
        "three.PNG",
        "notes.txt",
    ):
        (directory / name).write_bytes(b"")
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def jobs(fake_worker: FakeWorker) -> list[RunJob]:
    """The jobs that workers got."""
    found: list[RunJob] = []
    fake_worker.during = lambda _, job: found.append(job)
    return found


def pictured(root: Path, batch: int | str) -> Project:
    """A published model with `image:` whose only input has this batch."""
    project = write_project(root, ONE_MODEL + IMAGE)
    inputs = [{"name": "input", "dtype": "float32", "shape": [batch, 3, 4, 4]}]
    dims = {"batch": {"min": 1, "max": 8, "multiple_of": 1}}
    publish_fake(project, signature={**SIGNATURE, "inputs": inputs, "dims": dims})
    return project


def test_without_an_input_it_is_the_reference_one(
    project: Project, published: Path, jobs: list[RunJob]
) -> None:
    report = run(project, project.targets)
    assert (verdicts(report), report.exit_code) == ([["passed"]], 0)
    (job,) = jobs
    assert job.runs == (RunRequest(kind="reference_data", paths=(), output=None),)
    assert (job.seed, job.repeat) == (1, 10)
    assert Path(job.model).parent != published, "a worker is given a private copy"


@pytest.mark.usefixtures("published")
def test_inputs_go_to_the_worker_one_by_one(
    project: Project, files: Path, jobs: list[RunJob]
) -> None:
    report = run(
        project,
        project.targets,
        inputs=("a.npz", "random", "reference_data", "./b.pt"),
        seed=7,
        repeat=3,
    )
    (job,) = jobs
    assert [(one.kind, one.paths) for one in job.runs] == [
        ("tensors", (str(files / "a.npz"),)),
        ("random", ()),
        ("reference_data", ()),
        ("tensors", (str(files / "b.pt"),)),
    ]
    assert (job.seed, job.repeat) == (7, 3)
    runs = report.as_json()["targets"][0]["runs"]
    assert [(row["source"], row["seed"]) for row in runs] == [
        (["a.npz"], None),
        (["random"], 7),
        (["reference_data"], None),
        (["./b.pt"], None),
    ]


@pytest.mark.parametrize(
    ("given", "said"), [("absent.npz", "no file"), ("notes.txt", ".safetensors"), ("d", "suffix")]
)
@pytest.mark.usefixtures("published", "files")
def test_inputs_that_are_none_are_refused_before_anything_runs(
    project: Project, fake_worker: FakeWorker, given: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        run(project, project.targets, inputs=("a.npz", given))
    assert fake_worker.calls == []


def test_several_targets_in_one_report(two: Project, fake_worker: FakeWorker) -> None:
    document = json.loads(json.dumps(run(two, two.targets).as_json()))
    assert [row["target"] for row in document["targets"]] == ["first/cpu", "second/cpu"]
    assert (document["format"], document["format_version"], document["ok"]) == (
        "aoti-build/run",
        2,
        True,
    )
    assert fake_worker.calls == ["run first", "run second"]


def test_one_failure_does_not_end_the_others(two: Project, fake_worker: FakeWorker) -> None:
    (artifact_directory(two, two.targets[0]) / MODEL).write_bytes(b"")
    report = run(two, two.targets)
    assert [target.verdict for target in report.targets] == ["failed", "passed"]
    assert report.exit_code == 4
    assert MODEL in str(report.targets[0].error)
    assert fake_worker.calls == ["run second"]


def test_a_missing_artifact(project: Project, fake_worker: FakeWorker) -> None:
    report = run(project, project.targets)
    assert (report.exit_code, fake_worker.calls) == (3, [])
    assert "invoke build --target small/cpu" in "\n".join(run_lines(report))


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WorkerCrash("killed", signal_name="SIGSEGV"), 3),
        (ArtifactError("no reference data of this version"), 4),
        (BuildError("unexpected"), 1),
    ],
)
def test_an_error_of_the_worker_is_the_targets(
    project: Project, fake_worker: FakeWorker, error: BaseException, code: int
) -> None:
    fake_worker.answers["run"] = error
    report = run(project, project.targets)
    assert (report.targets[0].verdict, report.exit_code, report.as_json()["ok"]) == (
        "failed",
        code,
        False,
    )
    assert str(report.targets[0].error).startswith("small/cpu: ")


@pytest.mark.usefixtures("published", "files")
def test_an_error_of_one_input_is_that_inputs(project: Project, fake_worker: FakeWorker) -> None:
    refused = {
        "error": {
            "kind": "usage",
            "message": "a.npz: x is float64",
            "cause": "because",
            "hint": "convert it",
        }
    }
    fake_worker.answers["run"] = {"runs": [refused, {"figures": RAN}]}
    report = run(project, project.targets, inputs=("a.npz", "random"))
    assert (verdicts(report), report.targets[0].verdict, report.exit_code) == (
        [["failed", "passed"]],
        "failed",
        2,
    )
    error = report.targets[0].runs[0].error
    assert isinstance(error, UsageError)
    assert (error.target, error.hint, error.log is not None) == ("small/cpu", "convert it", True)
    lines = run_lines(report)
    assert any(line.startswith("error: small/cpu: a.npz: x is float64") for line in lines)
    assert "small/cpu on random, seed 1" in lines


@pytest.mark.usefixtures("published")
def test_an_interrupt_ends_it(project: Project, fake_worker: FakeWorker) -> None:
    fake_worker.answers["run"] = Interrupted("interrupted")
    with pytest.raises(Interrupted):
        run(project, project.targets)


@pytest.mark.usefixtures("published")
def test_after_an_interrupted_verb_it_may_start_workers(
    project: Project, fake_worker: FakeWorker
) -> None:
    stop_all()
    fake_worker.during = lambda job_name, job: check_stopping()
    assert run(project, project.targets).exit_code == 0
    assert fake_worker.calls


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("result", "verdict", "code"),
    [(MISMATCH, "mismatch", 3), (NO_CHECK, "unverified", 0)],
)
def test_the_workers_verdict_decides(
    project: Project, fake_worker: FakeWorker, result: Mapping[str, Any], verdict: str, code: int
) -> None:
    fake_worker.answers["run"] = {"runs": [{"figures": {**RAN, **result}}]}
    report = run(project, project.targets)
    assert (report.targets[0].verdict, report.exit_code) == (verdict, code)
    assert report.as_json()["ok"] is (code == 0)


def test_an_absent_device_fails_only_if_nothing_else_was_chosen(
    tmp_path: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ())
    project = write_project(tmp_path, CUDA_MODEL.replace("[cuda]", "[cpu, cuda]"))
    publish_fake(project, project.targets[0])
    report = run(project, project.targets)
    assert ([target.verdict for target in report.targets], report.exit_code) == (
        ["passed", "unavailable"],
        0,
    )
    assert any(
        "unavailable: small/cuda: this host has no cuda device" in line
        for line in run_lines(report)
    )
    assert run(project, project.targets[1:]).exit_code == 4
    assert fake_worker.calls == ["run small"]


@pytest.mark.usefixtures("published", "fake_worker")
def test_an_out_of_date_artifact_is_run_and_called_so(project: Project) -> None:
    (project.root / "helper.py").write_text("edited = True\n")
    report = run(project, project.targets)
    assert [(reason.reason, reason.what) for reason in report.targets[0].out_of_date] == [
        ("source-changed", "helper.py")
    ]
    assert "small/cpu is out of date: source-changed: helper.py" in run_lines(report)[0]


@pytest.mark.usefixtures("fake_worker")
def test_another_tolerance_is_no_difference(tmp_path: Path) -> None:
    publish_fake(write_project(tmp_path, ONE_MODEL))
    changed = write_project(tmp_path, ONE_MODEL + "    tolerance: {atol: 0.5}\n")
    assert run(changed, changed.targets).targets[0].out_of_date == ()


@pytest.mark.parametrize(
    ("inputs", "output", "said"),
    [
        (("reference_data",), "out.txt", ".safetensors"),
        (("reference_data",), "out", ".safetensors"),
        (("reference_data",), "{input}.npz", "2 targets would be written to one file"),
        (("a.npz", "b.pt"), "{target}.npz", "2 inputs would be written to one file"),
        (("one.png", "two.jpg"), "{target}.npz", "2 inputs"),
        (("a.npz", "./a.npz"), "{target}/{input}.npz", "written as a"),
    ],
)
@pytest.mark.usefixtures("files")
def test_an_output_that_is_not_one_file_for_each_run_is_refused(
    two: Project, fake_worker: FakeWorker, inputs: tuple[str, ...], output: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        run(two, two.targets, inputs=inputs, output=output)
    assert fake_worker.calls == []


def test_the_names_of_output_files(two: Project, files: Path, jobs: list[RunJob]) -> None:
    report = run(two, two.targets, inputs=("a.npz", "random"), output="out/{target}/{input}.PT")
    wanted = [
        [files / f"out/{name}/cpu/{label}.PT" for label in ("a", "random")]
        for name in ("first", "second")
    ]
    assert [[Path(str(one.output)) for one in job.runs] for job in jobs] == wanted
    assert f"outputs are in {wanted[1][1]}" in run_lines(report)


@pytest.mark.usefixtures("published", "files")
@pytest.mark.parametrize("output", ["a.npz", "{input}.npz", "../files/a.npz"])
def test_an_output_does_not_overwrite_an_input(
    project: Project, fake_worker: FakeWorker, output: str
) -> None:
    report = run(project, project.targets, inputs=("a.npz",), output=output)
    assert (report.exit_code, fake_worker.calls) == (2, [])
    assert "overwrite the input a.npz" in str(report.targets[0].error)


@pytest.mark.usefixtures("published", "files")
def test_an_image_for_a_model_without_image_says_what_to_write(
    project: Project, fake_worker: FakeWorker
) -> None:
    report = run(project, project.targets, inputs=("one.png",))
    assert (report.exit_code, fake_worker.calls) == (2, [])
    said = str(report.targets[0].error)
    for part in (
        "models.yaml:3:3",
        "image: torchvision.models:ResNet18_Weights.DEFAULT",
        "image: {resize: 256",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("batch", "groups"),
    [
        (1, [["one"], ["two"], ["three"], ["a"], ["one"]]),
        (2, [["one", "two"], ["three"], ["a"], ["one"]]),
        (4, [["one", "two", "three"], ["a"], ["one"]]),
        (0, [["one"], ["two"], ["three"], ["a"], ["one"]]),
        ("batch", [["one"], ["two"], ["three"], ["a"], ["one"]]),
    ],
)
@pytest.mark.usefixtures("files")
def test_images_in_a_row_fill_a_fixed_batch(
    tmp_path: Path, jobs: list[RunJob], batch: int | str, groups: list[list[str]]
) -> None:
    project = pictured(tmp_path / "project", batch)
    report = run(
        project, project.targets, inputs=("one.png", "two.jpg", "three.PNG", "a.npz", "one.png")
    )
    assert report.exit_code == 0
    assert [[Path(path).stem for path in one.paths] for one in jobs[0].runs] == groups
    assert jobs[0].runs[0].kind == "images"
    assert jobs[0].where["image"] == "models.yaml:8:12"


@pytest.mark.usefixtures("files")
def test_a_batch_of_images_is_written_by_the_name_of_its_first(
    tmp_path: Path, files: Path, jobs: list[RunJob]
) -> None:
    project = pictured(tmp_path / "project", 2)
    run(project, project.targets, inputs=("one.png", "two.jpg", "three.PNG"), output="{input}.npz")
    assert [Path(str(one.output)) for one in jobs[0].runs] == [
        files / "one.npz",
        files / "three.npz",
    ]


@pytest.mark.usefixtures("published")
def test_the_text_of_one_run(project: Project, fake_worker: FakeWorker) -> None:
    lines = run_lines(run(project, project.targets))
    assert fake_worker.calls
    assert lines[0] == "small/cpu on reference_data"
    assert any(line.startswith("input ") and "[2, 4]" in line for line in lines)
    assert "passed: checked against the outputs that eager gave at build time" in lines
    assert lines[-3] == "once: load 100.0 ms, first 10.0 ms"
    figures = "min 1.000, median 2.000, p90 3.000, p99 4.000, max 5.000"
    assert lines[-2] == f"10 calls after a warm-up, on this host as it is now, in ms: {figures}"


@pytest.mark.usefixtures("published")
def test_the_text_of_a_mismatch_and_of_no_check(project: Project, fake_worker: FakeWorker) -> None:
    fake_worker.answers["run"] = {"runs": [{"figures": {**RAN, **MISMATCH, "check": "eager"}}]}
    lines = run_lines(run(project, project.targets))
    assert "FAILED: checked against eager, run now from the model's source" in lines
    assert "  output: 7 of 8 values differ" in lines
    fake_worker.answers["run"] = {"runs": [{"figures": {**RAN, **NO_CHECK}}]}
    assert any(
        line.startswith("NOT checked: ") for line in run_lines(run(project, project.targets))
    )


@pytest.mark.usefixtures("files")
def test_the_text_of_images(tmp_path: Path, fake_worker: FakeWorker) -> None:
    project = pictured(tmp_path / "project", 2)
    classes = [
        {"index": 281, "name": "tabby", "probability": 0.5},
        {"index": 3, "name": None, "probability": 0.25},
    ]
    top = {
        "output": "output",
        "images": [classes, classes[1:]],
        "unnamed": "classes.txt names 3 classes",
    }
    fake_worker.answers["run"] = {"runs": [{"figures": {**RAN, "top": [top]}}]}
    lines = run_lines(run(project, project.targets, inputs=("one.png", "two.jpg")))
    start = lines.index("one.png: classes by output, probabilities by softmax")
    assert lines[start + 1 : start + 6] == [
        "   50.00 %   281  tabby",
        "   25.00 %     3",
        "two.jpg: classes by output, probabilities by softmax",
        "   25.00 %     3",
        "  no names: classes.txt names 3 classes",
    ]


@pytest.mark.usefixtures("fake_worker")
def test_the_text_of_several_targets_ends_with_a_count(two: Project) -> None:
    lines = run_lines(run(two, two.targets))
    assert [line for line in lines if line.endswith(" on reference_data")] == [
        "first/cpu on reference_data",
        "second/cpu on reference_data",
    ]
    assert lines[-1] == "2 targets: 2 passed"


def verdicts(report: RunReport) -> list[list[str]]:
    return [[run.verdict for run in target.runs] for target in report.targets]
