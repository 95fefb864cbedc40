"""Working state makes things faster and decides nothing: what a rule would refuse is refused
wherever it comes from, and what somebody else may have written is not believed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import pytest
from small_projects import publish_fake, store_of, write_project

from aoti_build.artifact.paths import (
    artifact_directory,
    index_path,
    lock_path,
    log_path,
    passed_checks_path,
    project_cache_path,
    staging_prefix,
    stat_cache_path,
)
from aoti_build.commands.clean import clean
from aoti_build.common import memory_formats, records, writing
from aoti_build.common.digests import digest_json
from aoti_build.errors import MessageError, UsageError
from aoti_build.host.devices.cpu import ISA_OPTIONS
from aoti_build.messages import CompileResult
from aoti_build.models_file import Project, load_project, rules
from aoti_build.models_file.parsing import field_types
from aoti_build.models_file.records import record_digest
from aoti_build.store.kernels import KernelCache
from aoti_build.work import host_checks
from aoti_build.work.worker import read_result

Change = Callable[[dict[str, Any]], object]
BAD_NAMES = [
    "../../home",
    "..",
    ".",
    "/etc",
    "a/b",
    "a\0b",
    "x" * 300,
    "",
    "a.",
    "\udcff",
    3,
    None,
    ["a"],
]
DIM = {"name": "b", "min": 2, "max": 4, "example": 2, "multiple_of": 1}
WEIGHTS = {"file": "w.pt", "key": None, "prefix": None, "rename": [], "ignore": []}
CHANGES: dict[str, Change] = {
    **{
        f"a model called {name!r:.20}": lambda e, name=name: e["model"].update(name=name)
        for name in BAD_NAMES
    },
    **{
        f"a preset called {name!r:.20}": lambda e, name=name: e.update(preset=name)
        for name in BAD_NAMES
    },
    **{
        f"an architecture called {name!r:.20}": lambda e, name=name: e.update(architecture=name)
        for name in BAD_NAMES
    },
    "another device": lambda e: e.update(device="../cpu"),
    "an architecture of another device": lambda e: e.update(architecture="sm_80"),
    "listed by a number": lambda e: e.update(listed=1),
    "an option that is none": lambda e: e["inductor_config"].update({"a b": 1}),
    "a source outside": lambda e: e["model"]["source"].update(path="../model.py", module=None),
    "a source that is absolute": (
        lambda e: e["model"]["source"].update(path="/model.py", module=None)
    ),
    "a source that is nothing": lambda e: e["model"]["source"].update(path=None, module=None),
    "a source that is two": lambda e: e["model"]["source"].update(path="model.py", module="os"),
    "a module with a space": (
        lambda e: e["model"].update(inputs={"attribute": "f", "module": "a b", "path": None})
    ),
    "a file outside": lambda e: e["model"]["files"].append("../../secret"),
    "a file in another form": lambda e: e["model"]["files"].append("a/../b"),
    "weights outside": lambda e: e["model"].update(weights="../w.safetensors"),
    "weights of another kind": lambda e: e["model"].update(weights="w.pickle"),
    "a seed below 0": lambda e: e["model"].update(seed=-1),
    "a seed that is a flag": lambda e: e["model"].update(seed=True),
    "another dtype": lambda e: e["model"]["inputs"][0].update(dtype="nn"),
    "a size below 0": lambda e: e["model"]["inputs"][0].update(shape=[-1]),
    "a dim that is none": lambda e: e["model"]["inputs"][0].update(shape=["batch"]),
    "a size in another spelling": (
        lambda e: e["model"].update(
            inputs=[{**e["model"]["inputs"][0], "shape": ["b+1"]}], dims=[dict(DIM)]
        )
    ),
    "a size that is not affine": (
        lambda e: e["model"].update(
            inputs=[{**e["model"]["inputs"][0], "shape": ["b*b"]}], dims=[dict(DIM)]
        )
    ),
    "a size that is not whole": (
        lambda e: e["model"].update(
            inputs=[{**e["model"]["inputs"][0], "shape": ["b//2"]}], dims=[dict(DIM)]
        )
    ),
    "dims that no size tells": (
        lambda e: e["model"].update(
            inputs=[{**e["model"]["inputs"][0], "shape": ["b + c"]}],
            dims=[dict(DIM), {**DIM, "name": "c"}],
        )
    ),
    "a dim of steps of 0": (
        lambda e: e["model"].update(
            dims=[{"name": "b", "min": 2, "max": 4, "example": 2, "multiple_of": 0}]
        )
    ),
    "a dim beyond its end": (
        lambda e: e["model"].update(
            dims=[{"name": "b", "min": 9, "max": 4, "example": 9, "multiple_of": 1}]
        )
    ),
    "a tolerance that is text": lambda e: e["model"]["tolerance"].update(atol="1"),
    "a tolerance of two kinds": (
        lambda e: e["model"]["tolerance"].update(
            outputs={"o": {"atol": 1.0, "rtol": None, "agreement": 0.5, "iou": None}}
        )
    ),
    "a tolerance below 0": lambda e: e["model"]["tolerance"].update(rtol=-1),
    "an agreement above 1": (
        lambda e: e["model"]["tolerance"].update(
            outputs={"o": {"atol": None, "rtol": None, "agreement": 2, "iou": None}}
        )
    ),
    "a probability above 1": (
        lambda e: e["model"]["inputs"][0].update(dtype="bool", probability=1.5)
    ),
    "a baseline with a limit below 0": (
        lambda e: e["model"].update(
            baseline={"source": e["model"]["source"], "kwargs": {}, "limit": -1}
        )
    ),
    "a key of a safetensors file": (
        lambda e: e["model"].update(weights={**WEIGHTS, "file": "w.safetensors", "key": "model"})
    ),
    "a rename with another number of stars": (
        lambda e: e["model"].update(weights={**WEIGHTS, "rename": [["a.*", "b"]]})
    ),
    "an empty prefix": lambda e: e["model"].update(weights={**WEIGHTS, "prefix": ""}),
    "an image beyond itself": (
        lambda e: e["model"].update(
            image={"resize": 2, "crop": 4, "mean": [], "std": [], "classes": None}
        )
    ),
    "nested too deep": lambda e: e["model"]["kwargs"].update(x=json.loads("[" * 300 + "]" * 300)),
}


def record_of(project: Project) -> Path:
    """The kept parse of a project's file."""
    project.artifacts.mkdir(exist_ok=True)
    load_project(project.file, project_cache_path(project))
    (found,) = project_cache_path(project).iterdir()
    return found


def craft(record: Path, change: Change) -> None:
    """Change the first kept target, with a right digest of itself."""
    document = json.loads(record.read_text())
    entry = {
        name: value
        for name, value in document["targets"][0].items()
        if name not in ("digest", "positions")
    }
    change(entry)
    document["targets"][0] = {**entry, "digest": record_digest(entry), "positions": 0}
    record.write_text(json.dumps(document))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_kept_project_fulfils_the_rules_of_its_file(
    project: Project, parses: list[Path], change: Change
) -> None:
    record = record_of(project)
    craft(record, lambda entry: None)
    parses.clear()
    assert load_project(project.file, project_cache_path(project)) == project
    assert not parses
    craft(record, change)
    assert load_project(project.file, project_cache_path(project)) == project
    assert parses


def test_clean_removes_nothing_that_only_a_record_names(tmp_path: Path) -> None:
    project = write_project(tmp_path / "home" / "project")
    publish_fake(project)
    outside = tmp_path / "home" / "cpu"
    outside.mkdir()
    (outside / "precious").write_text("keep")
    craft(record_of(project), lambda entry: entry["model"].update(name="../../.."))
    read = load_project(project.file, project_cache_path(project))
    clean(read, None)
    clean(read, read.targets)
    assert (outside / "precious").read_text() == "keep"
    assert not artifact_directory(project, project.targets[0]).exists()


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if isinstance(name, str)])
def test_no_path_is_made_of_a_name_that_is_none(project: Project, name: str) -> None:
    """Whatever let it through before."""
    target = project.targets[0]
    for bad in (
        replace(target, model=replace(target.model, name=name)),
        replace(target, preset=f"{name}/"),
    ):
        for make in (artifact_directory, lock_path, log_path):
            with pytest.raises(UsageError, match="not usable as the name of a directory"):
                make(project, bad)
        with pytest.raises(UsageError):
            staging_prefix(bad)
        with pytest.raises(UsageError):
            clean(replace(project, targets=(bad,)), None)


def test_the_rules_and_the_schema_name_the_same(project: Project) -> None:
    assert {*rules.DTYPES} == {*get_args(field_types.Dtype)}
    assert {*memory_formats.NAMES} == {*get_args(field_types.MemoryFormat)}
    assert {*ISA_OPTIONS} == {*get_args(field_types.Isa)}


def write_state(project: Project) -> list[Path]:
    """Every file of working state of the project."""
    publish_fake(project)
    os.utime(project.file, (1, 1))
    record = record_of(project)
    for path in (project.root, artifact_directory(project, project.targets[0])):
        for file in path.iterdir():
            os.utime(file, (1, 1))
    records.write_cache_record(index_path(project), "aoti-build/index", 1, {"targets": {"a": {}}})
    records.write_cache_record(
        stat_cache_path(project), "aoti-build/stat-cache", 1, {"files": {"a": {}}}
    )
    host_checks.write_passed_keys(passed_checks_path(project.artifacts), ["a" * 64])
    return [
        record,
        index_path(project),
        stat_cache_path(project),
        passed_checks_path(project.artifacts),
    ]


def believed(project: Project, parses: list[Path]) -> list[bool]:
    """Whether each of these is read."""
    parses.clear()
    load_project(project.file, project_cache_path(project))
    return [
        not parses,
        bool(records.read_cache_record(index_path(project), "aoti-build/index", 1, "targets")),
        bool(
            records.read_cache_record(stat_cache_path(project), "aoti-build/stat-cache", 1, "files")
        ),
        bool(host_checks.read_passed_keys(passed_checks_path(project.artifacts))),
    ]


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o777])
def test_state_that_others_may_write_is_not_believed(
    project: Project, parses: list[Path], mode: int
) -> None:
    state = write_state(project)
    assert believed(project, parses) == [True] * 4
    for path in state:
        path.chmod(mode)
    assert believed(project, parses) == [False] * 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_state_of_somebody_else_is_not_believed(project: Project, parses: list[Path]) -> None:
    for path in write_state(project):
        os.chown(path, 12345, 12345)
    assert believed(project, parses) == [False] * 4


def test_state_behind_a_link_is_not_believed(project: Project, parses: list[Path]) -> None:
    for path in write_state(project):
        path.rename(project.root / path.name)
        path.symlink_to(project.root / path.name)
    assert believed(project, parses) == [False] * 4


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_what_we_write_is_no_more_open_than_what_we_believe(
    project: Project, parses: list[Path], monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    monkeypatch.setattr(writing, "UMASK", umask)
    write_state(project)
    assert believed(project, parses) == [True] * 4


@pytest.mark.parametrize(
    "root",
    [
        {},
        {"artifacts": "relative"},
        {"artifacts": "/a\0b"},
        {"artifacts": ["/"]},
        {"artifacts": "/", "format": "x"},
        {"artifacts": "/", "format_version": 2},
        {"artifacts": "/", "format_version": True},
    ],
    ids=["empty", "relative", "nul", "a list", "format", "version", "a boolean version"],
)
def test_a_root_of_a_store_is_a_directory_by_an_absolute_path(
    project: Project, root: dict[str, Any]
) -> None:
    store = store_of(project)
    store.register(project.artifacts)
    project.artifacts.mkdir(exist_ok=True)
    assert [*store.roots()] == [project.artifacts]
    (path,) = (store.root / "roots").iterdir()
    path.write_text(json.dumps({"format": "aoti-build/store-root", "format_version": 1, **root}))
    assert [*store.roots()] == []


@pytest.mark.parametrize(
    "files_", [[], {"cache/aaaaaaaaaaaaaaaa": 3}, {"cache/aaaaaaaaaaaaaaaa": None}, "x", None]
)
def test_tuning_results_of_another_type_are_a_miss(tmp_path: Path, files_: Any) -> None:
    kernels = KernelCache(tmp_path)
    kernels.add_tuning("gpu", {"cache/aaaaaaaaaaaaaaaa": "{}"})
    document = {
        "format": "aoti-build/tuning",
        "format_version": 1,
        "digest": digest_json(files_),
        "files": files_,
    }
    kernels._tuning_path("gpu").write_text(json.dumps(document))
    assert kernels.tuning("gpu") == {}
    kernels.add_tuning("gpu", {"cache/aaaaaaaaaaaaaaaa": '{"a": 1}'})
    assert kernels.tuning("gpu") == {"cache/aaaaaaaaaaaaaaaa": '{"a": 1}'}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"no zip",
        lambda data: data[:-9],
        lambda data: data.replace(b"PK\1\2", b"PK\1\3"),
    ],
)
def test_a_kernel_that_is_no_archive_is_a_miss(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    kernels = KernelCache(tmp_path)
    kernels.add("KEY", {"a.cubin": b"code"})
    path = kernels._path("KEY")
    data = damage(path.read_bytes()[32:])
    path.write_bytes(sha256(data).digest() + data)
    assert kernels.fetch("KEY") is None


HEAD = {"format": "aoti-build/message", "format_version": 1}


@pytest.mark.parametrize(
    "result",
    [
        3,
        [],
        {},
        {"ok": True},
        {**HEAD, "type": "compile-result"},
        {**HEAD, "type": "compile-result", "seconds": {"compile": "1"}},
        {**HEAD, "type": "probe-result", "probes": []},
        {**HEAD, "type": "failure"},
        {**HEAD, "type": "failure", "error": {}},
        {**HEAD, "type": "failure", "error": {"kind": 1, "message": "x"}},
    ],
    ids=str,
)
def test_a_result_that_is_none_is_refused(tmp_path: Path, result: Any) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(MessageError, match=r"result\.json: "):
        read_result(CompileResult, tmp_path / "result.json", status=0, log=tmp_path / "log")
