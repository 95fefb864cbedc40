"""Thousands of files of models, packages and manifests, and records of a store and of working
state, as anybody may have written them. Each is read as what it is, or refused with one of
our errors and its exit code. Nothing foreign runs, and nothing outside is touched.

pytest -m slow tests/unit/test_fuzz.py -s

Every case follows from its number, so one that fails can be tried again alone:
`AOTI_BUILD_FUZZ_ONLY=1234`. `AOTI_BUILD_FUZZ` sets how many there are of each kind.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzzing import mutated_bytes, mutated_json, mutated_package, mutated_text
from packages import members, publish_package, write
from small_projects import contents, publish_fake, sealed, store_of, write_project

from aoti_build.artifact.manifest import MANIFEST, MODEL, Manifest, read_manifest
from aoti_build.artifact.paths import (
    artifact_directory,
    index_path,
    passed_checks_path,
    stat_cache_path,
)
from aoti_build.commands.build import plan
from aoti_build.commands.clean import clean
from aoti_build.commands.gc import gc
from aoti_build.commands.inspect.command import InspectReport, inspect, inspect_file
from aoti_build.commands.inspect.diff import diff
from aoti_build.commands.status import status
from aoti_build.commands.why import why
from aoti_build.errors import AotiBuildError
from aoti_build.models_file import Project, load_project
from aoti_build.report.inspect_text import diff_lines, inspect_lines
from aoti_build.report.text import clean_lines, gc_lines, plan_lines, status_lines, why_lines
from aoti_build.runtime.choose import explain
from aoti_build.runtime.package import admit
from aoti_build.store.interface import Store
from aoti_build.store.kernels import KernelCache
from aoti_build.store.selection import open_store
from aoti_build.work import host_checks
from aoti_build.work.opened import fit_artifact

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("AOTI_BUILD_FUZZ", "2000"))
ONLY = os.environ.get("AOTI_BUILD_FUZZ_ONLY")
READ = "read"
TEXT = """\
version: 1
inductor_configs:
  tuned: {max_autotune: true, cpp.threads: 4}
models:
  small:
    source: model.py:build
    kwargs: {width: 4, list: [1, 1.5, [x]], table: {a: {b: "ä"}}}
    weights: weights.safetensors
    seed: 7
    files: [helper.py]
    dims:
      batch: {min: 2, max: 8, example: 4, multiple_of: 2}
    inputs:
      x: {shape: [batch, 4], dtype: float32, low: -1, high: 1.5}
      ids: {shape: [batch], dtype: int64, high: 100}
    devices: [cpu, cuda]
    inductor_configs: [default, tuned]
    tolerance: {atol: 1e-4, rtol: 1e-3, outputs: {mask: {agreement: 0.9}}}
    reference_data: {limit: 64m}
    image: {resize: 8, crop: 4, mean: [0.5], std: [0.5]}
    cpu: {isa: [native, avx2]}
    cuda: {arch: [native, sm_80], tf32: true}
  plain:
    source: torchvision.models:resnet18
    inputs: model.py:inputs
"""


@pytest.fixture
def counts() -> Iterator[Counter[str]]:
    """What became of the cases; printed at the end."""
    found: Counter[str] = Counter()
    yield found
    said = ", ".join(f"{count} {what}" for what, count in sorted(found.items()))
    sys.stdout.write(f"\n{sum(found.values())} cases: {said}\n")


@pytest.fixture(autouse=True)
def _nothing_foreign_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process is started, no library opened, nothing of a file imported."""
    before = {*sys.modules}

    def forbidden(*arguments: Any, **_: Any) -> Any:
        raise AssertionError(f"this must not be called: {arguments}")

    monkeypatch.setattr(subprocess.Popen, "__init__", forbidden)
    monkeypatch.setattr(os, "system", forbidden)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # which is most of the time
    monkeypatch.setattr(ctypes.CDLL, "__init__", forbidden)
    monkeypatch.setattr("aoti_build.host.toolchain.facts", lambda *_, **__: {"torch": "0"})
    monkeypatch.setattr("aoti_build.host.cuda.compute_capabilities", lambda: ())
    monkeypatch.setattr("aoti_build.host.cuda.packages_for_other_gpus", lambda: False)
    monkeypatch.setenv("AOTI_BUILD_RUNTIME_CACHE", "off")
    yield
    assert not {
        name
        for name in {*sys.modules} - before
        if name.partition(".")[0] in ("model", "helper", "torch")
    }


def cases(count: int = COUNT) -> Iterator[tuple[int, random.Random]]:
    for number in [int(ONLY)] if ONLY else range(count):
        yield number, random.Random(number)  # noqa: S311 - it is to be the same each time


def outcome(number: int, act: Callable[[], object]) -> str:
    """The word for what became of a case; only errors of ours are one."""
    refused = None
    try:
        act()
    except AotiBuildError as error:
        refused = error
    except BaseException as error:
        raise AssertionError(f"case {number}") from error
    if refused is None:
        return READ
    str(refused).encode("utf-8", "surrogateescape")
    json.dumps(refused.as_json())
    return f"refused with {refused.exit_code}"


def said(lines: list[str]) -> None:
    """What a terminal is sent can be encoded."""
    "\n".join(lines).encode()


def test_models_files(tmp_path: Path, counts: Counter[str]) -> None:
    project, cache = (
        write_project(tmp_path / "project", TEXT),
        tmp_path / "project/artifacts/.project-cache",
    )
    canary = make_canary(tmp_path)
    for number, chance in cases():
        kind = chance.randrange(4)
        content = (
            mutated_bytes(TEXT.encode(), chance)
            if kind == 0
            else mutated_text(TEXT, chance).encode(errors="replace")
        )
        if kind == 1:
            content = chance.randbytes(chance.randrange(200))
        project.file.write_bytes(content)

        kept = cache if number % 8 == 0 else None

        def read(kept: Path | None = kept) -> None:
            found = load_project(project.file, kept)
            for target in found.targets:
                assert artifact_directory(found, target).parent.parent == found.artifacts
            said(clean_lines(clean(found, found.targets, dry_run=True)))

        counts[outcome(number, read)] += 1
    assert contents(canary) == CANARY
    assert {*counts} <= {READ, "refused with 2"}


def test_packages(tmp_path: Path, counts: Counter[str]) -> None:
    whole = write(tmp_path / "whole.pt2", members()).read_bytes()
    path, other = tmp_path / "model.pt2", inspect_file(tmp_path / "whole.pt2")
    for number, chance in cases():
        path.write_bytes(mutated_package(whole, chance))

        def read() -> None:
            found = inspect_file(path)
            report = InspectReport((found,))
            said(inspect_lines(report))
            json.dumps(report.as_json())
            if found.package is not None:
                said(diff_lines(diff(other, found)))
            for problem in found.problems:
                raise problem

        counts[outcome(number, read)] += 1
    assert {*counts} <= {READ, "refused with 4"}


def test_manifests(tmp_path: Path, counts: Counter[str]) -> None:
    project = write_project(tmp_path / "project")
    directory = publish_package(project)
    document = json.loads((directory / MANIFEST).read_text())
    use_artifact(project, directory)
    canary, before = make_canary(tmp_path), names(tmp_path)
    for number, chance in cases():
        (directory / MANIFEST).write_bytes(manifest_bytes(document, chance))
        counts[outcome(number, lambda: use_artifact(project, directory))] += 1
    assert contents(canary) == CANARY
    assert names(tmp_path) == before
    assert {*counts} <= {READ, "refused with 4"}


def test_records_of_a_store(tmp_path: Path, counts: Counter[str]) -> None:
    project = write_project(tmp_path / "project")
    manifest = publish_fake(project, weights={"external": True, "alignment": 64})
    directory = artifact_directory(project, project.targets[0])
    store_of(project).put(manifest, directory)
    shutil.rmtree(directory)
    store = open_store(project.artifacts)
    store.register(project.artifacts)
    records = [path for path in store.root.rglob("*.json") if path.parent.name != "roots"]
    (root,) = (store.root / "roots").glob("*.json")
    kept, document = contents(store.root), json.loads(records[0].read_text())
    canary = make_canary(tmp_path)
    for number, chance in cases(COUNT // 4):
        content = manifest_bytes(document, chance)
        for path in records:
            path.write_bytes(content)
        root.write_bytes(
            json_bytes(json.loads(kept[root.relative_to(store.root).as_posix()]), chance)
        )
        counts[outcome(number, lambda: use_store(project, store, manifest, tmp_path / "file"))] += 1
        for name, data in kept.items():
            if not (store.root / name).exists():
                (store.root / name).write_bytes(data)
    assert contents(canary) == CANARY
    assert not directory.exists()
    assert {*counts} == {READ}  # a bad record is a miss


def test_working_state(
    tmp_path: Path, counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, cache = (
        write_project(tmp_path / "project", TEXT),
        tmp_path / "project/artifacts/.project-cache",
    )
    targets = project.targets
    publish_fake(project, targets[0])
    load_project(project.file, cache)
    plan(project, targets[:2], quick=True)
    host_checks.write_passed_keys(passed_checks_path(project.artifacts), ["a" * 64])
    tuning = KernelCache(Path(open_store(project.artifacts).address) / "v1/kernels/x")
    tuning.add_tuning("gpu", {"cache/aaaaaaaaaaaaaaaa": '{"a": {"b": 1.0}}'})
    tuning.add("KEY", {"a.cubin": b"code"})
    files = [
        next(cache.iterdir()),
        index_path(project),
        stat_cache_path(project),
        passed_checks_path(project.artifacts),
        next(tuning.directory.rglob("*.json")),
        next(tuning.directory.rglob("*.kernel")),
    ]
    kept = {path: path.read_bytes() for path in files}
    canary = make_canary(tmp_path)
    for number, chance in cases(COUNT // 4):
        for path, content in kept.items():
            path.write_bytes(state_bytes(content, chance))

        def use() -> None:
            read = load_project(project.file, cache)
            for target in read.targets:
                assert artifact_directory(read, target).parent.parent == read.artifacts
            said(plan_lines(plan(read, read.targets[:2], quick=True)))
            said(clean_lines(clean(read, None, dry_run=True)))
            keys = host_checks.read_passed_keys(passed_checks_path(project.artifacts))
            assert all(len(key) == 64 for key in keys)
            assert all(isinstance(text, str) for text in tuning.tuning("gpu").values())
            tuning.add_tuning("gpu", {"cache/aaaaaaaaaaaaaaaa": '{"a": {"c": 1.0}}'})
            tuning.fetch("KEY")

        counts[outcome(number, use)] += 1
    assert {*counts} == {READ}  # it costs speed alone
    clean(load_project(project.file, cache), None)
    assert contents(canary) == CANARY


def use_artifact(project: Project, directory: Path) -> None:
    """What the commands make of the artifact before anything of it is loaded."""
    targets = project.targets
    for report, lines in (
        (status(project), status_lines),
        (why(project, targets), why_lines),
        (inspect(project, targets, host=True), inspect_lines),
        (gc(project, dry_run=True), gc_lines),
        (clean(project, targets, dry_run=True), clean_lines),
    ):
        said(lines(report))  # type: ignore[operator]
        json.dumps(report.as_json())
    str(explain(targets[0].model.name, artifacts=project.artifacts))
    with fit_artifact(project, targets[0]):
        pass
    manifest = read_manifest(directory)
    assert isinstance(manifest, Manifest)
    assert json.loads(json.dumps(sealed(manifest.as_json())))
    for verify in ("full", "stat", "off"):
        admit(directory, manifest, verify).close()


def use_store(project: Project, store: Store, manifest: Manifest, file: Path) -> None:
    said(status_lines(status(project)))
    said(why_lines(why(project, project.targets)))
    for found in (store.by_key(manifest.key), store.by_graph(manifest.graph_key)):
        if found is not None:
            assert found.weights["external"] in (True, False)
            store.get(found.files[MODEL], file)
    assert all(root.is_absolute() for root in store.roots())
    gc(project, max_size=1 << 30)


def manifest_bytes(document: dict[str, Any], chance: random.Random) -> bytes:
    """A manifest with a few changes and a right digest of itself, as a rule; else damaged bytes."""
    if chance.random() < 0.1:
        return mutated_bytes(json.dumps(document).encode(), chance)
    return json.dumps(sealed_anyway(mutated_json(document, chance))).encode()


def sealed_anyway(document: Any) -> Any:
    with contextlib.suppress(RecursionError, TypeError):
        return sealed(document) if isinstance(document, dict) else document
    return document


def json_bytes(document: Any, chance: random.Random) -> bytes:
    if chance.random() < 0.2:
        return mutated_bytes(json.dumps(document).encode(), chance)
    return json.dumps(mutated_json(document, chance)).encode()


def state_bytes(content: bytes, chance: random.Random) -> bytes:
    try:
        document = json.loads(content)
    except ValueError:
        return mutated_bytes(content, chance)
    return json_bytes(document, chance)


CANARY = {"home/important": b"keep", "home/cpu/manifest.json": b"{}", "cpu/file": b"keep"}


def make_canary(root: Path) -> Path:
    """Files beside the project that no name may lead to."""
    directory = root / "canary"
    for name, content in CANARY.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def names(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}
