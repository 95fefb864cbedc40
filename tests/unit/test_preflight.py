"""The preflight: it checks each toolchain once, and only before a compile."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from small_projects import ONE_MODEL, TWO_MODELS, FakeWorker, edit, inv, write_project

from aoti_build.artifact.paths import artifact_directory, passed_checks_path
from aoti_build.commands.build import build
from aoti_build.errors import Interrupted, ToolchainError
from aoti_build.host.checks.finding import FAIL, OK, WARN, Finding
from aoti_build.models_file import Project
from aoti_build.work import host_checks
from aoti_build.work.processes import check_stopping

FATAL = Finding(
    "compiler", FAIL, "it is broken", cause="it said so", fix="CXX=/usr/bin/g++", stops=True
)
NOT_FATAL = Finding("openssl", FAIL, "there is none", fix="install openssl")


class Checks:
    """Replaces the real checks: records each call, and returns the findings of a test."""

    def __init__(self) -> None:
        self.findings: list[Finding] = [Finding("compiler", OK, "fit")]
        self.device_lists: list[tuple[str, ...]] = []

    def __call__(self, devices: Sequence[str], artifacts: Path | None, **_: Any) -> list[Finding]:
        self.device_lists.append(tuple(devices))
        return self.findings


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    checks = Checks()
    monkeypatch.setattr(host_checks, "quick_checks", checks)
    return checks


def test_nothing_is_compiled_with_a_broken_toolchain(
    project: Project, fake_worker: FakeWorker, checks: Checks
) -> None:
    checks.findings = [NOT_FATAL, FATAL]
    with pytest.raises(ToolchainError) as caught:
        build(project, project.targets)
    error = caught.value
    assert (error.exit_code, error.message, error.cause) == (5, "it is broken", "it said so")
    assert error.hint
    assert "CXX=/usr/bin/g++" in error.hint
    assert "invoke doctor" in error.hint
    assert fake_worker.decisions == []
    assert not artifact_directory(project, project.targets[0]).exists()


def test_workers_end_as_soon_as_the_toolchain_is_known_to_be_broken(
    project: Project, fake_worker: FakeWorker, checks: Checks
) -> None:
    checks.findings = [FATAL]
    ended = []

    def export(job_name: str, job: Any) -> None:
        for _ in range(1000):  # an export of ten seconds
            try:
                check_stopping()
            except Interrupted:
                ended.append(job_name)
                raise
            time.sleep(0.01)

    fake_worker.during = export
    with pytest.raises(ToolchainError):
        build(project, project.targets)
    assert ended == ["build"]


def test_whatever_ends_the_checks_ends_the_workers(
    project: Project, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    def export(job_name: str, job: Any) -> None:
        for _ in range(1000):  # an export of ten seconds
            check_stopping()
            time.sleep(0.01)

    monkeypatch.setattr(host_checks, "quick_checks", refuse)
    fake_worker.during = export
    before = time.monotonic()
    with pytest.raises(OSError, match="no space left"):
        build(project, project.targets)
    assert time.monotonic() - before < 5


@pytest.mark.parametrize("jobs", [1, 2])
def test_each_target_that_needs_the_compiler_has_an_error_of_its_own(
    tmp_path: Path, fake_worker: FakeWorker, checks: Checks, jobs: int
) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    build(project, project.targets)
    checks.findings, checks.device_lists = [FATAL], []
    passed_checks_path(project.artifacts).unlink()
    (project.root / "model.py").write_text(
        "another = 1\n" + (project.root / "model.py").read_text()
    )
    report = build(project, project.targets, jobs=jobs, keep_going=True)
    assert (report.exit_code, len(checks.device_lists), len(fake_worker.decisions)) == (5, 1, 2)
    errors = [(row["target"], row["error"]["target"]) for row in report.as_json()["targets"]]
    assert errors == [("first/cpu", "first/cpu"), ("second/cpu", "second/cpu")]


def test_what_passed_is_not_checked_again(
    project: Project, fake_worker: FakeWorker, checks: Checks
) -> None:
    build(project, project.targets)
    assert checks.device_lists == [("cpu",)]
    build(project, project.targets, force=True)
    assert len(checks.device_lists) == 1
    assert fake_worker.calls.count("build small") == 2


def test_a_failure_is_not_remembered(
    project: Project, fake_worker: FakeWorker, checks: Checks
) -> None:
    checks.findings = [FATAL]
    for _ in range(2):
        with pytest.raises(ToolchainError):
            build(project, project.targets)
    checks.findings = []
    assert build(project, project.targets).exit_code == 0
    assert len(checks.device_lists) == 3
    assert fake_worker.decisions == ["compile"]


@pytest.mark.parametrize(
    "variable", ["CXX", "PATH", "TMPDIR", "AOTI_BUILD_CACHE", "AOTI_BUILD_STORE"]
)
def test_another_toolchain_or_place_is_checked(
    project: Project,
    fake_worker: FakeWorker,
    checks: Checks,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    tmp_path: Path,
) -> None:
    build(project, project.targets)
    monkeypatch.setenv(variable, str(tmp_path))
    build(project, project.targets, force=True)
    assert len(checks.device_lists) == 2
    monkeypatch.undo()
    assert fake_worker.calls


def test_both_of_two_toolchains_are_remembered(
    project: Project, fake_worker: FakeWorker, checks: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in ("g++", "/no/such/compiler", "g++", "/no/such/compiler"):
        monkeypatch.setenv("CXX", value)
        build(project, project.targets, force=True)
    assert len(checks.device_lists) == 2
    assert fake_worker.calls


@pytest.mark.usefixtures("published")
def test_what_is_up_to_date_is_not_checked(project: Project, checks: Checks) -> None:
    build(project, project.targets)
    assert checks.device_lists == []
    assert not passed_checks_path(project.artifacts).exists()


def test_an_edit_under_the_same_toolchain_may_need_no_compile(
    project: Project, fake_worker: FakeWorker, checks: Checks
) -> None:
    """Its code can come from the store, so a broken compiler must not be in its way."""
    build(project, project.targets)
    checks.findings, checks.device_lists = [FATAL], []
    passed_checks_path(project.artifacts).unlink()
    (project.root / "model.py").write_text(
        "# a comment\n" + (project.root / "model.py").read_text()
    )
    assert build(project, project.targets).exit_code == 0
    assert (checks.device_lists, fake_worker.decisions[1:]) == ([], ["take"])


def test_code_from_a_store_needs_no_compiler(
    project: Project,
    fake_worker: FakeWorker,
    checks: Checks,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A fresh checkout on a host with a broken compiler, where a shared store has the graph."""
    monkeypatch.setenv("AOTI_BUILD_STORE", str(tmp_path / "shared"))
    build(project, project.targets)
    shutil.rmtree(project.artifacts)
    checks.findings = [FATAL]
    (project.root / "model.py").write_text(
        "# a comment\n" + (project.root / "model.py").read_text()
    )
    report = build(project, project.targets)
    assert (report.exit_code, [outcome.action for outcome in report.outcomes]) == (0, ["reused"])
    with pytest.raises(ToolchainError):
        build(project, project.targets, force=True)


def test_an_edit_that_turns_out_to_need_a_compile_is_checked_then(
    project: Project, fake_worker: FakeWorker, checks: Checks
) -> None:
    build(project, project.targets)
    checks.findings, checks.device_lists = [FATAL], []
    passed_checks_path(project.artifacts).unlink()
    (project.root / "model.py").write_text(
        "another = 1\n" + (project.root / "model.py").read_text()
    )
    report = build(project, project.targets)
    assert (report.exit_code, len(checks.device_lists)) == (5, 1)
    assert [error.message for outcome in report.outcomes if (error := outcome.error)] == [
        "it is broken"
    ]
    assert fake_worker.decisions == ["compile"], "the one before"


@pytest.mark.usefixtures("published")
def test_a_changed_toolchain_is_checked(
    project: Project, fake_worker: FakeWorker, checks: Checks
) -> None:
    edit(project, lambda document: document["source"]["toolchain"].update({"cxx.version": "older"}))
    build(project, project.targets)
    assert (len(checks.device_lists), len(fake_worker.calls)) == (1, 2)


def test_a_preset_with_a_compiler_of_its_own_is_not_judged(
    tmp_path: Path, fake_worker: FakeWorker, checks: Checks
) -> None:
    own = "inductor_configs:\n  own: {cpp.cxx: g++-77}\n"
    project = write_project(tmp_path, ONE_MODEL + "    inductor_configs: [own]\n" + own)
    checks.findings = [FATAL]
    assert build(project, project.targets).exit_code == 0
    assert (checks.device_lists, fake_worker.calls[0]) == ([], "build small")


def test_failures_that_may_not_stop_a_compile_are_warnings(
    project: Project, fake_worker: FakeWorker, checks: Checks
) -> None:
    checks.findings = [NOT_FATAL, Finding("memory", WARN, "little")]
    progress: list[str] = []
    report = build(project, project.targets, on_progress=lambda _, text: progress.append(text))
    assert report.exit_code == 0
    assert "warning: openssl: there is none (install openssl)" in progress  # a worker may be faster
    assert fake_worker.calls
    assert not passed_checks_path(project.artifacts).exists(), (
        "the warning comes again until the host is repaired"
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"format": "aoti-build/passed-checks", "format_version": 2, "keys": []}'],
)
def test_an_unreadable_record_costs_the_checks(
    project: Project, fake_worker: FakeWorker, checks: Checks, content: bytes
) -> None:
    record = passed_checks_path(project.artifacts)
    record.parent.mkdir(parents=True)
    record.write_bytes(content)
    build(project, project.targets)
    assert len(checks.device_lists) == 1
    assert json.loads(record.read_bytes())["format_version"] == 1
    assert fake_worker.calls


def test_a_build_with_a_static_libstdcxx_ends_with_5_and_names_the_other_compiler(
    project: Project, tmp_path: Path
) -> None:
    """In processes of their own, with real checks and the compiler of this host."""
    bad = tmp_path / "g++-static"
    bad.write_text('#!/bin/sh\nexec /usr/bin/g++ -static-libstdc++ "$@"\n')
    bad.chmod(0o755)
    answer = inv("build", "--json", cwd=project.root, CXX=str(bad))
    assert answer.returncode == 5, answer.stderr
    error = json.loads(answer.stdout)["error"]
    assert (error["kind"], f"{bad} links libstdc++ statically" in error["message"]) == (
        "toolchain",
        True,
    )
    assert "CXX=/usr/bin/g++" in error["hint"]
    assert not artifact_directory(project, project.targets[0]).exists()
