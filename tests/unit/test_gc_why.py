"""`gc` keeps what artifacts in use need; `why` names every part that differs, and from what."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from small_projects import (
    ONE_MODEL,
    TWO_MODELS,
    FakeWorker,
    action_of,
    contents,
    inv,
    publish_fake,
    sealed,
    store_of,
    write_project,
)

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, Manifest, read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.commands.build import build
from aoti_build.commands.gc import gc
from aoti_build.commands.why import Explanation, why
from aoti_build.errors import ExitCode
from aoti_build.models_file import Project
from aoti_build.report import text
from aoti_build.store.interface import Store


@pytest.fixture
def history(project: Project, fake_worker: FakeWorker) -> list[Manifest]:
    """Three builds of one target, oldest first, each used an hour after the one before; the last
    one is published."""
    assert fake_worker
    made = []
    for number in range(3):
        (project.root / "helper.py").write_text(f"number = {number}\n")
        build(project, project.targets)
        made.append(manifest_of(project))
    for age, manifest in enumerate(reversed(made)):
        use(store_of(project), manifest, hours_ago=age)
    return made


def test_without_a_limit_all_that_nobody_uses_goes(
    project: Project, history: list[Manifest]
) -> None:
    published = contents(artifact_directory(project, project.targets[0]))
    report = gc(project)
    assert (report.removed, report.kept, report.in_use) == (4, 2, 2)
    assert report.removed_bytes == sum(
        file.size for old in history[:2] for file in old.files.values()
    )
    assert report.kept_bytes == sum(file.size for file in history[2].files.values())
    assert objects(project) == digests(history[2])
    assert list(store_of(project).manifests()) == [history[2]]
    assert contents(artifact_directory(project, project.targets[0])) == published
    assert action_of(project) == "up-to-date"


def test_what_is_kept_can_be_restored_and_what_went_is_built(
    project: Project, history: list[Manifest]
) -> None:
    gc(project)
    (artifact_directory(project, project.targets[0]) / MODEL).unlink()
    assert action_of(project) == "restore"
    (project.root / "helper.py").write_text("number = 0\n")
    assert action_of(project) == "build"
    assert [outcome.action for outcome in build(project, project.targets).outcomes] == ["compiled"]


def test_max_size_takes_the_least_recently_used_first(
    project: Project, history: list[Manifest]
) -> None:
    size = sum(stored.size for stored in store_of(project).list_objects())
    assert gc(project, max_size=size).removed == 0
    report = gc(project, max_size=size - 1)
    assert report.removed == 1
    assert objects(project) & digests(history[0]) != digests(history[0])
    assert digests(history[1]) | digests(history[2]) <= objects(project)
    use(store_of(project), history[1], hours_ago=9)
    kept = gc(project, max_size=sum(file.size for file in history[2].files.values()))
    assert objects(project) == digests(history[2])
    assert kept.kept_bytes == sum(file.size for file in history[2].files.values())


def test_max_size_keeps_what_is_in_use_whatever_its_size(
    project: Project, history: list[Manifest]
) -> None:
    assert gc(project, max_size=0).kept == 2
    assert objects(project) == digests(history[2])


def test_being_used_makes_young(project: Project, history: list[Manifest], tmp_path: Path) -> None:
    for file in history[0].files.values():
        assert store_of(project).get(file, tmp_path / "file")
    gc(project, max_age=1800)
    assert objects(project) == digests(history[0]) | digests(history[2])


def test_max_age(project: Project, history: list[Manifest]) -> None:
    assert gc(project, max_age=3 * 3600).removed == 0
    gc(project, max_age=1.5 * 3600)
    assert objects(project) == digests(history[1]) | digests(history[2])
    use(store_of(project), history[2], hours_ago=1000)
    gc(project, max_age=1800)
    assert objects(project) == digests(history[2])


def test_both_limits(project: Project, history: list[Manifest]) -> None:
    gc(project, max_age=1.5 * 3600, max_size=0)
    assert objects(project) == digests(history[2])


@pytest.mark.parametrize("limits", [{}, {"max_size": 0}, {"max_age": 0.0}], ids=str)
def test_a_dry_run_tells_the_same_and_removes_nothing(
    project: Project, history: list[Manifest], limits: dict[str, Any]
) -> None:
    before = contents(project.root)
    told = gc(project, dry_run=True, **limits)
    assert contents(project.root) == before
    done = gc(project, **limits)
    assert {**told.as_json(), "dry_run": False} == done.as_json()
    assert told.dry_run


def test_a_dry_run_makes_no_store(project: Project) -> None:
    before = contents(project.root)
    assert gc(project, dry_run=True).removed == 0
    assert contents(project.root) == before


def test_nothing_there_is_fine(project: Project) -> None:
    report = gc(project)
    assert (report.removed, report.removed_bytes, report.kept, report.in_use) == (0, 0, 0, 0)


def test_what_any_checkout_uses_stays(
    tmp_path: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOTI_BUILD_STORE", str(tmp_path / "store"))
    one, other = write_project(tmp_path / "one"), write_project(tmp_path / "other", TWO_MODELS)
    for project in (one, other):
        build(project, project.targets)
    kept = objects(one)
    assert len(kept) == 6
    assert gc(one, max_size=0).removed == 0
    assert objects(one) == kept
    (tmp_path / "other").rename(tmp_path / "gone")
    assert gc(one, max_size=0).removed == 4
    assert objects(one) == digests(manifest_of(one))


def test_an_artifact_published_elsewhere_before_its_root_was_known_is_kept_by_its_own_gc(
    project: Project, published: Path
) -> None:
    manifest = manifest_of(project)
    store_of(project).put(manifest, published)
    assert list(store_of(project).roots()) == []
    assert gc(project, max_size=0).removed == 0
    assert objects(project) == digests(manifest)


@pytest.mark.parametrize("name", [MODEL, REFERENCE_DATA])
def test_records_that_lead_nowhere_are_removed(
    project: Project, history: list[Manifest], name: str
) -> None:
    store = store_of(project)
    store.object_path(history[0].files[name].sha256).unlink()
    gc(project, max_size=1 << 40)
    assert [manifest for manifest in store.manifests() if manifest.key == history[0].key] == []
    assert store.by_key(history[0].key) is None
    assert store.by_key(history[1].key) == history[1]
    assert not any(history[0].key in path.name for path in (store.root / "keys").rglob("*.json"))


def test_damaged_records_are_removed(project: Project, history: list[Manifest]) -> None:
    store = store_of(project)
    damaged = [path for kind in ("keys", "traces") for path in (store.root / kind).rglob("*.json")]
    for path in damaged:
        path.write_text("garbage")
    gc(project, max_size=1 << 40)
    assert not any(path.exists() for path in damaged)


@pytest.mark.parametrize("option", ["--max-size", "--max-age"])
@pytest.mark.parametrize(
    "typed",
    ["x", "-1", "1.5g", "g", "10 g", "10x", "1_000", "²", "٣", "0x10", "9" * 5000],
    ids=lambda typed: ascii(typed)[:9],
)
def test_an_amount_that_is_none_is_wrong_usage(option: str, typed: str) -> None:
    from aoti_build.errors import UsageError
    from aoti_build.tasks.options import AGES, SIZES, read_amount

    with pytest.raises(UsageError, match=option) as caught:
        read_amount(option, typed, SIZES if option == "--max-size" else AGES)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("", 2),
        ("--max-size 10x", 2),
        ("--max-age=-1", 2),
        ("--max-size 10G --max-age 30d --dry-run", 0),
        ("--max-size 0", 0),
    ],
)
def test_exit_codes_of_gc(project: Project, history: list[Manifest], words: str, code: int) -> None:
    before = contents(store_of(project).root)
    answer = inv("gc", *words.split(), cwd=project.root)
    assert answer.returncode == code, answer.stderr
    assert "Traceback" not in answer.stderr
    assert (objects(project) == digests(history[2])) is (words == "--max-size 0")
    assert (contents(store_of(project).root) == before) is (words != "--max-size 0")


def test_json_of_gc(project: Project, history: list[Manifest]) -> None:
    answer = inv("gc", "--max-size", "0", "--dry-run", "--json", cwd=project.root)
    document = json.loads(answer.stdout)
    assert (document["format"], document["format_version"], document["ok"]) == (
        "aoti-build/gc",
        1,
        True,
    )
    assert (document["removed"], document["kept"], document["in_use"], document["dry_run"]) == (
        4,
        2,
        2,
        True,
    )


def test_gc_says_what_it_did(project: Project, history: list[Manifest]) -> None:
    assert text.gc_lines(gc(project, dry_run=True))[0].startswith("would remove 4 objects, ")
    (line,) = text.gc_lines(gc(project))
    assert line.startswith("removed 4 objects, ")
    assert line.endswith("2 of them in use")


def test_why_of_what_is_up_to_date(project: Project, history: list[Manifest]) -> None:
    explanation = explain(project)
    assert (explanation.step.action, explanation.step.reasons) == ("up-to-date", ())
    assert explanation.nearest == history[2]
    lines = text.why_lines(why(project, project.targets))
    assert lines[0] == "small/cpu: up-to-date"
    assert "  the published artifact was compiled because of" in lines
    assert any(line.strip().startswith("source-changed: helper.py") for line in lines)


def test_why_names_every_part_with_its_old_and_new_value(
    project: Project, history: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = write_project(
        project.root, ONE_MODEL.replace("width: 4", "width: 5") + "    seed: 3\n"
    )
    (project.root / "model.py").unlink()
    monkeypatch.setenv("TORCHINDUCTOR_SOMETHING", "1")
    step = explain(changed).step
    assert {(reason.reason, reason.what, reason.old, reason.new) for reason in step.reasons} == {
        ("spec-changed", "kwargs.width", 4, 5),
        ("spec-changed", "seed", 0, 3),
        ("source-changed", "model.py", history[2].source["sources"]["model.py"], None),
        ("toolchain-changed", "TORCHINDUCTOR_SOMETHING", None, "1"),
    }
    shown = "\n".join(text.why_lines(why(changed, changed.targets)))
    assert "spec-changed: kwargs.width 4 -> 5" in shown
    assert "toolchain-changed: TORCHINDUCTOR_SOMETHING (none) -> 1" in shown


def test_why_compares_with_the_nearest_stored_too(
    project: Project, history: list[Manifest]
) -> None:
    """Published are other sources and another width; stored is one that differs in the width
    only."""
    (project.root / "helper.py").write_text("number = 0\n")
    changed = write_project(project.root, ONE_MODEL.replace("width: 4", "width: 5"))
    explanation = explain(changed)
    assert {reason.what for reason in explanation.step.reasons} == {"helper.py", "kwargs.width"}
    assert explanation.nearest is not None
    assert explanation.nearest.key == history[0].key
    assert [str(reason) for reason in explanation.nearest_reasons] == [
        "spec-changed: kwargs.width 4 -> 5"
    ]
    shown = text.why_lines(why(changed, changed.targets))
    assert (
        f"  nearest in the store: {history[0].key[:12]}, built for small/cpu; different in" in shown
    )
    assert shown[-1].strip() == "spec-changed: kwargs.width 4 -> 5"


def test_of_equally_near_ones_the_targets_own_is_shown(
    tmp_path: Path, fake_worker: FakeWorker
) -> None:
    same = TWO_MODELS.replace("[3, 4]", "[2, 4]")
    project = write_project(tmp_path, same)
    for target in project.targets:
        publish_fake(project, target)
        store_of(project).put(
            manifest_of(project, target.name), artifact_directory(project, target)
        )
    report = why(project, project.targets)
    assert all(explanation.nearest is not None for explanation in report.explanations)
    other = write_project(tmp_path, same + "    seed: 1\n")
    publish_fake(other, other.targets[1])
    store_of(other).put(
        manifest_of(other, "second/cpu"), artifact_directory(other, other.targets[1])
    )
    third = write_project(tmp_path, same + "    seed: 2\n")
    nearest = why(third, third.targets[1:]).explanations[0].nearest
    assert nearest is not None
    assert nearest.target == "second/cpu"


def test_why_of_what_was_never_built(project: Project) -> None:
    explanation = explain(project)
    assert [str(reason) for reason in explanation.step.reasons] == ["no-artifact"]
    assert (explanation.nearest, explanation.nearest_reasons) == (None, ())
    row = why(project, project.targets).as_json()["targets"][0]
    assert (row["last_build"], row["nearest_stored"], row["state"]) == (None, None, "build")
    assert text.why_lines(why(project, project.targets)) == ["small/cpu: build", "  no-artifact"]


def test_why_tells_the_last_builds_reasons(project: Project, history: list[Manifest]) -> None:
    row = why(project, project.targets).as_json()["targets"][0]
    assert row["last_build"]["action"] == "compiled"
    assert (row["last_build"]["key"], row["last_build"]["graph_key"]) == (
        history[2].key,
        history[2].graph_key,
    )
    assert row["last_build"]["reasons"] == [
        {
            "reason": "source-changed",
            "what": "helper.py",
            "old": history[1].source["sources"]["helper.py"],
            "new": history[2].source["sources"]["helper.py"],
        }
    ]


def test_why_as_json(project: Project, history: list[Manifest]) -> None:
    (project.root / "helper.py").write_text("number = 1\n")
    answer = inv("why", "--json", "--target", "small", cwd=project.root)
    assert answer.returncode == 0, answer.stderr
    document = json.loads(answer.stdout)
    assert (document["format"], document["format_version"], document["ok"]) == (
        "aoti-build/why",
        2,
        True,
    )
    (row,) = document["targets"]
    assert (row["target"], row["state"]) == ("small/cpu", "restore")
    assert [(reason["reason"], reason["what"]) for reason in row["reasons"]] == [
        ("source-changed", "helper.py")
    ]
    assert row["nearest_stored"]["key"] == history[1].key
    assert row["nearest_stored"]["reasons"] == []


def test_why_changes_nothing(project: Project, history: list[Manifest]) -> None:
    (project.root / "helper.py").write_text("number = 9\n")
    before = contents(project.root)
    why(project, project.targets)
    assert contents(project.root) == before


def test_why_of_damage(project: Project, history: list[Manifest]) -> None:
    (artifact_directory(project, project.targets[0]) / MODEL).write_bytes(b"damaged")
    (reason,) = explain(project).step.reasons
    assert (reason.reason, reason.what, reason.old) == (
        "artifact-damaged",
        MODEL,
        history[2].files[MODEL].sha256,
    )


def test_recorded_reasons_that_nobody_wrote_are_never_an_exception(
    project: Project, published: Path
) -> None:
    path = published / "manifest.json"
    path.write_text(
        json.dumps(sealed({**json.loads(path.read_text()), "reasons": [{"cause": "unknown"}]}))
    )
    assert text.why_lines(why(project, project.targets))


def explain(project: Project) -> Explanation:
    (explanation,) = why(project, project.targets).explanations
    return explanation


def manifest_of(project: Project, name: str = "small/cpu") -> Manifest:
    manifest = read_manifest(project.artifacts / name)
    assert isinstance(manifest, Manifest)
    return manifest


def objects(project: Project) -> set[str]:
    return {stored.digest for stored in store_of(project).list_objects()}


def digests(manifest: Manifest) -> set[str]:
    return {file.sha256 for file in manifest.files.values()}


def use(store: Store, manifest: Manifest, *, hours_ago: float) -> None:
    """As if an artifact's objects had last been used then."""
    then = time.time() - hours_ago * 3600
    for digest in digests(manifest):
        os.utime(store.object_path(digest), (then, then))
