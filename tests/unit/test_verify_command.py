"""`verify` with a worker that only pretends: every verdict and its exit code, and nothing loaded
that is not fit."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_projects import (
    CUDA_MODEL,
    FAILED_CASE,
    ONE_MODEL,
    TWO_MODELS,
    FakeWorker,
    contents,
    edit,
    publish_fake,
    write_project,
)

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA
from aoti_build.artifact.paths import artifact_directory
from aoti_build.artifact.reasons import Reason
from aoti_build.commands.run.command import run
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.commands.verify import command as verify_command
from aoti_build.commands.verify import comparison as verify_comparison
from aoti_build.commands.verify.command import Verdict, VerifyReport, verify
from aoti_build.errors import ArtifactError, BuildError, Interrupted
from aoti_build.figures import Refusal, Vacuous
from aoti_build.host import cuda
from aoti_build.messages import Job, Message, ProbeJob, ProbeResult
from aoti_build.models_file import Project, load_project
from aoti_build.work.crash import WorkerCrash
from aoti_build.work.processes import check_stopping, stop_all
from aoti_build.work.worker import WorkerTimeout


def test_a_good_artifact_passes(project: Project, published: Path, fake_worker: FakeWorker) -> None:
    report = run_verify(project)
    assert (verdicts(report), report.exit_code) == (["passed"], 0)
    assert fake_worker.calls == ["check", "probe"]
    assert json.loads((published / "verify.json").read_text())["verdict"] == "passed"


@pytest.mark.usefixtures("published")
def test_verifying_does_not_make_an_artifact_out_of_date(
    project: Project, fake_worker: FakeWorker
) -> None:
    for _ in range(2):
        report = verify(project, project.targets, strict=True)
        assert (verdicts(report), report.exit_code) == (["passed"], 0)
    assert fake_worker.calls == ["check", "probe"] * 2


def test_no_artifact(project: Project, fake_worker: FakeWorker) -> None:
    report = run_verify(project)
    assert (verdicts(report), report.exit_code) == (["missing"], 3)
    assert "build it first" in str(report.verdicts[0].error)
    assert "small/cpu" in str(report.verdicts[0].error)
    assert fake_worker.calls == []
    assert not (project.artifacts / "small").exists()


@pytest.mark.parametrize("name", [MODEL, REFERENCE_DATA])
@pytest.mark.parametrize("content", [None, b"", b"compiled code of small/cpV"])
def test_a_damaged_file_is_refused(
    project: Project, published: Path, fake_worker: FakeWorker, name: str, content: bytes | None
) -> None:
    (published / name).unlink() if content is None else (published / name).write_bytes(content)
    report = run_verify(project)
    assert (verdicts(report), report.exit_code) == (["refused"], 4)
    assert name in str(report.verdicts[0].error)
    assert fake_worker.calls == []


@pytest.mark.parametrize("content", [None, b"", b"{}", b"not json"])
def test_a_damaged_manifest_is_refused(
    project: Project, published: Path, fake_worker: FakeWorker, content: bytes | None
) -> None:
    manifest = published / "manifest.json"
    manifest.unlink() if content is None else manifest.write_bytes(content)
    report = run_verify(project)
    assert (verdicts(report), report.exit_code) == (["refused"], 4)
    assert "manifest.json" in str(report.verdicts[0].error)
    assert fake_worker.calls == []


def test_another_targets_artifact_is_refused(tmp_path: Path, fake_worker: FakeWorker) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    publish_fake(project, project.targets[0])
    first, second = (artifact_directory(project, target) for target in project.targets)
    second.parent.mkdir()
    first.rename(second)
    report = run_verify(project)
    assert (verdicts(report), report.exit_code) == (["missing", "refused"], 4)
    assert "first/cpu" in str(report.verdicts[1].error)
    assert fake_worker.calls == []


@pytest.mark.parametrize(
    ("need", "value"),
    [
        ("cpu_features", ["no_such_feature"]),
        ("torch", "1.0.0"),
        ("machine", "riscv64"),
        ("platform", "plan9"),
    ],
)
@pytest.mark.usefixtures("published")
def test_an_unfit_host_is_refused(
    project: Project, fake_worker: FakeWorker, need: str, value: object
) -> None:
    edit(project, lambda document: document["requires"].update({need: value}))
    report = run_verify(project)
    assert (verdicts(report), report.exit_code) == (["refused"], 4)
    assert fake_worker.calls == []


@pytest.mark.usefixtures("published")
def test_a_mismatch(project: Project, fake_worker: FakeWorker) -> None:
    fake_worker.answers["check"] = {"passed": False, "cases": [FAILED_CASE]}
    report = run_verify(project)
    assert (verdicts(report), report.exit_code) == (["mismatch"], 3)
    document = report.as_json()
    assert document["ok"] is False
    assert document["targets"][0]["cases"][0]["outputs"][0]["max_abs"] == 0.5


@pytest.mark.parametrize("error", [WorkerCrash("no", signal_name="SIGSEGV"), BuildError("no")])
@pytest.mark.usefixtures("published")
def test_a_crash(project: Project, fake_worker: FakeWorker, error: Exception) -> None:
    fake_worker.answers["check"] = error
    report = run_verify(project)
    assert (verdicts(report), report.exit_code) == (["crashed"], 3)
    assert str(report.verdicts[0].error).startswith("small/cpu: no")


@pytest.mark.usefixtures("published")
def test_a_reference_file_that_the_worker_refuses(
    project: Project, fake_worker: FakeWorker
) -> None:
    fake_worker.answers["check"] = ArtifactError("no reference data of this version")
    report = run_verify(project)
    assert (verdicts(report), report.exit_code) == (["refused"], 4)


def test_one_failure_does_not_end_the_run(tmp_path: Path, fake_worker: FakeWorker) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    for target in project.targets:
        publish_fake(project, target)
    (artifact_directory(project, project.targets[0]) / MODEL).unlink()
    report = verify(project, project.targets, jobs=2)
    assert (verdicts(report), report.exit_code) == (["refused", "passed"], 4)
    assert fake_worker.calls == ["check", "probe"]


def test_an_absent_device(
    tmp_path: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ())
    project = write_project(tmp_path, CUDA_MODEL)
    report = run_verify(project)
    assert (verdicts(report), report.exit_code) == (["unavailable"], 0)
    assert verify(project, project.targets, strict=True).exit_code == 3
    assert fake_worker.calls == []


@pytest.mark.usefixtures("published")
def test_what_cpp_cannot_run_is_unavailable(
    project: Project, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_command, "compiled_runner", lambda device: Path("runner"))
    why = "no C++ library registers the operator a::b"
    fake_worker.answers["check"] = {"passed": False, "cases": [], "unavailable": why}
    report = verify(project, project.targets, runtime="cpp")
    assert (verdicts(report), report.exit_code, fake_worker.calls) == (
        ["unavailable"],
        0,
        ["check"],
    )
    assert (
        str(report.verdicts[0].out_of_date[0])
        == "not-in-cpp: no C++ library registers the operator a::b"
    )
    assert verify(project, project.targets, runtime="cpp", strict=True).exit_code == 3


@pytest.mark.parametrize("content", [None, "edited = True\n"])
@pytest.mark.usefixtures("published")
def test_an_out_of_date_artifact_is_checked_as_what_it_is(
    project: Project, fake_worker: FakeWorker, content: str | None
) -> None:
    helper = project.root / "helper.py"
    helper.unlink() if content is None else helper.write_text(content)
    report = run_verify(project)
    assert (verdicts(report), report.exit_code) == (["passed"], 0)
    assert [(reason.reason, reason.what) for reason in report.verdicts[0].out_of_date] == [
        ("source-changed", "helper.py")
    ]
    assert verify(project, project.targets, strict=True).exit_code == 3
    assert fake_worker.calls == ["check", "probe"] * 2


@pytest.mark.usefixtures("published")
def test_the_models_source_need_not_be_there(project: Project, fake_worker: FakeWorker) -> None:
    for name in ("model.py", "helper.py"):
        (project.root / name).unlink()
    bare = load_project(project.file)
    report = run_verify(bare)
    assert (verdicts(report), report.exit_code) == (["passed"], 0)
    assert {reason.what for reason in report.verdicts[0].out_of_date} == {"model.py", "helper.py"}
    assert fake_worker.calls == ["check", "probe"]


def test_another_tolerance_is_no_difference_and_is_used(
    tmp_path: Path, fake_worker: FakeWorker
) -> None:
    publish_fake(write_project(tmp_path, ONE_MODEL))
    used = []
    fake_worker.during = lambda _, job: used.append(job.tolerance)
    changed = write_project(tmp_path, ONE_MODEL + "    tolerance: {atol: 0.5}\n")
    report = verify(changed, changed.targets, strict=True)
    assert (verdicts(report), report.exit_code, report.verdicts[0].out_of_date) == (
        ["passed"],
        0,
        (),
    )
    assert used == [{"atol": 0.5, "rtol": None, "outputs": {}}] * 2


@pytest.mark.usefixtures("published")
def test_an_input_that_is_not_refused_fails(project: Project, fake_worker: FakeWorker) -> None:
    fake_worker.answers["probe"] = {
        "probes": [[0, {"name": "batch 9", "ok": False, "said": "was answered"}]]
    }
    report = run_verify(project)
    assert (verdicts(report), report.exit_code) == (["mismatch"], 3)
    assert report.verdicts[0].refusals[0].name == "batch 9"


@pytest.mark.usefixtures("published")
def test_a_probe_that_crashes_is_named_and_the_others_are_tried(
    project: Project, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["rank 3", "float64", "batch 9"]

    def probe(job: Job[Any], *, on_phase: Callable[[str], None], **rest: Any) -> Message:
        if not isinstance(job, ProbeJob):
            result: Message = fake_worker(job, on_phase=on_phase, **rest)
            return result
        for number, name in enumerate(names):
            if number in job.skip:
                continue
            on_phase(f"probe {number} {name}")
            if name == "float64":
                raise WorkerCrash("the worker was killed by SIGSEGV", signal_name="SIGSEGV")
        left = [(n, name) for n, name in enumerate(names) if n not in job.skip]
        return ProbeResult(
            probes=tuple((n, Refusal(name=name, ok=True, said="refused")) for n, name in left)
        )

    monkeypatch.setattr(verify_comparison, "run_worker", probe)
    (verdict,) = run_verify(project).verdicts
    assert [(probed.name, probed.ok) for probed in verdict.refusals] == [
        ("rank 3", True),
        ("float64", False),
        ("batch 9", True),
    ]
    assert "SIGSEGV" in verdict.refusals[1].said
    assert verdict.verdict == "mismatch"


@pytest.mark.usefixtures("published")
def test_a_vacuous_comparison_fails_only_with_strict(
    project: Project, fake_worker: FakeWorker
) -> None:
    fake_worker.answers["check"] = {"vacuous": [{"output": "output", "of": "inputs"}]}
    assert verify(project, project.targets).exit_code == 0
    assert verify(project, project.targets, strict=True).exit_code == 3


@pytest.mark.parametrize(
    ("kind", "doubtful", "lenient", "strict"),
    [
        ("passed", False, [], []),
        ("passed", True, [], ["out_of_date", "vacuous"]),
        ("incomplete", False, [], ["incomplete"]),
        ("incomplete", True, [], ["incomplete", "out_of_date", "vacuous"]),
        ("unavailable", True, [], ["unavailable"]),
        ("mismatch", False, ["mismatch"], ["mismatch"]),
        ("mismatch", True, ["mismatch"], ["mismatch", "out_of_date", "vacuous"]),
        ("missing", False, ["missing"], ["missing"]),
    ],
)
def test_the_report_says_what_counts_as_a_failure(
    project: Project, kind: str, doubtful: bool, lenient: list[str], strict: list[str]
) -> None:
    verdict = Verdict(project.targets[0], VerdictKind(kind))
    if doubtful:
        verdict = replace(
            verdict,
            out_of_date=(Reason("source-changed", "model.py"),),
            vacuous=(Vacuous(output="output", of="inputs"),),
        )
    for is_strict, failures in ((False, lenient), (True, strict)):
        report = VerifyReport((verdict,), is_strict)
        assert report.as_json()["targets"][0]["failures"] == failures
        assert report.exit_code == (3 if failures else 0)


@pytest.mark.usefixtures("published")
def test_nothing_to_compare_with_is_no_pass(project: Project, fake_worker: FakeWorker) -> None:
    skipped = {"name": "example", "sizes": {}, "seed": 0, "skipped": "no room", "outputs": []}
    fake_worker.answers["check"] = {"passed": False, "cases": [skipped]}
    report = run_verify(project)
    assert (verdicts(report), report.exit_code) == (["unverified"], 3)


@pytest.mark.usefixtures("published")
def test_what_takes_too_long_is_stopped(project: Project, fake_worker: FakeWorker) -> None:
    fake_worker.answers["check"] = WorkerTimeout(
        "the worker had not ended after 5 s and was stopped"
    )
    report = run_verify(project)
    assert (verdicts(report), report.exit_code) == (["timeout"], 3)


@pytest.mark.usefixtures("published")
def test_fresh_references_need_the_source(project: Project, fake_worker: FakeWorker) -> None:
    (project.root / "model.py").unlink()
    report = verify(project, project.targets, fresh=True)
    assert (verdicts(report), report.exit_code) == (["unverified"], 3)
    assert "--fresh" in str(report.verdicts[0].error)
    assert fake_worker.calls == []


@pytest.mark.usefixtures("published")
def test_an_interrupt(project: Project, fake_worker: FakeWorker) -> None:
    fake_worker.answers["check"] = KeyboardInterrupt()
    with pytest.raises(Interrupted):
        run_verify(project)


def test_an_old_verdict_is_not_mistaken_for_damage(
    project: Project, published: Path, fake_worker: FakeWorker
) -> None:
    (published / "verify.json").write_text("garbage")
    assert run_verify(project).exit_code == 0
    assert fake_worker.calls


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Artifacts that this process may read and not write."""

    def refuse(path: Path, value: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(verify_command, "write_json", refuse)
    real_access = os.access
    artifacts = str(tmp_path / "project" / "artifacts")
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode: not str(path).startswith(artifacts) and real_access(path, mode),
    )
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.mark.usefixtures("published", "read_only")
def test_artifacts_that_cannot_be_written_are_verified_and_run(
    project: Project, tmp_path: Path, fake_worker: FakeWorker
) -> None:
    before = contents(project.root)
    report = run_verify(project)
    assert (verdicts(report), report.exit_code) == (["passed"], 0)
    assert run(project, project.targets).exit_code == 0
    assert fake_worker.calls == ["check", "probe", "run small"]
    assert contents(project.root) == before
    assert len(contents(tmp_path / "state" / "aoti_build" / "logs")) == 2


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("command", ["verify", "run"])
def test_after_an_interrupted_verb_the_next_may_start_workers(
    project: Project, fake_worker: FakeWorker, command: str
) -> None:
    stop_all()
    fake_worker.during = lambda job_name, job: check_stopping()
    report = run_verify(project) if command == "verify" else run(project, project.targets)
    assert report.exit_code == 0
    assert fake_worker.calls


@pytest.mark.usefixtures("published")
def test_the_report_as_json(project: Project, fake_worker: FakeWorker) -> None:
    assert fake_worker.calls == []
    document = json.loads(json.dumps(run_verify(project).as_json()))
    assert (document["format"], document["format_version"], document["ok"]) == (
        "aoti-build/verify",
        2,
        True,
    )
    (row,) = document["targets"]
    assert (row["target"], row["verdict"], row["out_of_date"], row["error"]) == (
        "small/cpu",
        "passed",
        [],
        None,
    )


def run_verify(project: Project) -> VerifyReport:
    return verify(project, project.targets)


def verdicts(report: VerifyReport) -> list[str]:
    return [verdict.verdict for verdict in report.verdicts]
