"""Builds at the same time: of one target, and on one GPU."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_projects import TWO_MODELS, FakeWorker, publish_fake, store_of, write_project

from aoti_build.artifact.manifest import MODEL, Manifest, read_manifest
from aoti_build.artifact.paths import (
    artifact_directory,
    inductor_cache_root,
    lock_path,
)
from aoti_build.commands.build import build
from aoti_build.common.locks import lock
from aoti_build.host import cuda
from aoti_build.models_file import Project, Target
from aoti_build.planning.actions import Done
from aoti_build.store.local import LocalStore
from aoti_build.work.watch import Watcher

TIMEOUT_S = 30


class Progress:
    """Knows when a target said something that begins with `beginning`."""

    def __init__(self, beginning: str) -> None:
        self._beginning = beginning
        self.said = threading.Event()
        self.times = 0

    def __call__(self, _target: object, text: str) -> None:
        if text.startswith(self._beginning):
            self.times += 1
            self.said.set()


def test_a_forced_build_takes_what_another_build_made_while_it_waited(
    project: Project, fake_worker: FakeWorker
) -> None:
    target = project.targets[0]
    progress = Progress("waiting for another build")
    with ThreadPoolExecutor(1) as pool:
        with lock(lock_path(project, target)):
            waiting = pool.submit(build, project, project.targets, force=True, on_progress=progress)
            assert progress.said.wait(TIMEOUT_S)
            publish_fake(project)
        (outcome,) = waiting.result(TIMEOUT_S).outcomes
    assert (outcome.action, fake_worker.calls) == (Done.UP_TO_DATE, [])


def test_a_restore_takes_what_another_build_published_while_it_waited(
    project: Project, fake_worker: FakeWorker
) -> None:
    target = project.targets[0]
    build(project, project.targets)
    directory = artifact_directory(project, target)
    aside = directory.rename(project.root / "aside")
    progress = Progress("waiting for another build")
    with ThreadPoolExecutor(1) as pool:
        with lock(lock_path(project, target)):
            waiting = pool.submit(build, project, project.targets, on_progress=progress)
            assert progress.said.wait(TIMEOUT_S)
            aside.rename(directory)
        (outcome,) = waiting.result(TIMEOUT_S).outcomes
    assert outcome.action == Done.UP_TO_DATE


def test_a_wait_is_reported_once(project: Project, fake_worker: FakeWorker) -> None:
    target = project.targets[0]
    progress = Progress("waiting for another build")
    with ThreadPoolExecutor(1) as pool:
        with lock(lock_path(project, target)):
            waiting = pool.submit(build, project, project.targets, on_progress=progress)
            assert progress.said.wait(TIMEOUT_S)
            time.sleep(1)  # five looks at the lock
        waiting.result(TIMEOUT_S)
    assert progress.times == 1


def test_after_a_wait_the_next_phase_is_the_one_that_works(
    project: Project, fake_worker: FakeWorker
) -> None:
    """The display shows the start again. A program that follows the phases is not told it."""
    target = project.targets[0]
    waits = Progress("waiting for another build")
    told: list[str] = []
    shown: list[str] = []

    class Shown(Watcher):
        def phase(self, target: Target, name: str) -> None:
            shown.append(name)

    def on_progress(target: Target, phase: str) -> None:
        told.append(phase)
        waits(target, phase)

    with ThreadPoolExecutor(1) as pool:
        with lock(lock_path(project, target)):
            waiting = pool.submit(
                build, project, project.targets, on_progress=on_progress, watch=Shown
            )
            assert waits.said.wait(TIMEOUT_S)
        waiting.result(TIMEOUT_S)
    assert shown[:3] == [told[0], "start", told[1]]
    assert told[-1] == "compiled"
    assert "start" not in told


def test_what_a_killed_publication_moved_aside_is_found_again(
    project: Project, fake_worker: FakeWorker
) -> None:
    """Between the two renames of a publication the artifact has another name."""
    build(project, project.targets)
    directory = artifact_directory(project, project.targets[0])
    directory.rename(directory.with_name(f".{directory.name}.retired"))
    shutil.rmtree(store_of(project).address)
    (outcome,) = build(project, project.targets).outcomes
    assert outcome.action == Done.UP_TO_DATE


def test_a_forced_build_that_did_not_wait_builds(project: Project, fake_worker: FakeWorker) -> None:
    publish_fake(project)
    (outcome,) = build(project, project.targets, force=True).outcomes
    assert outcome.action == Done.COMPILED


@pytest.mark.parametrize(("device", "most"), [("cuda", 1), ("cpu", 2)])
def test_builds_on_a_gpu_take_turns(
    tmp_path: Path,
    fake_worker: FakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    most: int,
) -> None:
    """Two autotuning runs on one GPU would measure each other."""
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ("9.0",))
    project = write_project(tmp_path / device, two_on(device))
    together = Together(most)
    fake_worker.during = lambda job_name, job: together.meet() if job_name == "build" else None
    report = build(project, project.targets, jobs=2)
    assert report.exit_code == 0
    assert together.most == most


class Together:
    """Counts who is inside at the same time; waits a little for as many as may come."""

    def __init__(self, expected: int) -> None:
        self._lock, self._inside, self.most = threading.Lock(), 0, 0
        self._all = threading.Event()
        self._expected = expected

    def meet(self) -> None:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
            if self._inside >= self._expected and self._expected > 1:
                self._all.set()
        self._all.wait(TIMEOUT_S if self._expected > 1 else 0.2)
        with self._lock:
            self._inside -= 1


def test_a_gpu_is_waited_for_across_processes(
    tmp_path: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ("9.0",))
    project = write_project(tmp_path / "gpu", two_on("cuda"))
    begun = threading.Event()
    fake_worker.during = lambda *_: begun.set()
    with ThreadPoolExecutor(1) as pool:
        with lock(inductor_cache_root() / "gpu.lock"):
            waiting = pool.submit(build, project, project.targets)
            assert not begun.wait(0.5)
        assert waiting.result(TIMEOUT_S).exit_code == 0
    assert begun.is_set()


def test_an_object_that_was_cut_short_is_replaced(
    project: Project, fake_worker: FakeWorker
) -> None:
    build(project, project.targets)
    manifest = read_manifest(artifact_directory(project, project.targets[0]))
    assert isinstance(manifest, Manifest)
    path = LocalStore(Path(store_of(project).address)).object_path(manifest.files[MODEL].sha256)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    build(project, project.targets, force=True)
    assert path.read_bytes() == whole


def two_on(device: str) -> str:
    return TWO_MODELS.replace("    source:", f"    devices: [{device}]\n    source:")
