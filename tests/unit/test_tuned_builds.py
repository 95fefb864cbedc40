"""A build follows tuned.yaml: reasons, notes, and what stays as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_projects import ONE_MODEL, FakeWorker, publish_fake, write_project

from aoti_build.commands.build import BuildReport, build, plan
from aoti_build.commands.plan_report import PlanReport
from aoti_build.commands.status import status
from aoti_build.host.devices import device_named
from aoti_build.models_file import Project
from aoti_build.report import text
from aoti_build.work.worker import yaml_positions

MODELS = ONE_MODEL + "    inductor_configs: [default, tuned]\n"
TUNED = """\
version: 1
targets:
  small/cpu-tuned:
    this-host:
      candidate: threads
      options: {cpp.threads: 1}
      evidence: {ratio: 0.8, low: 0.7, high: 0.9, pairs: 8, default_ms: 2, tuned_ms: 1.6,
                 torch: 2.14.1, created: 2026-11-30}
"""


@pytest.fixture(autouse=True)
def _this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(device_named("cpu")), "host_class", lambda _: "this-host")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    write_project(root, MODELS)
    (root / "tuned.yaml").write_text(TUNED)
    return root


def loaded(root: Path) -> Project:
    return write_project(root, MODELS)


def test_a_changed_entry_rebuilds_its_target_alone_and_names_the_file(root: Path) -> None:
    project = loaded(root)
    for target in project.targets:
        publish_fake(project, target)
    assert [step.action for step in plan(project, project.targets).steps] == ["up-to-date"] * 2
    (root / "tuned.yaml").write_text(TUNED.replace("cpp.threads: 1", "cpp.threads: 2"))
    project = loaded(root)
    default, tuned = plan(project, project.targets).steps
    assert default.action == "up-to-date"
    assert [str(reason) for reason in tuned.reasons] == [
        "config-changed: tuned.yaml: cpp.threads 1 -> 2"
    ]


def test_a_build_takes_the_artifact_of_an_equal_preset_from_the_store(
    root: Path, fake_worker: FakeWorker
) -> None:
    # `tune` leaves such an artifact: built for another target, with the same options.
    equal = MODELS.replace("models:", "inductor_configs: {one: {cpp.threads: 1}}\nmodels:")
    project = write_project(root, equal.replace("[default, tuned]", "[one]"))
    build(project, project.targets)
    fake_worker.calls.clear()
    project = loaded(root)
    report = build(project, project.targets[1:])
    assert [outcome.action for outcome in report.outcomes] == ["restored"]
    assert fake_worker.calls == []


def test_without_an_entry_build_and_status_say_so_in_one_line(
    root: Path, fake_worker: FakeWorker
) -> None:
    assert not any("note" in line for line in text.status_lines(status(loaded(root))))
    (root / "tuned.yaml").unlink()
    project = loaded(root)
    report = build(project, project.targets)
    planned = plan(project, project.targets)
    for lines in (
        text.build_lines(report),
        text.status_lines(status(project)),
        text.plan_lines(planned),
    ):
        (note,) = [line for line in lines if line.startswith("note: ")]
        assert "small/cpu-tuned" in note
        assert "this-host" in note
    documents: list[BuildReport | PlanReport] = [report, PlanReport(planned)]
    for document in documents:
        assert len(document.as_json()["notes"]) == 1
    assert json.dumps(status(project).as_json()["notes"]).count("tuned.yaml") == 1
    assert fake_worker.decisions, "it is built all the same, with the default options"


def test_an_unknown_option_is_reported_in_the_file_that_has_it(root: Path) -> None:
    project = loaded(root)
    default, tuned = project.targets
    assert yaml_positions(project, tuned)["inductor_configs"] == "tuned.yaml:6:16"
    assert yaml_positions(project, default)["inductor_configs"].startswith("models.yaml:")


def test_an_option_of_a_preset_has_a_position_of_its_own(tmp_path: Path) -> None:
    text = ONE_MODEL + "    inductor_configs: [own]\n"
    text += "inductor_configs:\n  own:\n    max_autotune: true\n    cpp.threads: four\n"
    project = write_project(tmp_path, text)
    positions = yaml_positions(project, project.targets[0])
    assert positions["inductor_configs"] == "models.yaml:8:23"
    assert positions["inductor_configs.cpp.threads"] == "models.yaml:12:18"
