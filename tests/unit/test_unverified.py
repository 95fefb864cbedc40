"""Artifacts that their building host cannot run: they are published as unverified, and another host
verifies them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_projects import (
    FAILED_CASE,
    ONE_MODEL,
    FakeWorker,
    action_of,
    edit,
    plan_of,
    publish_fake,
    store_of,
    write_project,
)

from aoti_build.artifact.manifest import MODEL, Manifest, read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.commands.build import BuildReport, build, plan
from aoti_build.commands.clean import clean
from aoti_build.commands.inspect.command import inspect
from aoti_build.commands.plan_report import PlanReport
from aoti_build.commands.run.command import run
from aoti_build.commands.status import status
from aoti_build.commands.verify.command import VerifyReport, verify
from aoti_build.commands.why import why
from aoti_build.errors import ArtifactError, BuildError
from aoti_build.host import cpu
from aoti_build.models_file import Project, Target
from aoti_build.report import text
from aoti_build.report.inspect_text import inspect_lines
from aoti_build.report.run_text import run_lines
from aoti_build.report.verify_text import verify_lines
from aoti_build.runtime import explain, load
from aoti_build.work.crash import WorkerCrash

ARCHITECTURE = ONE_MODEL + "    cpu: {isa: avx512}\n"
LACKS = "this processor lacks avx512bw, avx512cd, avx512dq, avx512f, avx512vl"
Host = Callable[[str], None]

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="the architectures are of x86_64"
)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Host:
    """Sets the architecture of this host's processor. The first one is AVX2."""

    def change(isa: str) -> None:
        monkeypatch.setattr(cpu, "cpu_features", lambda: tuple(sorted(cpu.ISA_FEATURES[isa])))

    change("avx2")
    return change


@pytest.fixture
def architecture(tmp_path: Path, on: Host, fake_worker: FakeWorker) -> Project:
    """A project whose only target is for more than this host has; built."""
    assert on
    project = write_project(tmp_path / "architecture", ARCHITECTURE)
    assert actions(run_build(project)) == ["compiled"]
    assert fake_worker.calls == ["build small"]
    fake_worker.calls.clear()
    return project


def test_a_build_publishes_it_and_reports_that_it_is_unverified(architecture: Project) -> None:
    manifest = manifest_of(architecture)
    assert manifest.unverified == LACKS
    assert (manifest.check["cases"], manifest.check["seconds"]) == ([], 0.0)
    assert manifest.requires["cpu_features"] == sorted(cpu.ISA_FEATURES["avx512"])


def test_every_report_shows_that_it_is_unverified(architecture: Project) -> None:
    for _ in range(2):  # an index must not make it a good one
        report = run_build(architecture)
        assert (actions(report), report.exit_code, report.as_json()["ok"]) == (
            ["up-to-date"],
            0,
            True,
        )
        assert report.as_json()["targets"][0]["unverified"] == LACKS
        assert f"unverified: {LACKS}" in "\n".join(text.build_lines(report))
    made = plan(architecture, architecture.targets)
    assert PlanReport(made).as_json()["targets"][0]["unverified"] == LACKS
    assert f"unverified: {LACKS}" in "\n".join(text.plan_lines(made))
    assert status(architecture).as_json()["targets"][0]["unverified"] == LACKS
    assert f"unverified: {LACKS}" in "\n".join(text.status_lines(status(architecture)))
    assert (
        why(architecture, architecture.targets).as_json()["targets"][0]["last_build"]["unverified"]
        == LACKS
    )
    assert f"never compared with eager: {LACKS}" in "\n".join(
        text.why_lines(why(architecture, architecture.targets))
    )
    assert f"never compared with eager: {LACKS}" in "\n".join(
        inspect_lines(inspect(architecture, architecture.targets))
    )


def test_strict_fails_and_the_artifact_stays_published(
    architecture: Project, fake_worker: FakeWorker
) -> None:
    (artifact_directory(architecture, architecture.targets[0]) / MODEL).unlink()
    report = build(architecture, architecture.targets, strict=True)
    assert (actions(report), report.exit_code, report.as_json()["ok"]) == (["restored"], 1, False)
    said = str(report.outcomes[0].error)
    assert LACKS in said
    assert "invoke verify --target small/cpu" in said
    assert manifest_of(architecture).unverified == LACKS
    assert "error: small/cpu: the artifact is published, but" in "\n".join(text.build_lines(report))
    again = build(architecture, architecture.targets, strict=True)
    assert (actions(again), again.exit_code) == (["up-to-date"], 1)
    assert fake_worker.calls == []


def test_verify_and_run_are_unavailable_without_a_failure(
    architecture: Project, fake_worker: FakeWorker
) -> None:
    report = verify(architecture, architecture.targets)
    assert (verdicts(report), report.exit_code) == (["unavailable"], 0)
    assert [(reason.reason, reason.what) for reason in report.verdicts[0].out_of_date] == [
        ("lacks-architecture", LACKS)
    ]
    assert f"lacks-architecture: {LACKS}" in "\n".join(verify_lines(report))
    assert verify(architecture, architecture.targets, strict=True).exit_code == 3
    ran = run(architecture, architecture.targets)
    assert ran.targets[0].verdict == "unavailable"
    assert fake_worker.calls == []


def test_a_run_on_a_capable_host_does_not_verify_it(
    architecture: Project, on: Host, fake_worker: FakeWorker
) -> None:
    on("avx512")
    report = run(architecture, architecture.targets)
    assert (report.targets[0].verdict, report.as_json()["targets"][0]["unverified"]) == (
        "passed",
        LACKS,
    )
    assert f"small/cpu is unverified, which build or verify can settle here: {LACKS}" in run_lines(
        report
    )
    assert manifest_of(architecture).unverified == LACKS
    verify(architecture, architecture.targets)
    assert run(architecture, architecture.targets).as_json()["targets"][0]["unverified"] is None
    assert fake_worker.calls == ["run small", "check", "probe", "run small"]


def test_an_unfit_artifact_that_declares_no_architecture_is_still_refused(
    tmp_path: Path, on: Host, fake_worker: FakeWorker
) -> None:
    on("avx512")
    project = write_project(tmp_path, ONE_MODEL)
    publish_fake(project)
    on("avx2")
    report = verify(project, project.targets)
    assert (verdicts(report), report.exit_code, fake_worker.calls) == (["refused"], 4, [])


def test_a_host_that_lacks_more_than_the_architecture_refuses_it(architecture: Project) -> None:
    edit(architecture, lambda document: document["requires"].update(torch="1.0.0"))
    report = verify(architecture, architecture.targets)
    assert (verdicts(report), report.exit_code) == (["refused"], 4)
    assert "built with torch 1.0.0" in str(report.verdicts[0].error)
    assert LACKS in str(report.verdicts[0].error)


def test_a_damaged_artifact_is_refused_on_every_host(architecture: Project) -> None:
    (artifact_directory(architecture, architecture.targets[0]) / MODEL).write_bytes(b"damaged")
    assert verify(architecture, architecture.targets).exit_code == 4


def test_a_service_does_not_load_it_before_it_is_verified(architecture: Project, on: Host) -> None:
    on("avx512")
    with pytest.raises(ArtifactError) as caught:
        load("small", artifacts=architecture.artifacts)
    cause = str(caught.value.cause)
    assert f"small/cpu: never compared with eager: where it was built, {LACKS}" in cause
    assert "run `invoke verify --target small/cpu` on a host that can run it" in cause
    assert "never compared" in "\n".join(
        inspect_lines(inspect(architecture, architecture.targets, host=True))
    )


@pytest.mark.usefixtures("fake_worker")
def test_a_service_loads_another_variant_until_then(tmp_path: Path, on: Host) -> None:
    project = write_project(tmp_path / "two", ONE_MODEL + "    cpu: {isa: [avx2, avx512]}\n")
    run_build(project)
    on("avx512")
    assert explain("small", artifacts=project.artifacts).best().target == "small/cpu-avx2"
    verify(project, project.targets)
    assert explain("small", artifacts=project.artifacts).best().target == "small/cpu-avx512"


def test_verify_on_a_capable_host_verifies_it(
    architecture: Project, on: Host, fake_worker: FakeWorker
) -> None:
    on("avx512")
    report = verify(architecture, architecture.targets, strict=True)
    assert (verdicts(report), report.exit_code, fake_worker.calls) == (
        ["passed"],
        0,
        ["check", "probe"],
    )
    settled = manifest_of(architecture)
    assert (settled.unverified, settled.check["passed"]) == (None, True)
    assert settled.check["cases"]
    assert explain("small", artifacts=architecture.artifacts).best().target == "small/cpu"
    for isa in ("avx512", "avx2"):
        on(isa)
        strict = build(architecture, architecture.targets, strict=True)
        assert (actions(strict), strict.exit_code, strict.outcomes[0].unverified) == (
            ["up-to-date"],
            0,
            None,
        )
    assert fake_worker.calls == ["check", "probe"]


def test_fresh_references_do_not_verify_an_out_of_date_artifact(
    architecture: Project, on: Host, fake_worker: FakeWorker
) -> None:
    on("avx512")
    helper = (architecture.root / "helper.py").read_text()
    (architecture.root / "helper.py").write_text("edited = 1\n")
    assert verdicts(verify(architecture, architecture.targets, fresh=True)) == ["passed"]
    assert manifest_of(architecture).unverified == LACKS
    (architecture.root / "helper.py").write_text(helper)
    assert verdicts(verify(architecture, architecture.targets, fresh=True)) == ["passed"]
    assert manifest_of(architecture).unverified is None
    assert fake_worker.calls.count("fresh small") == 2


@pytest.mark.parametrize("where", ["manifest", "store"])
def test_a_failed_verify_does_not_verify_it(
    architecture: Project, on: Host, fake_worker: FakeWorker, where: str
) -> None:
    on("avx512")
    fake_worker.answers["check"] = {"passed": False, "cases": [FAILED_CASE]}
    report = verify(architecture, architecture.targets)
    assert (verdicts(report), report.exit_code) == (["mismatch"], 3)
    found = (
        manifest_of(architecture)
        if where == "manifest"
        else store_of(architecture).by_key(manifest_of(architecture).key)
    )
    assert found is not None
    assert found.unverified == LACKS


def test_an_artifact_that_was_exchanged_during_verify_is_not_changed(
    architecture: Project, on: Host, fake_worker: FakeWorker
) -> None:
    on("avx512")
    fake_worker.during = lambda job_name, job: edit(
        architecture, lambda document: document.update(action="reused")
    )
    assert verdicts(verify(architecture, architecture.targets)) == ["passed"]
    assert manifest_of(architecture).unverified == LACKS


def test_a_manifest_that_cannot_be_written_is_reported(
    architecture: Project, on: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("avx512")
    said: list[str] = []

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Manifest, "write", refuse)
    report = verify(
        architecture, architecture.targets, on_progress=lambda target, phase: said.append(phase)
    )
    assert (verdicts(report), report.exit_code) == (["passed"], 0)
    assert "warning: passed, but its manifest cannot be written: Permission denied" in said


def test_build_on_a_capable_host_checks_the_published_artifact(
    architecture: Project, on: Host, fake_worker: FakeWorker
) -> None:
    before = manifest_of(architecture)
    on("avx512")
    step = plan_of(architecture)
    assert (step.action, [str(reason) for reason in step.reasons]) == (
        "recheck",
        [f"unverified: {LACKS}"],
    )
    report = run_build(architecture)
    assert (actions(report), report.outcomes[0].unverified, fake_worker.calls) == (
        ["rechecked"],
        None,
        ["check"],
    )
    assert manifest_of(architecture).files == before.files
    assert action_of(architecture) == "up-to-date"
    stored = store_of(architecture).by_key(before.key)
    assert stored is not None
    assert stored.unverified is None  # so that others who have it need not compare it again


def test_an_artifact_that_fails_there_stays_unverified(
    architecture: Project, on: Host, fake_worker: FakeWorker
) -> None:
    on("avx512")
    fake_worker.answers["check"] = {"passed": False, "cases": [FAILED_CASE]}
    report = run_build(architecture)
    assert (actions(report), report.exit_code) == (["failed"], 1)
    assert manifest_of(architecture).unverified == LACKS
    assert report.as_json()["targets"][0]["unverified"] == LACKS


def test_a_failed_build_reports_that_the_published_artifact_is_unverified(
    architecture: Project, fake_worker: FakeWorker
) -> None:
    (architecture.root / "helper.py").write_text("edited = 1\n")
    fake_worker.answers["build"] = BuildError("no")
    report = run_build(architecture)
    assert (actions(report), report.exit_code) == (["failed"], 1)
    row = report.as_json()["targets"][0]
    assert (row["key"], row["unverified"]) == (manifest_of(architecture).key, LACKS)


def test_a_stored_artifact_is_checked_on_a_capable_host(
    architecture: Project, on: Host, fake_worker: FakeWorker
) -> None:
    clean(architecture, architecture.targets)
    on("avx512")
    report = run_build(architecture)
    assert (actions(report), report.outcomes[0].unverified, fake_worker.calls) == (
        ["restored"],
        None,
        ["check"],
    )
    fake_worker.calls.clear()
    clean(architecture, architecture.targets)
    on("avx2")
    again = run_build(architecture)
    assert (actions(again), again.outcomes[0].unverified, fake_worker.calls) == (
        ["restored"],
        None,
        [],
    )


def test_a_stored_artifact_stays_unverified_on_another_host(
    architecture: Project, fake_worker: FakeWorker
) -> None:
    clean(architecture, architecture.targets)
    report = run_build(architecture)
    assert (actions(report), report.outcomes[0].unverified, fake_worker.calls) == (
        ["restored"],
        LACKS,
        [],
    )


def test_a_check_on_another_host_is_found_in_the_store(
    architecture: Project, on: Host, fake_worker: FakeWorker, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(architecture.root, elsewhere)
    shutil.rmtree(elsewhere / "artifacts" / ".store")
    (elsewhere / "artifacts" / ".store").symlink_to(architecture.artifacts / ".store")
    on("avx512")
    other = write_project(elsewhere, ARCHITECTURE)
    verify(other, other.targets)
    on("avx2")
    fake_worker.calls.clear()
    report = run_build(architecture)
    assert (actions(report), report.outcomes[0].unverified, fake_worker.calls) == (
        ["restored"],
        None,
        [],
    )
    assert manifest_of(architecture).unverified is None


def test_an_unverified_manifest_does_not_replace_a_verified_one(
    architecture: Project, on: Host, fake_worker: FakeWorker
) -> None:
    on("avx512")
    verify(architecture, architecture.targets)
    on("avx2")
    report = run_build(architecture, force=True)
    assert (actions(report), report.outcomes[0].unverified) == (["compiled"], LACKS)
    clean(architecture, architecture.targets)
    fake_worker.calls.clear()
    again = run_build(architecture)
    assert (actions(again), again.outcomes[0].unverified, fake_worker.calls) == (
        ["restored"],
        None,
        [],
    )


def test_it_replaces_a_verified_one_without_files(
    architecture: Project, on: Host, fake_worker: FakeWorker
) -> None:
    on("avx512")
    verify(architecture, architecture.targets)
    on("avx2")
    store_of(architecture).object_path(manifest_of(architecture).files[MODEL].sha256).unlink()
    fake_worker.compiler = b"of other bytes"
    run_build(architecture, force=True)
    clean(architecture, architecture.targets)
    fake_worker.calls.clear()
    report = run_build(architecture)
    assert (actions(report), report.outcomes[0].unverified, fake_worker.calls) == (
        ["restored"],
        LACKS,
        [],
    )


def test_a_reused_package_keeps_only_a_check_that_passed(
    architecture: Project, on: Host, fake_worker: FakeWorker
) -> None:
    comment = "# a comment\ndef module(width): ...\n"
    (architecture.root / "helper.py").write_text(comment)
    assert (actions(run_build(architecture)), fake_worker.calls) == (["reused"], ["build small"])
    assert manifest_of(architecture).unverified == LACKS
    on("avx512")
    verify(architecture, architecture.targets)
    (architecture.root / "helper.py").write_text("# another\n" + comment)
    on("avx2")
    fake_worker.calls.clear()
    report = run_build(architecture)
    assert (actions(report), report.outcomes[0].unverified, fake_worker.calls) == (
        ["reused"],
        None,
        ["build small"],
    )


def test_a_package_that_is_reused_on_a_capable_host_is_checked(
    architecture: Project, on: Host, fake_worker: FakeWorker
) -> None:
    (architecture.root / "helper.py").write_text("# a comment\ndef module(width): ...\n")
    on("avx512")
    report = run_build(architecture)
    assert (actions(report), report.outcomes[0].unverified) == (["reused"], None)
    assert fake_worker.calls == ["build small", "check"]


def test_verified_code_with_new_weights_is_unverified(
    tmp_path: Path, on: Host, fake_worker: FakeWorker
) -> None:
    fake_worker.weights = {"external": True, "alignment": 64}
    project = write_project(tmp_path, ARCHITECTURE + "    weights: weights.safetensors\n")
    on("avx512")
    run_build(project)
    on("avx2")
    (project.root / "weights.safetensors").write_text("weights, version 2")
    fake_worker.ahead.clear()
    report = run_build(project)
    assert (actions(report), report.outcomes[0].unverified) == (["repacked"], LACKS)
    assert fake_worker.ahead == []  # no process waits for a check that will not be made


def test_another_tolerance_makes_a_verified_artifact_unverified(
    tmp_path: Path, on: Host, fake_worker: FakeWorker
) -> None:
    on("avx512")
    project = write_project(tmp_path, ARCHITECTURE)
    run_build(project)
    on("avx2")
    fake_worker.calls.clear()
    changed = write_project(tmp_path, ARCHITECTURE + "    tolerance: {atol: 0.5}\n")
    report = run_build(changed)
    assert (actions(report), report.outcomes[0].unverified, fake_worker.calls) == (
        ["rechecked"],
        LACKS,
        [],
    )
    assert action_of(changed) == "up-to-date"


def test_another_entry_of_the_list_rebuilds_nothing(
    tmp_path: Path, on: Host, fake_worker: FakeWorker
) -> None:
    on("avx512")
    run_build(write_project(tmp_path, ONE_MODEL + "    cpu: {isa: [avx2]}\n"))
    fake_worker.calls.clear()
    longer = write_project(tmp_path, ONE_MODEL + "    cpu: {isa: [avx2, avx512, native]}\n")
    report = run_build(longer)
    assert [outcome.target.name for outcome in report.outcomes] == [
        "small/cpu-avx2", "small/cpu-avx512", "small/cpu",
    ]  # fmt: skip
    assert actions(report) == ["up-to-date", "compiled", "compiled"]


def test_an_architecture_of_another_machine_cannot_be_built(
    tmp_path: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = os.uname()
    monkeypatch.setattr(os, "uname", lambda: type(here)((*here[:4], "aarch64")))
    project = write_project(tmp_path, ARCHITECTURE)
    report = run_build(project)
    assert (actions(report), report.exit_code, fake_worker.calls) == (["unavailable"], 0, [])
    assert "no-device: cpu with isa avx512, which is of x86_64; this host is aarch64" in "\n".join(
        text.build_lines(report)
    )
    assert build(project, project.targets, strict=True).exit_code == 1
    assert (
        verdicts(verify(project, project.targets)),
        run(project, project.targets).targets[0].verdict,
    ) == (
        ["unavailable"],
        "unavailable",
    )


def test_a_compile_that_runs_code_for_another_architecture_is_explained(
    tmp_path: Path, on: Host, fake_worker: FakeWorker
) -> None:
    fake_worker.answers["build"] = WorkerCrash(
        "the worker was killed by SIGILL", signal_name="SIGILL"
    )
    assert on
    report = run_build(write_project(tmp_path / "below", ARCHITECTURE))
    said = str(report.outcomes[0].error)
    assert report.exit_code == 1
    assert "this host cannot run code for isa avx512, which inductor ran" in said
    assert "max_autotune" in said
    on("avx512")
    again = run_build(write_project(tmp_path / "above", ARCHITECTURE))
    assert "killed by SIGILL" in str(again.outcomes[0].error)


def test_reference_data_without_tensors_are_reported_and_no_mismatch(
    architecture: Project, on: Host, fake_worker: FakeWorker
) -> None:
    on("avx512")
    skipped = {
        "name": "example",
        "sizes": {},
        "seed": 0,
        "skipped": "no room for its outputs",
        "outputs": [],
    }
    fake_worker.answers["check"] = {"passed": False, "cases": [skipped]}
    report = run_build(architecture)
    assert (actions(report), report.exit_code) == (["failed"], 1)
    assert "cannot be compared with eager" in str(report.outcomes[0].error)
    assert "--force" in str(report.outcomes[0].error)


def run_build(project: Project, *, force: bool = False) -> BuildReport:
    return build(project, project.targets, force=force)


def actions(report: BuildReport) -> list[str]:
    return [outcome.action for outcome in report.outcomes]


def verdicts(report: VerifyReport) -> list[str]:
    return [verdict.verdict for verdict in report.verdicts]


def manifest_of(project: Project, target: Target | None = None) -> Manifest:
    manifest = read_manifest(artifact_directory(project, target or project.targets[0]))
    assert isinstance(manifest, Manifest), manifest
    json.dumps(manifest.as_json())
    return manifest
