"""`clean`, `gc` and builds remove what is ours and follow no link to it: what is elsewhere stays as
it is."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from small_projects import (
    ONE_MODEL,
    TWO_MODELS,
    FakeWorker,
    action_of,
    contents,
    inv,
    publish_fake,
    store_of,
    write_project,
)

from aoti_build.artifact.manifest import MODEL
from aoti_build.artifact.paths import artifact_directory
from aoti_build.commands.build import build
from aoti_build.commands.clean import clean
from aoti_build.commands.gc import gc
from aoti_build.commands.status import orphans
from aoti_build.common.publication import publish_directory, recover_directory
from aoti_build.common.removal import own_entries, remove
from aoti_build.errors import UsageError
from aoti_build.models_file import Project, load_project
from aoti_build.models_file.cache import MAX_RECORDS

OLD = time.time() - 100 * 86400


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Somebody else's directory."""
    directory = tmp_path / "foreign"
    directory.mkdir()
    return directory


def write(path: Path) -> Path:
    """A file that has not been used for long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"precious")
    os.utime(path, (OLD, OLD))
    return path


@pytest.mark.parametrize(
    ("linked", "names"),
    [
        ("objects/aa", ["a" * 64, ".left"]),
        ("objects", ["aa/" + "a" * 64, "aa/.left"]),
        ("keys/aa", ["one.json"]),
        ("keys", ["aa/one.json"]),
        ("graphs/aa", ["one.json"]),
        ("traces/aa", ["one.json"]),
        ("kernels/t", ["aa/one.kernel", "tuning/one.json", "aa/.left"]),
        ("kernels/t/aa", ["one.kernel", ".left"]),
        ("kernels/t/tuning", ["one.json"]),
        ("kernels", ["t/aa/one.kernel", "t/tuning/one.json"]),
        ("", ["objects/aa/" + "a" * 64, "keys/aa/one.json"]),
    ],
)
def test_gc_takes_nothing_from_behind_a_link(
    project: Project, foreign: Path, linked: str, names: list[str]
) -> None:
    for name in names:
        write(foreign / name)
    before = contents(foreign)
    place = store_of(project).root / linked
    place.parent.mkdir(parents=True)
    place.symlink_to(foreign)
    report = gc(project, max_size=0)
    after = {
        name: data for name, data in contents(foreign).items() if not name.startswith("roots/")
    }
    assert after == before
    assert report.removed == 0
    assert place.is_symlink()


def test_gc_removes_a_link_in_an_objects_place_and_not_what_it_leads_to(
    project: Project, foreign: Path
) -> None:
    precious = write(foreign / "file")
    link = store_of(project).object_path("a" * 64)
    link.parent.mkdir(parents=True)
    link.symlink_to(precious)
    gc(project, max_size=0)
    assert not os.path.lexists(link)
    assert contents(foreign) == {"file": b"precious"}


def test_the_store_that_the_variable_names_may_be_a_link(
    project: Project, fake_worker: FakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "large-disk"
    real.mkdir()
    (tmp_path / "store").symlink_to(real)
    monkeypatch.setenv("AOTI_BUILD_STORE", str(tmp_path / "store"))
    build(project, project.targets)
    write(real / "v1" / "objects" / "aa" / ("a" * 64))
    assert gc(project, max_size=0).removed == 1
    assert not (real / "v1" / "objects" / "aa" / ("a" * 64)).exists()


def test_a_corrupted_object_behind_a_link_is_a_miss_and_stays(
    project: Project, fake_worker: FakeWorker, foreign: Path, tmp_path: Path
) -> None:
    build(project, project.targets)
    (manifest,) = store_of(project).manifests()
    file = manifest.files[MODEL]
    there = store_of(project).object_path(file.sha256).parent
    shutil.rmtree(there)
    (foreign / file.sha256).write_bytes(b"x" * file.size)
    there.symlink_to(foreign)
    assert not store_of(project).get(file, tmp_path / "copy")
    assert contents(foreign) == {file.sha256: b"x" * file.size}


@pytest.fixture
def moved(tmp_path: Path, foreign: Path) -> Project:
    """Two artifacts; the directory of the first one's model was moved away, and a link stands for
    it."""
    project = write_project(tmp_path / "project", TWO_MODELS)
    for target in project.targets:
        publish_fake(project, target)
    model = artifact_directory(project, project.targets[0]).parent
    shutil.move(model, foreign / "first")
    model.symlink_to(foreign / "first")
    return project


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("chosen", [slice(0, 1), slice(0, 2), None])
def test_clean_refuses_a_linked_model_and_touches_nothing(
    moved: Project, foreign: Path, chosen: slice | None, dry_run: bool
) -> None:
    before = contents(moved.artifacts), contents(foreign)
    with pytest.raises(UsageError, match="symbolic link") as caught:
        clean(moved, moved.targets[chosen] if chosen else None, dry_run=dry_run)
    assert str(moved.artifacts / "first") in (caught.value.hint or "")
    assert (contents(moved.artifacts), contents(foreign)) == before


def test_the_exit_code_of_that_is_2(moved: Project) -> None:
    answer = inv("clean", cwd=moved.root)
    assert (answer.returncode, "Traceback" in answer.stderr) == (2, False)
    assert "rm " in answer.stderr


def test_another_target_than_the_linked_one_is_cleaned(moved: Project, foreign: Path) -> None:
    before = contents(foreign)
    assert clean(moved, moved.targets[1:]).removed == ("artifacts/second/cpu",)
    assert contents(foreign) == before
    assert action_of(moved) == "up-to-date"


@pytest.mark.parametrize("whole", [True, False])
def test_clean_removes_a_linked_variant_itself(
    project: Project, published: Path, foreign: Path, whole: bool
) -> None:
    shutil.move(published, foreign / "cpu")
    published.symlink_to(foreign / "cpu")
    before = contents(foreign)
    report = clean(project, None if whole else project.targets)
    assert "artifacts/small/cpu" in report.removed
    assert report.bytes == 0 or whole
    assert not os.path.lexists(published)
    assert not published.parent.exists()
    assert contents(foreign) == before


def test_a_link_to_nothing_is_removed_too(project: Project, published: Path) -> None:
    shutil.rmtree(published)
    published.symlink_to("nothing")
    assert clean(project, project.targets).removed == ("artifacts/small/cpu",)
    assert not os.path.lexists(published)


@pytest.mark.parametrize("name", [".logs", ".staging"])
def test_clean_takes_nothing_from_behind_linked_working_state(
    project: Project, published: Path, foreign: Path, name: str
) -> None:
    write(foreign / "small@cpu@build.log")
    write(foreign / "small@cpu@left" / "file")
    before = contents(foreign)
    (project.artifacts / name).symlink_to(foreign)
    clean(project, None)
    assert contents(foreign) == before


@pytest.mark.parametrize(
    "name", [".project-cache", ".stat-cache.json", ".index.json", ".passed-checks.json"]
)
def test_clean_removes_linked_working_state_itself(
    project: Project, published: Path, foreign: Path, name: str
) -> None:
    write(foreign / "file")
    (project.artifacts / name).symlink_to(foreign)
    assert f"artifacts/{name}" in clean(project, None).removed
    assert not os.path.lexists(project.artifacts / name)
    assert contents(foreign) == {"file": b"precious"}


def test_the_artifacts_directory_itself_may_be_a_link(
    project: Project, published: Path, foreign: Path
) -> None:
    shutil.move(project.artifacts, foreign / "artifacts")
    project.artifacts.symlink_to(foreign / "artifacts")
    assert "artifacts/small/cpu" in clean(project, None).removed
    assert not (foreign / "artifacts" / "small").exists()


def test_what_lies_behind_a_linked_model_is_no_orphan(moved: Project, foreign: Path) -> None:
    (moved.root / "models.yaml").write_text(ONE_MODEL)
    project = load_project(moved.root / "models.yaml")
    before = contents(foreign)
    assert orphans(project) == ("second/cpu",)
    assert clean(project, None, orphans_only=True).removed == ("artifacts/second/cpu",)
    assert contents(foreign) == before


def test_an_orphan_that_is_a_link_is_removed_itself(moved: Project, foreign: Path) -> None:
    orphan = moved.artifacts / "third" / "cpu"
    orphan.parent.mkdir()
    orphan.symlink_to(foreign / "first" / "cpu")
    before = contents(foreign)
    assert clean(moved, None, orphans_only=True).removed == ("artifacts/third/cpu",)
    assert contents(foreign) == before


def test_the_staging_of_a_killed_build_is_not_looked_for_behind_a_link(
    project: Project, fake_worker: FakeWorker, foreign: Path
) -> None:
    write(foreign / "small@cpu@left" / "file")
    project.artifacts.mkdir()
    (project.artifacts / ".staging").symlink_to(foreign)
    (outcome,) = build(project, project.targets).outcomes
    assert (outcome.action, outcome.error) == ("compiled", None)
    assert contents(foreign) == {"small@cpu@left/file": b"precious"}


def test_staging_that_is_a_link_is_removed_itself(
    project: Project, fake_worker: FakeWorker, foreign: Path
) -> None:
    write(foreign / "file")
    left = project.artifacts / ".staging" / "small@cpu@left"
    left.parent.mkdir(parents=True)
    left.symlink_to(foreign)
    build(project, project.targets)
    assert not os.path.lexists(left)
    assert contents(foreign) == {"file": b"precious"}


def test_kept_parses_are_not_removed_behind_a_link(project: Project, foreign: Path) -> None:
    for number in range(2 * MAX_RECORDS):
        write(foreign / f"{number}.json")
    project.artifacts.mkdir()
    (project.artifacts / ".project-cache").symlink_to(foreign)
    before = contents(foreign)
    load_project(project.file, project.artifacts / ".project-cache")
    assert contents(foreign) == before


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("leads_to", ["foreign", "nothing"])
def test_a_publication_replaces_a_link_itself(
    project: Project,
    fake_worker: FakeWorker,
    foreign: Path,
    leads_to: str,
    exchanges: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not exchanges:
        monkeypatch.setattr("aoti_build.common.publication._exchange", lambda *_: False)
    write(foreign / "file")
    place = artifact_directory(project, project.targets[0])
    place.parent.mkdir(parents=True)
    place.symlink_to(foreign.parent / leads_to)
    (outcome,) = build(project, project.targets).outcomes
    assert (outcome.action, outcome.error) == ("compiled", None)
    assert not place.is_symlink()
    assert contents(foreign) == {"file": b"precious"}
    assert [path.name for path in place.parent.iterdir()] == ["cpu"]


def test_a_retired_directory_that_is_a_link_is_removed_itself(
    tmp_path: Path, foreign: Path
) -> None:
    write(foreign / "file")
    (tmp_path / "final").mkdir()
    (tmp_path / ".final.retired").symlink_to(foreign)
    recover_directory(tmp_path / "final")
    assert not os.path.lexists(tmp_path / ".final.retired")
    assert contents(foreign) == {"file": b"precious"}


def test_a_retired_link_comes_back_if_the_new_directory_never_came(
    tmp_path: Path, foreign: Path
) -> None:
    (tmp_path / ".final.retired").symlink_to(foreign)
    (tmp_path / "staged").mkdir()
    recover_directory(tmp_path / "final")
    assert (tmp_path / "final").is_symlink()
    publish_directory(tmp_path / "staged", tmp_path / "final")
    assert not (tmp_path / "final").is_symlink()


def test_entries_are_sorted_and_those_of_real_directories_only(
    tmp_path: Path, foreign: Path
) -> None:
    for name in ("b/2", "b/1", "a/1", "a/x/deeper"):
        write(tmp_path / "root" / name)
    write(foreign / "1")
    (tmp_path / "root" / "c").symlink_to(foreign)
    (tmp_path / "root" / "a" / "3").symlink_to(foreign / "1")
    (tmp_path / "link").symlink_to(tmp_path / "root")
    root = tmp_path / "link"
    assert list(own_entries(root, "?", "[0-9]")) == [
        root / "a/1",
        root / "a/3",
        root / "b/1",
        root / "b/2",
    ]
    assert list(own_entries(tmp_path / "absent", "*")) == []
    assert list(own_entries(root / "b" / "1", "*")) == []


def test_removing_takes_whatever_there_is(tmp_path: Path, foreign: Path) -> None:
    write(foreign / "file")
    write(tmp_path / "directory" / "file")
    write(tmp_path / "file")
    (tmp_path / "link").symlink_to(foreign)
    os.mkfifo(tmp_path / "pipe")
    for name in ("directory", "file", "link", "pipe", "absent"):
        remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == [foreign]
    assert contents(foreign) == {"file": b"precious"}
