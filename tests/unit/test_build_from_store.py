"""`build` with a store and a worker that asks: what is restored, reused, repacked, compiled, and
never wrongly so."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from small_projects import (
    FAILED_CASE,
    ONE_MODEL,
    TWO_MODELS,
    FakeWorker,
    action_of,
    contents,
    plan_of,
    sealed,
    store_of,
    write_project,
)

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, Manifest, read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.commands.build import BuildReport, build
from aoti_build.commands.clean import clean
from aoti_build.commands.why import why
from aoti_build.errors import BuildError
from aoti_build.models_file import Project
from aoti_build.store import local as stores
from aoti_build.store.local import LocalStore

EXTERNAL = {"external": True, "alignment": 64}
WITH_WEIGHTS = ONE_MODEL + "    weights: weights.safetensors\n"
# Two factories that make the same graph.
TWINS = """\
version: 1
models:
  first:
    source: model.py:build
    inputs: [{shape: [2, 4]}]
  second:
    source: model.py:build_again
    inputs: [{shape: [2, 4]}]
"""


@pytest.fixture
def weighty(tmp_path: Path, fake_worker: FakeWorker) -> Project:
    """A built project with a weights file apart from its code."""
    fake_worker.weights = EXTERNAL
    project = write_project(tmp_path / "weighty", WITH_WEIGHTS)
    run(project)
    fake_worker.calls.clear()
    fake_worker.decisions.clear()
    fake_worker.ahead.clear()
    return project


def test_an_earlier_state_of_the_same_files_is_found_by_its_key(
    project: Project, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many other states are stored."""
    for number in range(5):
        edit(project, "helper.py", f"edited = {number}\n")
        run(project)
    edit(project, "helper.py", "edited = 1\n")
    read: list[Path] = []
    read_record = stores._read
    monkeypatch.setattr(stores, "_read", lambda path: read.append(path) or read_record(path))
    assert (plan_of(project).action, len(read)) == ("restore", 1)
    assert fake_worker.calls.count("build small") == 5


def test_going_back_restores_without_a_worker(project: Project, fake_worker: FakeWorker) -> None:
    run(project)
    first, before = manifest_of(project), contents(directory(project))
    edit(project, "helper.py", "edited = 1\n")
    run(project)
    assert contents(directory(project))[MODEL] != before[MODEL]
    edit(project, "helper.py", "def module(width): ...\n")
    fake_worker.calls.clear()
    assert plan_of(project).action == "restore"
    report = run(project)
    assert (actions(report), report.exit_code, fake_worker.calls) == (["restored"], 0, [])
    assert [contents(directory(project))[name] for name in (MODEL, REFERENCE_DATA)] == [
        before[MODEL],
        before[REFERENCE_DATA],
    ]
    restored = manifest_of(project)
    assert (restored.key, restored.source, restored.action) == (first.key, first.source, "restored")
    assert [(reason["reason"], reason["what"]) for reason in restored.reasons] == [
        ("source-changed", "helper.py")
    ]
    assert action_of(project) == "up-to-date"


def test_a_full_disk_is_no_reason_to_compile(
    project: Project, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(project)
    clean(project, None)
    fake_worker.calls.clear()

    def refuse(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        report = run(project)
    assert (actions(report), report.exit_code, fake_worker.calls) == (["failed"], 1, [])
    assert "the disk is full" in str(report.outcomes[0].error)
    assert "No space left" in str(report.outcomes[0].error)
    assert not any((project.artifacts / ".staging").iterdir())
    assert actions(run(project)) == ["restored"]


def test_the_time_of_a_restore_has_the_copy_in_it(
    project: Project, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(project)
    clean(project, None)
    real = LocalStore.get_all

    def slow(*args: Any, **options: Any) -> bool:
        time.sleep(0.3)
        return real(*args, **options)

    monkeypatch.setattr(LocalStore, "get_all", slow)
    report = run(project)
    assert actions(report) == ["restored"]
    assert report.as_json()["targets"][0]["seconds"]["total"] >= 0.3


@pytest.mark.parametrize("loss", ["cleaned", "damaged", "manifest gone"])
def test_a_lost_artifact_is_restored(project: Project, fake_worker: FakeWorker, loss: str) -> None:
    run(project)
    before = contents(directory(project))
    fake_worker.calls.clear()
    if loss == "cleaned":
        clean(project, None)
    elif loss == "damaged":
        edit(project, f"artifacts/small/cpu/{MODEL}", "damaged")
    else:
        (directory(project) / "manifest.json").unlink()
    assert (actions(run(project)), fake_worker.calls) == (["restored"], [])
    assert contents(directory(project))[MODEL] == before[MODEL]


@pytest.mark.parametrize("name", [MODEL, REFERENCE_DATA])
def test_a_corrupted_object_is_not_restored_but_built(
    project: Project, fake_worker: FakeWorker, name: str
) -> None:
    run(project)
    before = contents(directory(project))
    path = store_of(project).object_path(manifest_of(project).files[name].sha256)
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    (directory(project) / MODEL).unlink()
    fake_worker.calls.clear()
    assert plan_of(project).action == "restore"
    report = run(project)
    assert report.exit_code == 0
    assert fake_worker.calls[0] == "build small"
    assert actions(report) == ["compiled" if name == MODEL else "reused"]
    assert [contents(directory(project))[file] for file in (MODEL, REFERENCE_DATA)] == [
        before[MODEL],
        before[REFERENCE_DATA],
    ]
    assert action_of(project) == "up-to-date"
    (directory(project) / MODEL).unlink()
    assert actions(run(project)) == ["restored"]


def test_a_comment_takes_the_whole_package(project: Project, fake_worker: FakeWorker) -> None:
    run(project)
    before = contents(directory(project))
    edit(project, "helper.py", "# a comment\ndef module(width): ...\n")
    fake_worker.calls.clear()
    assert actions(run(project)) == ["reused"]
    assert (fake_worker.decisions, fake_worker.calls) == (["compile", "take"], ["build small"])
    assert contents(directory(project))[MODEL] == before[MODEL]
    assert action_of(project) == "up-to-date"


def test_new_weights_are_put_into_the_same_code(weighty: Project, fake_worker: FakeWorker) -> None:
    edit(weighty, "weights.safetensors", "weights, version 2")
    assert actions(run(weighty)) == ["repacked"]
    assert (fake_worker.decisions, fake_worker.calls) == (["repack"], ["build small", "check"])
    assert contents(directory(weighty))[MODEL].endswith(b"weights: weights, version 2")
    assert manifest_of(weighty).weights == EXTERNAL
    assert action_of(weighty) == "up-to-date"


def test_a_likely_repacks_check_is_started_ahead(weighty: Project, fake_worker: FakeWorker) -> None:
    edit(weighty, "weights.safetensors", "weights, version 2")
    assert actions(run(weighty)) == ["repacked"]
    assert fake_worker.ahead == ["check started", "check given", "check ended"]


def test_a_check_started_ahead_for_nothing_is_ended(
    weighty: Project, fake_worker: FakeWorker
) -> None:
    """What looks like new weights, in a source edited as well, turns out to be an artifact known
    already."""
    first = (weighty.root / "weights.safetensors").read_text()
    edit(weighty, "weights.safetensors", "weights, version 2")
    run(weighty)
    fake_worker.ahead.clear()
    edit(weighty, "weights.safetensors", first)
    edit(weighty, "helper.py", "# a comment\n" + (weighty.root / "helper.py").read_text())
    assert actions(run(weighty)) == ["reused"]
    assert fake_worker.ahead == ["check started", "check ended"]


def test_a_check_started_ahead_that_died_meanwhile_is_made_by_another(
    project: Project, fake_worker: FakeWorker
) -> None:
    fake_worker.ahead_ends = True
    assert actions(run(project)) == ["compiled"]
    assert (fake_worker.ahead, fake_worker.calls) == (
        ["check started", "check ended"],
        ["build small", "check"],
    )


@pytest.mark.parametrize("job_name", ["build", "check"])
def test_a_check_started_ahead_ends_with_a_failure(
    weighty: Project, fake_worker: FakeWorker, job_name: str
) -> None:
    edit(weighty, "weights.safetensors", "weights, version 2")
    fake_worker.answers[job_name] = BuildError("no")
    assert actions(run(weighty)) == ["failed"]
    assert (fake_worker.ahead[0], fake_worker.ahead[-1]) == ("check started", "check ended")


@pytest.mark.parametrize("change", ["a source", "forced"])
def test_the_check_of_a_compile_is_started_with_it(
    weighty: Project, fake_worker: FakeWorker, change: str
) -> None:
    phases: list[str] = []
    fake_worker.during = lambda job_name, job: phases.append(f"{job_name}: {fake_worker.ahead}")
    edit(weighty, "helper.py", "edited = 1\n")
    build(weighty, weighty.targets, force=change == "forced")
    assert (fake_worker.decisions, fake_worker.ahead) == (
        ["compile"],
        ["check started", "check given", "check ended"],
    )
    assert phases[0] == "build: []", "not with the export, which may end without a compile"


def test_a_record_without_alignment_is_a_miss(project: Project, fake_worker: FakeWorker) -> None:
    fake_worker.weights = {"external": True}
    run(project)
    assert actions(run(write_project(project.root, ONE_MODEL + "    seed: 1\n"))) == ["compiled"]


def test_repacked_bytes_are_the_compiled_bytes(weighty: Project, fake_worker: FakeWorker) -> None:
    edit(weighty, "weights.safetensors", "weights, version 2")
    run(weighty)
    repacked = contents(directory(weighty))
    assert actions(build(weighty, weighty.targets, force=True)) == ["compiled"]
    assert contents(directory(weighty))[MODEL] == repacked[MODEL]


def test_new_weights_inside_the_code_are_compiled_and_it_is_said(
    tmp_path: Path, fake_worker: FakeWorker
) -> None:
    project = write_project(tmp_path, WITH_WEIGHTS)
    run(project)
    edit(project, "weights.safetensors", "weights, version 2")
    (outcome,) = run(project).outcomes
    assert outcome.action == "compiled"
    assert [(reason.reason, reason.what) for reason in outcome.reasons] == [
        ("weights-changed", "weights.safetensors"),
        ("weights-in-code", "a fake"),
    ]


def test_code_is_reused_by_another_model_with_the_same_graph(
    tmp_path: Path, fake_worker: FakeWorker
) -> None:
    project = write_project(tmp_path, TWINS)
    assert actions(run(project)) == ["compiled", "reused"]
    assert (fake_worker.decisions, fake_worker.calls) == (
        ["compile", "take"],
        ["build first", "check", "build second"],
    )
    assert [manifest_of(project, index).target for index in (0, 1)] == ["first/cpu", "second/cpu"]


def test_equal_graphs_and_other_weights_do_not_mix(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker.weights = EXTERNAL
    first, second = TWINS.split("  second:")
    text = (
        f"{first}    weights: weights.safetensors\n  second:{second}    weights:"
        " other.safetensors\n"
    )
    (tmp_path / "other.safetensors").write_text("weights, but others")
    project = write_project(tmp_path, text)
    assert actions(run(project)) == ["compiled", "reused"]
    assert fake_worker.decisions == ["compile", "repack"]
    assert contents(directory(project))[MODEL].endswith(b"weights: weights, version 1")
    assert contents(directory(project, 1))[MODEL].endswith(b"weights: weights, but others")
    keys = {manifest_of(project, index).key for index in (0, 1)}
    assert len(keys) == 2


def test_one_graph_is_compiled_once_by_two_builds_at_once(
    tmp_path: Path, fake_worker: FakeWorker
) -> None:
    project = write_project(tmp_path, TWINS)
    together = threading.Barrier(2, timeout=20)
    fake_worker.during = lambda job_name, job: together.wait() if job_name == "build" else None
    report = build(project, project.targets, jobs=2)
    assert sorted(actions(report)) == ["compiled", "reused"]
    assert sorted(fake_worker.decisions) == ["compile", "take"]


def test_after_a_failed_compile_the_next_one_compiles(
    tmp_path: Path, fake_worker: FakeWorker
) -> None:
    project = write_project(tmp_path, TWINS)
    checks = iter([{"passed": False, "cases": [FAILED_CASE]}, {}])
    fake_worker.during = lambda job_name, job: (
        job_name == "check" and fake_worker.answers.update(check=next(checks))
    )
    assert actions(build(project, project.targets, jobs=1, keep_going=True)) == [
        "failed",
        "compiled",
    ]
    assert fake_worker.decisions == ["compile", "compile"]


def test_models_that_differ_only_in_name_share_an_artifact(
    tmp_path: Path, fake_worker: FakeWorker
) -> None:
    project = write_project(tmp_path, TWO_MODELS.replace("[3, 4]", "[2, 4]"))
    assert actions(run(project)) == ["compiled", "restored"]
    assert fake_worker.calls == ["build first", "check"]
    assert [manifest_of(project, index).target for index in (0, 1)] == ["first/cpu", "second/cpu"]


def test_another_seed_is_other_weights(tmp_path: Path, fake_worker: FakeWorker) -> None:
    fake_worker.weights = EXTERNAL
    run(write_project(tmp_path, ONE_MODEL))
    assert actions(run(write_project(tmp_path, ONE_MODEL + "    seed: 1\n"))) == ["repacked"]


def test_force_compiles_from_nothing(project: Project, fake_worker: FakeWorker) -> None:
    run(project)
    assert actions(build(project, project.targets, force=True)) == ["compiled"]
    assert fake_worker.decisions == ["compile", "compile"]


def test_what_is_taken_is_checked_again_if_eager_gives_something_else(
    project: Project, fake_worker: FakeWorker
) -> None:
    run(project)
    edit(project, "helper.py", "# a comment\ndef module(width): ...\n")
    fake_worker.calls.clear()
    assert actions(run(project)) == ["reused"]
    assert fake_worker.calls == ["build small"]
    fake_worker.eager = b", of code that is not exported"
    edit(project, "helper.py", "# another comment\ndef module(width): ...\n")
    assert actions(run(project)) == ["reused"]
    assert fake_worker.calls == ["build small", "build small", "check"]
    assert (directory(project) / REFERENCE_DATA).read_bytes().endswith(fake_worker.eager)


def test_another_reference_limit_makes_the_reference_file_anew_and_compiles_nothing(
    project: Project, fake_worker: FakeWorker
) -> None:
    run(project)
    fake_worker.calls.clear()
    smaller = write_project(project.root, ONE_MODEL + "    reference_data: {limit: 1k}\n")
    (reason,) = plan_of(smaller).reasons
    assert (reason.reason, reason.what, reason.new) == (
        "spec-changed",
        "reference_data.limit",
        1024,
    )
    assert actions(run(smaller)) == ["reused"]
    assert (fake_worker.decisions, fake_worker.calls) == (
        ["compile", "take"],
        ["build small", "check"],
    )
    assert action_of(smaller) == "up-to-date"


def test_a_tolerance_is_checked_again_and_compiles_nothing(
    project: Project, fake_worker: FakeWorker
) -> None:
    run(project)
    before = contents(directory(project))
    changed = write_project(project.root, ONE_MODEL + "    tolerance: {atol: 0.5}\n")
    fake_worker.calls.clear()
    assert (actions(run(changed)), fake_worker.calls) == (["rechecked"], ["check"])
    after = contents(directory(project))
    assert [after[name] for name in (MODEL, REFERENCE_DATA)] == [
        before[MODEL],
        before[REFERENCE_DATA],
    ]
    assert manifest_of(changed).check["tolerance"] == {"atol": 0.5, "rtol": None, "outputs": {}}


@pytest.mark.parametrize(("passed", "action"), [(True, "restored"), (False, "failed")])
def test_what_is_restored_is_checked_against_todays_tolerance(
    project: Project, fake_worker: FakeWorker, *, passed: bool, action: str
) -> None:
    run(project)
    clean(project, None)
    changed = write_project(project.root, ONE_MODEL + "    tolerance: {atol: 0.5}\n")
    fake_worker.calls.clear()
    fake_worker.answers["check"] = {"passed": passed, "cases": [FAILED_CASE]}
    assert actions(run(changed)) == [action]
    assert fake_worker.calls == ["check"] + (
        ["localize"] if not passed else []
    )  # where it leaves the model is looked for
    assert directory(project).exists() is passed


@pytest.mark.parametrize("name", ["model.py", "helper.py", "weights.safetensors"])
@pytest.mark.parametrize("moment", ["build", "check"])
def test_an_input_edited_meanwhile_is_neither_published_nor_stored(
    weighty: Project, fake_worker: FakeWorker, name: str, moment: str
) -> None:
    edit(weighty, "model.py", "edited = 1\n")
    before, stored = contents(directory(weighty)), contents(store_of(weighty).root / "objects")

    def during(job_name: str, job: Any) -> None:
        if job_name == moment:
            edit(weighty, name, "edited meanwhile\n")

    fake_worker.during = during
    if moment == "build" and name != "weights.safetensors":
        # The real worker refuses this itself; a fake one reads what is there when it is called.
        fake_worker.answers["build"] = {"sources": dict(manifest_of(weighty).source["sources"])}
    report = run(weighty)
    assert (actions(report), report.exit_code) == (["failed"], 1)
    assert "was edited while this target was built" in str(report.outcomes[0].error)
    assert name in str(report.outcomes[0].error)
    assert contents(directory(weighty)) == before
    assert contents(store_of(weighty).root / "objects") == stored


def test_the_same_bytes_twice_are_reproducible(project: Project, fake_worker: FakeWorker) -> None:
    report = build(project, project.targets, check_reproducible=True)
    assert (actions(report), report.exit_code) == (["reproduced"], 0)
    assert fake_worker.decisions == ["compile", "compile"]
    fake_worker.decisions.clear()
    report = build(project, project.targets, check_reproducible=True)
    assert (actions(report), report.exit_code, fake_worker.decisions) == (
        ["reproduced"],
        0,
        ["compile"],
    )


@pytest.mark.parametrize("built", [False, True])
def test_other_bytes_are_not_reproducible(
    project: Project, fake_worker: FakeWorker, *, built: bool
) -> None:
    if built:
        run(project)

    def during(job_name: str, job: Any) -> None:
        fake_worker.compiler = os.urandom(8)

    fake_worker.during = during
    report = build(project, project.targets, check_reproducible=True)
    assert (actions(report), report.exit_code) == (["failed"], 1)
    assert "other bytes" in str(report.outcomes[0].error)
    assert manifest_of(project).target == "small/cpu"
    assert report.as_json()["targets"][0]["key"] == manifest_of(project).key
    assert action_of(project) == "up-to-date"
    assert not any((project.artifacts / ".staging").iterdir())


def test_two_checkouts_share_a_store(
    tmp_path: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOTI_BUILD_STORE", str(tmp_path / "store"))
    one, other = write_project(tmp_path / "one"), write_project(tmp_path / "other")
    assert actions(run(one)) == ["compiled"]
    fake_worker.calls.clear()
    assert (actions(run(other)), fake_worker.calls) == (["restored"], [])
    assert contents(directory(other))[MODEL] == contents(directory(one))[MODEL]
    assert sorted(store_of(one).roots()) == sorted([one.artifacts, other.artifacts])


@pytest.mark.parametrize(
    "state", [".store", ".index.json", ".stat-cache.json", ".project-cache", ".logs", ".locks"]
)
def test_working_state_may_be_deleted(
    project: Project, fake_worker: FakeWorker, state: str
) -> None:
    run(project)
    path = project.artifacts / state
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert actions(run(project)) == ["up-to-date"]
    edit(project, "helper.py", "edited = 1\n")
    assert actions(run(project)) == ["compiled"]


def run(project: Project) -> BuildReport:
    return build(project, project.targets, jobs=1)


def actions(report: BuildReport) -> list[str]:
    return [outcome.action for outcome in report.outcomes]


def directory(project: Project, index: int = 0) -> Path:
    return artifact_directory(project, project.targets[index])


def manifest_of(project: Project, index: int = 0) -> Manifest:
    manifest = read_manifest(directory(project, index))
    assert isinstance(manifest, Manifest)
    return manifest


def edit(project: Project, name: str, text: str) -> None:
    (project.root / name).write_text(text)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {}},
        {"weights": {"external": True}},
        {"signature": {"inputs": [{}], "outputs": [], "dims": {}}},
        {"requires": {"device": "cpu"}},
        {"check": {"passed": True, "cases": [{}]}},
        {"reasons": [{"reason": "forced"}]},
        {"seconds": {"total": True}},
        {"key": "../../../outside"},
    ],
    ids=str,
)
def test_a_crafted_record_in_the_store_is_a_miss(
    project: Project, fake_worker: FakeWorker, change: Mapping[str, Any]
) -> None:
    """Its digest of itself is right; what it says is none of a manifest."""
    fake_worker.weights = EXTERNAL
    run(project)
    store = store_of(project)
    for kind in ("keys", "graphs", "traces"):
        for path in (store.root / kind).rglob("*.json"):
            path.write_text(json.dumps(sealed({**json.loads(path.read_text()), **change})))
    clean(project, None)
    fake_worker.decisions.clear()
    report = run(project)
    assert (actions(report), report.exit_code) == (["compiled"], 0)
    assert why(project, project.targets).as_json()["targets"][0]["state"] == "up-to-date"
    assert not any(path.name.startswith("outside") for path in project.root.parent.rglob("*"))
