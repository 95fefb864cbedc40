"""`build` with a worker that only pretends: what gets published, what does not, and what the report
says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_projects import (
    CUDA_MODEL,
    FAILED_CASE,
    ONE_MODEL,
    TWO_MODELS,
    FakeWorker,
    action_of,
    contents,
    publish_fake,
    write_project,
)

from aoti_build.artifact.manifest import LOG, MODEL, REFERENCE_DATA, Manifest, read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.commands.build import BuildReport, build, plan
from aoti_build.common.digests import digest_file
from aoti_build.common.records import write_json
from aoti_build.errors import ArtifactError, BuildError, Interrupted, ToolchainError, UsageError
from aoti_build.host import cuda
from aoti_build.models_file import Project
from aoti_build.planning.index import Published
from aoti_build.work.crash import WorkerCrash

FAILED_CHECK = {"passed": False, "cases": [FAILED_CASE]}


def test_a_first_build_publishes(project: Project, fake_worker: FakeWorker) -> None:
    report = run(project)
    assert (actions(report), report.exit_code) == (["compiled"], 0)
    assert fake_worker.calls == ["build small", "check"]
    published = contents(directory(project))
    assert {MODEL, REFERENCE_DATA, LOG, "manifest.json"} == published.keys()
    assert published[LOG]
    assert action_of(project) == "up-to-date"


@pytest.mark.usefixtures("fake_worker")
def test_the_manifest_says_how_it_came_to_be(project: Project) -> None:
    (outcome,) = run(project).outcomes
    manifest = read_manifest(directory(project))
    assert isinstance(manifest, Manifest)
    assert outcome.published == Published(
        manifest.key, manifest.files[MODEL].sha256, manifest.files[MODEL].size
    )
    assert outcome.seconds == manifest.seconds
    assert manifest.target == "small/cpu"
    assert manifest.source["sources"].keys() == {"model.py", "helper.py"}
    assert manifest.check["passed"] is True
    assert manifest.seconds.keys() >= {"total", "export", "compile", "check"}
    assert [reason["reason"] for reason in manifest.reasons] == ["no-artifact"]
    assert manifest.provenance["created"]


def test_a_second_build_does_nothing(project: Project, fake_worker: FakeWorker) -> None:
    run(project)
    before = contents(directory(project))
    fake_worker.calls.clear()
    report = run(project)
    assert (actions(report), report.exit_code) == (["up-to-date"], 0)
    assert fake_worker.calls == []
    assert contents(directory(project)) == before


def test_an_edit_is_built_and_an_edit_of_one_model_only(
    tmp_path: Path, fake_worker: FakeWorker
) -> None:
    run(write_project(tmp_path, TWO_MODELS))
    fake_worker.calls.clear()
    report = run(write_project(tmp_path, TWO_MODELS.replace("[3, 4]", "[5, 4]")))
    assert actions(report) == ["up-to-date", "compiled"]
    assert "build first" not in fake_worker.calls


def test_force_builds_again(project: Project, fake_worker: FakeWorker) -> None:
    run(project)
    fake_worker.calls.clear()
    report = build(project, project.targets, force=True)
    assert actions(report) == ["compiled"]
    assert "build small" in fake_worker.calls


def test_a_failed_check_is_not_published(project: Project, fake_worker: FakeWorker) -> None:
    fake_worker.answers["check"] = FAILED_CHECK
    report = run(project)
    assert (actions(report), report.exit_code) == (["failed"], 1)
    assert not directory(project).exists()
    assert "7 of 8 values differ" in str(report.outcomes[0].error)
    assert "small/cpu" in str(report.outcomes[0].error)


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        (
            {"mismatched": 7, "why": "7 of 8 values differ by more than atol 1e-06, rtol 1e-06"},
            "set `tolerance`",
        ),
        ({"agreement": 0.5, "why": "agreement 0.5 is less than 0.9"}, "set `tolerance`"),
        (
            {"mismatched": 7, "why": "7 of 8 values differ, 7 of them NaN or infinity in one only"},
            "hides a whole row",
        ),
        (
            {"mismatched": 0, "why": "NaN or infinity is not where eager has it"},
            "hides a whole row",
        ),
        ({"why": "2 outputs, expected 3"}, "no tolerance allows this"),
        ({"why": "shape [2, 3], expected [2, 4]"}, "no tolerance allows this"),
        (
            {"why": "the package refused inputs of its range: input_handles[0]"},
            "no tolerance allows this",
        ),
    ],
)
def test_the_advice_fits_what_failed(
    project: Project, fake_worker: FakeWorker, output: dict[str, object], advice: str
) -> None:
    failed = {**FAILED_CASE, "outputs": [{"name": "output", "ok": False, **output}]}
    fake_worker.answers["check"] = {"passed": False, "cases": [failed]}
    error = run(project).outcomes[0].error
    assert error is not None
    assert advice in str(error.hint)
    assert ("set `tolerance`" in str(error.hint)) == (advice == "set `tolerance`")


def test_a_failed_check_keeps_the_old_artifact(project: Project, fake_worker: FakeWorker) -> None:
    run(project)
    before = contents(directory(project))
    (project.root / "model.py").write_text("edited = True\n")
    fake_worker.answers["check"] = FAILED_CHECK
    assert run(project).exit_code == 1
    assert contents(directory(project)) == before
    assert action_of(project) == "build"


@pytest.mark.parametrize("name", ["model.py", "helper.py", "weights.safetensors"])
def test_an_input_edited_meanwhile_is_not_published(
    tmp_path: Path, fake_worker: FakeWorker, name: str
) -> None:
    project = write_project(tmp_path, ONE_MODEL + "    weights: weights.safetensors\n")
    run(project)
    before = contents(directory(project))
    (tmp_path / "model.py").write_text("edited = 1\n")
    fake_worker.during = lambda job_name, _: (
        job_name == "check" and (tmp_path / name).write_text("edited meanwhile\n")
    )
    report = run(project)
    assert (actions(report), report.exit_code) == (["failed"], 1)
    assert f"{name} was edited" in str(report.outcomes[0].error)
    assert contents(directory(project)) == before


def test_nothing_is_left_behind_by_a_failure(project: Project, fake_worker: FakeWorker) -> None:
    fake_worker.answers["build"] = BuildError("no")
    run(project)
    left = {path.name for path in project.artifacts.rglob("*") if path.is_file()}
    assert not {MODEL, REFERENCE_DATA, "manifest.json"} & left
    assert not any(project.artifacts.glob(".staging/*"))


def test_what_a_killed_build_left_is_cleared(project: Project, fake_worker: FakeWorker) -> None:
    abandoned = project.artifacts / ".staging" / "small@cpu@abandoned"
    (abandoned / "artifact").mkdir(parents=True)
    (abandoned / "artifact" / MODEL).touch()
    run(project)
    assert fake_worker.calls
    assert not abandoned.exists()


def test_after_a_failure_nothing_more_is_started(tmp_path: Path, fake_worker: FakeWorker) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    fake_worker.answers["build first"] = BuildError("no")
    report = run(project)
    assert actions(report) == ["failed", "not-started"]
    assert report.exit_code == 1
    assert "build second" not in fake_worker.calls


def test_what_was_not_started_is_reported_with_what_is_published(
    tmp_path: Path, fake_worker: FakeWorker
) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    published = publish_fake(project, project.targets[1])
    (project.root / "helper.py").write_text("edited = 1\n")
    fake_worker.answers["build first"] = BuildError("no")
    report = run(project)
    assert actions(report) == ["failed", "not-started"]
    assert [row["key"] for row in report.as_json()["targets"]] == [None, published.key]


def test_keep_going(tmp_path: Path, fake_worker: FakeWorker) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    fake_worker.answers["build first"] = BuildError("no")
    report = build(project, project.targets, jobs=1, keep_going=True)
    assert actions(report) == ["failed", "compiled"]
    assert report.exit_code == 1
    assert directory(project, 1).exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BuildError("no"), 1),
        (UsageError("no"), 2),
        (ArtifactError("no"), 4),
        (ToolchainError("no"), 5),
        (WorkerCrash("no", signal_name="SIGSEGV"), 1),
        (OSError(28, "No space left on device"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes_of_a_worker_error(
    project: Project, fake_worker: FakeWorker, error: Exception, code: int
) -> None:
    fake_worker.answers["build"] = error
    report = run(project)
    assert (actions(report), report.exit_code) == (["failed"], code)
    assert report.outcomes[0].error
    assert report.outcomes[0].error.target == "small/cpu"


def test_a_failed_build_outweighs_other_errors(tmp_path: Path, fake_worker: FakeWorker) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    fake_worker.answers.update({"build first": UsageError("no"), "build second": BuildError("no")})
    assert build(project, project.targets, jobs=1, keep_going=True).exit_code == 1


@pytest.mark.parametrize("job_name", ["build", "check"])
def test_an_interrupt_ends_the_build(
    project: Project, fake_worker: FakeWorker, job_name: str
) -> None:
    run(project)
    before = contents(directory(project))
    fake_worker.answers[job_name] = KeyboardInterrupt()
    with pytest.raises(Interrupted) as caught:
        build(project, project.targets, force=True)
    assert caught.value.exit_code == 130
    assert contents(directory(project)) == before


def test_after_an_interrupt_the_next_build_works(project: Project, fake_worker: FakeWorker) -> None:
    fake_worker.answers["build"] = KeyboardInterrupt()
    with pytest.raises(Interrupted):
        run(project)
    fake_worker.answers.clear()
    assert actions(run(project)) == ["compiled"]


def test_work_that_another_build_did_meanwhile_is_not_done_again(
    project: Project, fake_worker: FakeWorker
) -> None:
    """Two builds at once: the second waits for the lock and finds it done."""
    import threading

    reports: list[BuildReport] = []
    threads = [threading.Thread(target=lambda: reports.append(run(project))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(action for report in reports for action in actions(report)) == [
        "compiled",
        "up-to-date",
    ]
    assert fake_worker.calls.count("build small") == 1


@pytest.mark.usefixtures("fake_worker")
def test_progress_tells_phases_and_outcome(project: Project) -> None:
    seen: list[str] = []
    build(
        project,
        project.targets,
        on_progress=lambda target, phase: seen.append(f"{target.name} {phase}"),
    )
    assert seen[0] == "small/cpu build"
    assert seen[-1] == "small/cpu compiled"


def test_a_changed_tolerance_is_checked_and_not_compiled(
    tmp_path: Path, fake_worker: FakeWorker
) -> None:
    project = write_project(tmp_path, ONE_MODEL)
    run(project)
    before = contents(directory(project))
    fake_worker.calls.clear()
    changed = write_project(tmp_path, ONE_MODEL + "    tolerance: {atol: 0.5}\n")
    report = run(changed)
    assert (actions(report), report.exit_code, fake_worker.calls) == (["rechecked"], 0, ["check"])
    assert contents(directory(project))[MODEL] == before[MODEL]
    assert action_of(changed) == "up-to-date"


def test_a_tolerance_that_is_not_met_fails_and_keeps_the_artifact(
    tmp_path: Path, fake_worker: FakeWorker
) -> None:
    project = write_project(tmp_path, ONE_MODEL)
    run(project)
    before = contents(directory(project))
    fake_worker.answers["check"] = FAILED_CHECK
    report = run(write_project(tmp_path, ONE_MODEL + "    tolerance: {atol: 0}\n"))
    assert (actions(report), report.exit_code) == (["failed"], 1)
    assert contents(directory(project)) == before


def test_an_absent_device_is_said_and_fails_with_strict_only(
    tmp_path: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ())
    project = write_project(tmp_path, CUDA_MODEL)
    report = run(project)
    assert (actions(report), report.exit_code) == (["unavailable"], 0)
    strict = build(project, project.targets, strict=True)
    assert (actions(strict), strict.exit_code) == (["unavailable"], 1)
    assert "cuda" in str(strict.outcomes[0].error)
    assert fake_worker.calls == []


def test_a_damaged_artifact_is_built_again(project: Project, fake_worker: FakeWorker) -> None:
    run(project)
    (directory(project) / MODEL).write_bytes(b"damaged")
    report = run(project)
    assert fake_worker.calls.count("build small") >= 1
    assert report.exit_code == 0
    assert report.outcomes[0].reasons[0].reason == "artifact-damaged"
    assert action_of(project) == "up-to-date"


def test_the_report_as_json(project: Project, fake_worker: FakeWorker) -> None:
    first = run(project).as_json()
    write_json(project.root / "report.json", first)
    assert json.loads((project.root / "report.json").read_text()) == first
    assert (first["format"], first["format_version"], first["ok"]) == ("aoti-build/build", 3, True)
    (row,) = first["targets"]
    assert row.keys() == {
        "target",
        "action",
        "reasons",
        "path",
        "sha256",
        "size",
        "key",
        "latency",
        "seconds",
        "baseline",
        "unverified",
        "error",
    }
    assert row["path"] == "artifacts/small/cpu/model.pt2"
    package = project.root / row["path"]
    assert row["sha256"] == digest_file(package)
    assert row["size"] == package.stat().st_size
    assert row["reasons"] == [{"reason": "no-artifact", "what": "", "old": None, "new": None}]
    assert row["seconds"].keys() == {"total", "export", "compile", "check"}
    fake_worker.answers["build"] = BuildError("no", cause="because")
    failed = build(project, project.targets, force=True).as_json()
    assert failed["ok"] is False
    assert failed["targets"][0]["error"] == {
        "kind": "build",
        "message": "no",
        "target": "small/cpu",
        "cause": "because",
    }


def test_the_plan_is_what_build_does(tmp_path: Path, fake_worker: FakeWorker) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    build(project, project.targets[:1])
    made = plan(project, project.targets)
    assert [step.action for step in made.steps] == ["up-to-date", "build"]
    fake_worker.calls.clear()
    run(project)
    assert [call for call in fake_worker.calls if "first" in call] == []


def run(project: Project) -> BuildReport:
    return build(project, project.targets, jobs=1)


def actions(report: BuildReport) -> list[str]:
    return [outcome.action for outcome in report.outcomes]


def directory(project: Project, index: int = 0) -> Path:
    return artifact_directory(project, project.targets[index])
