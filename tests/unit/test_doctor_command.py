"""`doctor`: which checks are made, what a failure of the small model means, and what is printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_projects import FakeWorker, inv

from aoti_build.commands.doctor import command
from aoti_build.commands.doctor import failures as doctor_failures
from aoti_build.commands.doctor.command import DoctorReport, doctor
from aoti_build.commands.doctor.failures import explain
from aoti_build.errors import AotiBuildError, BuildError, Interrupted
from aoti_build.host.checks.finding import FAIL, OK, SKIPPED, UNAVAILABLE, Finding
from aoti_build.report.text import doctor_lines
from aoti_build.work.crash import WorkerCrash

ABSENT = Finding("device", UNAVAILABLE, "there is no driver", "cuda")
Quick = Callable[..., None]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Quick:
    """Sets what the quick checks find."""

    def find(*findings: Finding) -> None:
        found = [Finding("compiler", OK, "fit"), *findings]
        monkeypatch.setattr(command, "quick_checks", lambda *_, **__: found)

    find()
    return find


def outcomes(report: DoctorReport) -> dict[str, str]:
    return {f"{one.check} {one.device or ''}".strip(): one.outcome for one in report.findings}


def test_the_small_model_is_built_checked_and_leaves_nothing(
    quick: Quick, fake_worker: FakeWorker
) -> None:
    quick()
    roots: list[Path] = []

    def during(_: str, job: Any) -> None:
        roots.append(Path(job.root))
        write_helper(roots[-1])

    fake_worker.during = during
    report = doctor(["cpu"])
    assert fake_worker.calls == ["build doctor", "check"]
    assert (outcomes(report), report.exit_code) == ({"compiler": OK, "model cpu": OK}, 0)
    assert not any(root.exists() for root in roots)


def test_a_shared_store_is_left_alone(
    quick: Quick, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quick()
    monkeypatch.setenv("AOTI_BUILD_STORE", str(tmp_path / "store"))
    fake_worker.during = lambda _, job: write_helper(Path(job.root))
    assert doctor(["cpu"]).exit_code == 0
    assert fake_worker.decisions == ["compile"]
    assert not (tmp_path / "store").exists()


def test_quick_compiles_no_model(quick: Quick, fake_worker: FakeWorker) -> None:
    quick(ABSENT)
    report = doctor(quick=True)
    assert (outcomes(report), report.exit_code) == ({"compiler": OK, "device cuda": UNAVAILABLE}, 0)
    assert fake_worker.calls == []


def test_a_missing_device_fails_only_if_it_was_asked_for(
    quick: Quick, fake_worker: FakeWorker
) -> None:
    quick(ABSENT)
    assert doctor(quick=True).exit_code == 0
    assert doctor(quick=True, strict=True).exit_code == 5
    asked = doctor(["cuda"])
    assert (outcomes(asked), asked.exit_code) == ({"compiler": OK, "device cuda": FAIL}, 5)
    assert fake_worker.calls == []


def test_the_model_is_not_tried_with_a_compiler_that_is_known_to_be_broken(
    quick: Quick, fake_worker: FakeWorker
) -> None:
    quick(
        Finding("compiler", FAIL, "broken", stops=True),
        Finding("driver", FAIL, "too old", "cuda", stops=True),
    )
    report = doctor()
    assert report.exit_code == 5
    assert [one.outcome for one in report.findings if one.check == "model"] == [SKIPPED, SKIPPED]
    assert "compiler failed" in report.findings[-2].message
    assert "compiler, driver failed" in report.findings[-1].message
    assert fake_worker.calls == []


@pytest.mark.parametrize(
    ("signal", "fix"),
    [
        ("SIGSEGV", "CXX=/usr/bin/other"),
        ("SIGKILL", "memory"),
        ("SIGILL", "-march"),
        ("SIGBUS", "TMPDIR"),
    ],
)
def test_a_crash_names_signal_phase_cause_and_fix(
    quick: Quick, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, signal: str, fix: str
) -> None:
    quick()
    monkeypatch.setattr(doctor_failures, "other_compiler", lambda: "CXX=/usr/bin/other")
    fake_worker.during = lambda _, job: write_helper(Path(job.root))
    fake_worker.answers["check"] = WorkerCrash(
        f"killed by {signal}", signal_name=signal, cause="the log's end"
    )
    report = doctor(["cpu"])
    finding = report.findings[-1]
    assert (finding.check, finding.outcome, report.exit_code) == ("model", FAIL, 5)
    assert f"ended by {signal} when it was run: " in finding.message
    assert (finding.cause or "").startswith("the log's end")
    assert fix in (finding.fix or "")


@pytest.mark.parametrize(
    ("cause", "phase", "fix"),
    [
        ("CUDA error: no kernel image is available for execution", "check", "get_arch_list"),
        ("OSError: [Errno 28] No space left on device", "compile", "TMPDIR"),
        ("/usr/bin/ld: cannot find -lcuda", "compile", "LIBRARY_PATH"),
        ("x.so: failed to map segment from shared object", "load", "allows execution"),
        ("API call failed", "load", "CXX=/usr/bin/other"),
        ("something new", "compile", "see the log"),
    ],
)
def test_what_torch_says_is_explained(
    monkeypatch: pytest.MonkeyPatch, cause: str, phase: str, fix: str
) -> None:
    monkeypatch.setattr(doctor_failures, "other_compiler", lambda: "CXX=/usr/bin/other")
    error: AotiBuildError = BuildError("it broke", cause=cause, hint="see the log")
    finding = explain(error, "cuda", ["export", phase])
    assert (finding.outcome, finding.device, finding.cause) == (FAIL, "cuda", cause)
    assert "it broke" in finding.message
    assert fix in (finding.fix or "")


def test_the_log_of_a_failure_is_kept(
    quick: Quick, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quick()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def fail(_: str, job: Any) -> None:
        (log,) = Path(job.root, "artifacts", ".logs").iterdir()
        raise BuildError("it broke", cause="because", hint="the log has more", log=log)

    fake_worker.during = fail
    finding = doctor(["cpu"]).findings[-1]
    kept = tmp_path / "aoti_build" / "logs" / "doctor@cpu.log"
    assert (finding.cause, finding.fix) == (f"because\nthe log is {kept}", "the log has more")
    assert kept.read_text() == "build was here\n"


def test_an_interrupt_ends_it(quick: Quick, fake_worker: FakeWorker) -> None:
    quick()
    fake_worker.answers["build"] = KeyboardInterrupt()
    with pytest.raises(Interrupted):
        doctor(["cpu"])


def test_the_screen_shows_cause_and_fix_below_what_failed() -> None:
    failed = Finding(
        "compiler", FAIL, "broken", cause="two\nlines", fix="CXX=/usr/bin/g++", stops=True
    )
    lines = doctor_lines(
        DoctorReport((failed, Finding("memory", OK, "enough", cause="not shown"), ABSENT))
    )
    assert lines[0].split() == ["check", "device", "outcome", "found"]
    assert lines[1].split() == ["compiler", "fail", "broken"]
    assert lines[2:5] == ["  cause: two", "         lines", "  fix:   CXX=/usr/bin/g++"]
    assert "not shown" not in "\n".join(lines)
    assert lines[-1] == "3 checks: 1 fail, 1 ok, 1 unavailable"


def test_it_works_without_a_models_yaml_and_with_a_wrong_one(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    answer = inv("doctor", "--quick", "--device", "cpu", "--json", cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    document = json.loads(answer.stdout)
    assert (document["format"], document["ok"]) == ("aoti-build/doctor", True)
    assert "artifacts" not in {check["check"] for check in document["checks"]}
    (tmp_path / "models.yaml").write_text("nonsense: [")
    answer = inv("doctor", "--quick", "--device", "cpu", cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert f"{tmp_path}/artifacts" in answer.stdout
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    "words", [["--device", "gpu"], ["--device", ","], ["--file", "absent.yaml"]], ids=" ".join
)
def test_wrong_usage(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    answer = inv("doctor", *words, cwd=tmp_path)
    assert (answer.returncode, "Traceback" in answer.stderr) == (2, False)
    assert words[1] in answer.stderr


def write_helper(root: Path) -> None:
    """A file that a pretended worker reports beside the model's own."""
    (root / "helper.py").touch()
