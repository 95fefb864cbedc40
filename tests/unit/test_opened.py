"""What was checked is what is loaded: files that are exchanged while a command works are neither
given to a worker nor get the verdict of the earlier ones."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_projects import (
    FAILED_CASE,
    ONE_MODEL,
    FakeWorker,
    contents,
    publish_fake,
    write_project,
)

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, VERIFY
from aoti_build.artifact.paths import artifact_directory
from aoti_build.commands.build import build
from aoti_build.commands.run.command import run
from aoti_build.commands.verify.command import VerifyReport, verify
from aoti_build.errors import ArtifactError, ToolchainError, VerificationError
from aoti_build.models_file import Project
from aoti_build.work.opened import fit_artifact, open_artifact

Exchange = Callable[[Path], None]
Read = list[tuple[bytes, bytes]]
EVIL = b"somebody else's code, as long as it was"


def _replace(name: str) -> Exchange:
    """Another file takes the name."""

    def exchange(published: Path) -> None:
        other = published / "other"
        other.write_bytes(_same_length(published / name))
        os.replace(other, published / name)

    return exchange


def _overwrite(name: str) -> Exchange:
    """The very file is written to, and gets its times back."""

    def exchange(published: Path) -> None:
        status = (published / name).stat()
        with (published / name).open("r+b") as file:
            file.write(_same_length(published / name))
        os.utime(published / name, ns=(status.st_atime_ns, status.st_mtime_ns))

    return exchange


def _same_length(path: Path) -> bytes:
    return EVIL.ljust(path.stat().st_size, b".")[: path.stat().st_size]


def _exchange_directory(published: Path) -> None:
    """As a build publishes: the whole directory goes, another one comes, which is sound."""
    os.rename(published, published.with_name("old"))
    published.mkdir()
    project = write_project(published.parents[2])
    publish_fake(project, key="e" * 64)
    (published / MODEL).write_bytes(EVIL)


def _remove(published: Path) -> None:
    shutil.rmtree(published)


EXCHANGES = {
    "another package": _replace(MODEL),
    "other reference data values": _replace(REFERENCE_DATA),
    "written in place": _overwrite(MODEL),
    "reference data values written in place": _overwrite(REFERENCE_DATA),
    "another directory": _exchange_directory,
    "removed": _remove,
}


@pytest.fixture(params=EXCHANGES.values(), ids=EXCHANGES.keys())
def exchange(request: pytest.FixtureRequest) -> Exchange:
    found: Exchange = request.param
    return found


@pytest.fixture
def given(published: Path, fake_worker: FakeWorker, exchange: Exchange) -> Read:
    """What each worker read. The exchange happens as soon as the first one starts."""
    found: Read = []

    def during(job_name: str, job: Any) -> None:
        if not found:
            exchange(published)
        found.append((Path(job.model).read_bytes(), Path(job.reference_data).read_bytes()))

    fake_worker.during = during
    return found


def test_verify_hands_on_what_it_digested(
    project: Project,
    published: Path,
    given: Read,
) -> None:
    before = (published / MODEL).read_bytes(), (published / REFERENCE_DATA).read_bytes()
    report = verify(project, project.targets)
    assert given == [before] * 2, "check and probe"
    assert (report.verdicts[0].verdict, report.exit_code) == ("refused", 4)
    assert "took its place" in str(report.verdicts[0].error)
    assert not list(project.artifacts.rglob(VERIFY)), "nothing that was not verified gets a verdict"


def test_run_hands_on_what_it_digested(
    project: Project,
    published: Path,
    given: Read,
) -> None:
    before = (published / MODEL).read_bytes(), (published / REFERENCE_DATA).read_bytes()
    assert run(project, project.targets).exit_code == 0
    assert given == [before]


def test_rechecks_hand_on_what_they_digested(
    project: Project,
    published: Path,
    given: Read,
) -> None:
    before = (published / MODEL).read_bytes(), (published / REFERENCE_DATA).read_bytes()
    changed = write_project(project.root, ONE_MODEL + "    tolerance: {atol: 0.5}\n")
    report = build(changed, changed.targets)
    assert given == [before]
    assert "edited" in str(report.outcomes[0].error), "its manifest is not renewed"


def test_a_reproduction_and_the_search_for_a_cause_have_what_was_verified(
    project: Project, published: Path, fake_worker: FakeWorker, tmp_path: Path
) -> None:
    before = (published / MODEL).read_bytes()
    searched = []

    def during(job_name: str, job: Any) -> None:
        if job_name == "check":
            _replace(MODEL)(published)
        if job_name == "localize":
            searched.append(Path(job.model).read_bytes())

    fake_worker.during = during
    fake_worker.answers["check"] = {"passed": False, "cases": [FAILED_CASE]}
    report = verify(project, project.targets, localize=True, repro=tmp_path / "repro")
    assert _verdict(report) == "mismatch", "which says more than that it was exchanged"
    assert searched == [before]
    assert (tmp_path / "repro" / "small-cpu" / MODEL).read_bytes() == before


def test_a_manifest_that_another_verify_renewed_is_no_exchange(
    project: Project, published: Path, fake_worker: FakeWorker
) -> None:
    fake_worker.during = lambda job_name, job: publish_fake(project, seconds={"total": 9.0})
    assert _verdict(verify(project, project.targets)) == "passed"
    assert (published / VERIFY).is_file()


def test_copies_lie_where_nobody_else_can_write(project: Project, published: Path) -> None:
    assert published
    with fit_artifact(project, project.targets[0]) as artifact:
        assert stat.S_IMODE(artifact.files.stat().st_mode) == 0o700
        expected = {name: (published / name).read_bytes() for name in (MODEL, REFERENCE_DATA)}
        assert contents(artifact.files) == expected
    assert not artifact.files.exists()


def test_builds_check_where_no_other_can_write(project: Project, fake_worker: FakeWorker) -> None:
    modes = []

    def during(job_name: str, job: Any) -> None:
        if job_name == "check":
            work = Path(job.model).parents[1]
            modes.append(stat.S_IMODE(work.stat().st_mode))

    fake_worker.during = during
    assert build(project, project.targets).exit_code == 0
    assert modes == [0o700]
    mode = artifact_directory(project, project.targets[0]).stat().st_mode
    assert stat.S_IMODE(mode) & 0o055 == 0o055, "and what is published can be read"


@pytest.mark.parametrize("name", [MODEL, REFERENCE_DATA])
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_damage_and_not_waited_for(
    project: Project, published: Path, name: str, make: Callable[[Path], object]
) -> None:
    (published / name).unlink()
    make(published / name)
    said = "does not match the manifest"
    with pytest.raises(ArtifactError, match=said), open_artifact(project, project.targets[0]):
        pass


def test_no_artifact(project: Project) -> None:
    for make in (lambda path: None, lambda path: path.parent.mkdir(parents=True), Path.touch):
        make(artifact_directory(project, project.targets[0]))
        with pytest.raises(VerificationError, match="no artifact"):
            open_artifact(project, project.targets[0]).__enter__()


@pytest.mark.usefixtures("published")
def test_no_room_for_copies_is_the_environments_fault(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    for use in (verify, run):
        with pytest.raises(ToolchainError, match="temporary directory is unfit") as caught:
            use(project, project.targets)
        assert "TMPDIR" in str(caught.value.hint)


def _verdict(report: VerifyReport) -> str:
    return report.verdicts[0].verdict
