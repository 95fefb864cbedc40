"""How long the stages of earlier builds took. A wrong record makes a wrong estimate at most."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_projects import FakeWorker

from aoti_build.artifact.paths import durations_path
from aoti_build.commands.build import build
from aoti_build.models_file import Project
from aoti_build.planning.actions import Done
from aoti_build.work.durations import Durations
from aoti_build.work.outcome import Outcome
from aoti_build.work.watch import Progress


def test_a_build_records_its_stages(project: Project, fake_worker: FakeWorker) -> None:
    build(project, project.targets)
    stages = Durations(durations_path(project)).expected["small/cpu"]
    assert {"start", "export", "publish"} <= stages.keys()
    assert all(0 <= seconds < 60 for seconds in stages.values())


def test_stages_that_a_build_did_not_have_stay(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 50.0
    monkeypatch.setattr("aoti_build.work.durations.time.monotonic", lambda: now)
    record = durations_path(project)
    record.parent.mkdir()
    (target,) = project.targets
    first = {"export": 1.0, "compile": 3.0, "check": 2.0}
    for phases in (first, {"export": 1.0, "repack": 4.0, "check": 7.0}):
        durations = Durations(record)
        durations.started(target)
        for name, seconds in phases.items():
            durations.phase(target, name)
            if name == "compile":
                durations.stage(target, Progress("wrapper"))
            # A sentence for people is no stage.
            durations.phase(target, "waiting for another build of this target")
            durations.phase(target, name if name != "compile" else "wrapper")
            now += seconds
        durations.ended(Outcome(target, Done.COMPILED))
        durations.save()
    stages = Durations(record).expected["small/cpu"]
    assert stages == {
        "start": 0,
        "export": 1,
        "compile": 0,
        "wrapper": 3,
        "check": 7,
        "repack": 4,
    }


@pytest.mark.parametrize(
    ("action", "known"),
    [
        # A restore starts no worker.
        (Done.RESTORED, {"start": 9.0, "restore": 2.0}),
        (Done.RECHECKED, {"start": 9.0, "restore": 2.0}),
        (Done.REPRODUCED, {"start": 9.0}),
        (Done.FAILED, {"start": 9.0}),
        (Done.UP_TO_DATE, {"start": 9.0}),
    ],
)
def test_what_is_no_build_does_not_change_what_a_build_takes(
    project: Project, monkeypatch: pytest.MonkeyPatch, action: Done, known: dict[str, float]
) -> None:
    write(project, {"small/cpu": {"start": 9.0}})
    now = 50.0
    monkeypatch.setattr("aoti_build.work.durations.time.monotonic", lambda: now)
    (target,) = project.targets
    durations = Durations(durations_path(project))
    durations.started(target)
    durations.phase(target, "restore")
    now += 2
    durations.ended(Outcome(target, action))
    durations.save()
    assert Durations(durations_path(project)).expected == {"small/cpu": known}


@pytest.mark.parametrize(
    "entry",
    [
        -1,
        True,
        "3",
        None,
        1e300,
        [3],
        float("nan"),
        float("inf"),
    ],
)
def test_what_is_no_duration_is_left_out(project: Project, entry: object) -> None:
    write(project, {"small/cpu": {"export": entry, "check": 2.5}, "other": entry})
    expected = Durations(durations_path(project)).expected
    assert expected == {"small/cpu": {"check": 2.5}}


def test_a_record_that_others_may_write_is_not_read(project: Project) -> None:
    write(project, {"small/cpu": {"check": 2.5}})
    durations_path(project).chmod(0o666)
    assert Durations(durations_path(project)).expected == {}


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"format": "other"}'])
def test_a_broken_record_is_an_empty_one(project: Project, content: bytes) -> None:
    path = durations_path(project)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert Durations(path).expected == {}


def write(project: Project, targets: dict[str, object]) -> None:
    path: Path = durations_path(project)
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"format": "aoti-build/durations", "format_version": 1, "targets": targets}
    path.write_text(json.dumps(document))
    path.chmod(0o644)
