"""The index makes a plan fast and never another one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_projects import (
    TWO_MODELS,
    digests_of,
    forget_installed,
    publish_fake,
    store_of,
    write_project,
)

from aoti_build.artifact import manifest as manifests
from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA
from aoti_build.artifact.paths import artifact_directory, index_path, stat_cache_path
from aoti_build.commands.build import plan
from aoti_build.common import stat_cache
from aoti_build.common.digests import digest_bytes
from aoti_build.common.stat_cache import StatCache
from aoti_build.host import distributions, toolchain
from aoti_build.models_file import Project
from aoti_build.planning import plan as planning
from aoti_build.planning.index import Index, Published
from aoti_build.planning.plan import Plan, make_plan
from aoti_build.work.outcome import published_of

WEIGHTS = "    weights: weights.safetensors\n"
TEXT = TWO_MODELS.replace("  second:", f"    kwargs: {{width: 4}}\n{WEIGHTS}  second:")
# Long enough for the change time of the coarsest kernel clock (100 Hz) to differ.
TICK = 0.025


class World:
    """A project with two published targets, and everything that may happen to it."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.patch = root, patch
        names = ("version_of", "identity")
        self.real_version: dict[str, Any] = {name: getattr(distributions, name) for name in names}
        patch.syspath_prepend(str(root / "site"))
        self.install("print(1)")
        (root / "listed").mkdir()
        self.project = write_project(root, TEXT)
        self.publish()

    def install(self, code: str) -> None:
        """A library, always of the same version."""
        record = self.root / "site/small_library-0.1.0.dist-info/RECORD"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(f"small_library.py,sha256={digest_bytes(code.encode())},8\n")

    def publish(self) -> None:
        for target in self.project.targets:
            publish_fake(self.project, target)

    def file(self, index: int, name: str) -> Path:
        return artifact_directory(self.project, self.project.targets[index]) / name

    def models(self, old: str, new: str) -> None:
        """Change models.yaml, or change it back."""
        text = (self.root / "models.yaml").read_text()
        self.project = write_project(
            self.root, text.replace(new, old) if new in text else text.replace(old, new)
        )

    def both(self) -> tuple[Plan, Plan]:
        """The plan as `build` makes it, and the one that trusts nothing."""
        project = self.project
        forget_installed()
        quick = plan(project, project.targets)
        return quick, make_plan(project, project.targets, digests_of(project), store_of(project))


def write(name: str, text: str) -> Callable[[World], object]:
    return lambda world: (world.root / name).write_text(text)


def keep_time(name: str) -> Callable[[World], object]:
    """Other content of the same size and modification time."""

    def change(world: World) -> None:
        path = world.root / name
        if path.exists():
            before = path.stat()
            path.write_bytes(path.read_bytes()[::-1])
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return change


def models(old: str, new: str) -> Callable[[World], object]:
    return lambda world: world.models(old, new)


def another_release(world: World) -> None:
    for module in (manifests, planning):
        world.patch.setattr(module, "FORMAT_VERSION", 99)


def _answering(
    distribution: str, number: str, real: Callable[[str], str | None]
) -> Callable[[str], str | None]:
    return lambda name, *digests: number if name == distribution else real(name, *digests)


def version(number: str) -> Callable[[World], object]:
    def change(world: World) -> None:
        for name, real in world.real_version.items():
            world.patch.setattr(
                distributions, name, _answering("sympy", number, real) if number else real
            )

    return change


def swap(world: World) -> None:
    first, second = (artifact_directory(world.project, target) for target in world.project.targets)
    if first.exists() and second.exists():
        first.rename(world.root / "aside")
        second.rename(first)
        (world.root / "aside").rename(second)


def swap_files(world: World) -> None:
    first, second = world.file(0, MODEL), world.file(1, MODEL)
    if first.exists() and second.exists():
        content = first.read_bytes()
        shutil.copyfile(second, first)
        second.write_bytes(content)


def spoil(path_of: Callable[[World], Path], content: bytes | None) -> Callable[[World], object]:
    """Overwrite a file, or remove it."""

    def change(world: World) -> None:
        path = path_of(world)
        if content is None:
            path.unlink(missing_ok=True)
        elif path.parent.is_dir():
            path.write_bytes(content)

    return change


def model_file(world: World) -> Path:
    return world.file(0, MODEL)


def reference_data_file(world: World) -> Path:
    return world.file(1, REFERENCE_DATA)


def manifest_file(world: World) -> Path:
    return world.file(0, "manifest.json")


def index_file(world: World) -> Path:
    return index_path(world.project)


def stat_file(world: World) -> Path:
    return stat_cache_path(world.project)


CHANGES: dict[str, Callable[[World], object]] = {
    "edit a source": write("helper.py", "edited = 1\n"),
    "edit it back": write("helper.py", "def module(width): ...\n"),
    "edit a source and keep size and time": keep_time("helper.py"),
    "touch": lambda world: (world.root / "helper.py").touch(),
    "edit weights": write("weights.safetensors", "weights, version 2"),
    "edit weights and keep size and time": keep_time("weights.safetensors"),
    "a field": models("width: 4", "width: 5"),
    "a shape": models("[3, 4]", "[5, 4]"),
    "a tolerance": models("width: 4}", "width: 4}\n    tolerance: {atol: 0.5}"),
    "a seed": models("[2, 4]}]", "[2, 4]}]\n    seed: 1"),
    "other weights": models("weights.safetensors", "helper.py.safetensors"),
    "a portable architecture": models("[3, 4]}]", "[3, 4]}]\n    cpu: {isa: avx2}"),
    "comments": models("models:", "# a comment\n\nmodels:  # another"),
    "another order": lambda world: world.__setattr__("project", turned(world)),
    "a renamed model": models("  second:", "  renamed:"),
    "set a variable": lambda world: world.patch.setenv("TORCHINDUCTOR_SOMETHING", "1"),
    "unset it": lambda world: world.patch.delenv("TORCHINDUCTOR_SOMETHING", raising=False),
    "another compiler": lambda world: world.patch.setenv("CXX", "no-such-compiler"),
    "another version": version("0.0"),
    "the real version": version(""),
    "install a library again": lambda world: world.install("print(2)"),
    "install it as it was": lambda world: world.install("print(1)"),
    "set a variable that the model reads": lambda world: world.patch.setenv("SMALL", "1"),
    "a module that was looked for in vain": write("optional.py", "fast = True\n"),
    "another entry in a listed directory": (
        lambda world: (world.root / "listed" / "more.txt").touch()
    ),
    "another hidden entry": lambda world: (world.root / "listed" / ".more").touch(),
    "another recipe": lambda world: world.patch.setattr(toolchain, "FACTS_VERSION", 99),
    "a release with other manifests": another_release,
    "damage the model": spoil(model_file, b"damaged"),
    "delete the model": spoil(model_file, None),
    "delete a reference file": spoil(reference_data_file, None),
    "damage a manifest": spoil(manifest_file, b"{}"),
    "delete a manifest": spoil(manifest_file, None),
    "edit the model and keep size and time": keep_time("artifacts/first/cpu/model.pt2"),
    "swap artifacts": swap,
    "swap files": swap_files,
    "publish": lambda world: world.publish(),
    "corrupt the index": spoil(index_file, b"[" * 100_000),
    "cut the index": spoil(
        index_file, b'{"format": "aoti-build/index", "format_version": 1, "targets": {"'
    ),
    "delete the index": spoil(index_file, None),
    "corrupt the stat cache": spoil(stat_file, b"\xff"),
    "delete the stat cache": spoil(stat_file, None),
}


def turned(world: World) -> Project:
    """The models in the other order."""
    head, *entries = (
        (world.root / "models.yaml").read_text().replace("\n  ", "\n  SPLIT").split("SPLIT")
    )
    blocks: list[str] = []
    for entry in entries:
        if entry.startswith(" "):
            blocks[-1] += entry
        else:
            blocks.append(entry)
    text = head.rstrip(" ") + "".join("  " + block.rstrip() + "\n" for block in reversed(blocks))
    return write_project(world.root, text)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Two targets up to date, and the index and stat cache know it."""
    monkeypatch.setattr(stat_cache, "RACY_NS", 0)
    with pytest.MonkeyPatch.context() as patch:
        made = World(tmp_path, patch)
        time.sleep(TICK)
        assert (
            shown(made.both()[0])
            == shown(made.both()[0])
            == [("first/cpu", "up-to-date"), ("second/cpu", "up-to-date")]
        )
        time.sleep(TICK)
        yield made


# What first/cpu and second/cpu then need, where that is known.
SEEN = {
    "edit a source": "build build",
    "edit a source and keep size and time": "build build",
    "touch": "up-to-date up-to-date",
    "edit weights": "build up-to-date",
    "edit weights and keep size and time": "build up-to-date",
    "a field": "build up-to-date",
    "a shape": "up-to-date build",
    "a tolerance": "recheck up-to-date",
    "comments": "up-to-date up-to-date",
    "another order": "up-to-date up-to-date",
    "set a variable": "build build",
    "another compiler": "build build",
    "another version": "build build",
    "another recipe": "build build",
    "install a library again": "build build",
    "install it as it was": "up-to-date up-to-date",
    "set a variable that the model reads": "build build",
    "a module that was looked for in vain": "build build",
    "another entry in a listed directory": "build build",
    "another hidden entry": "up-to-date up-to-date",
    "damage the model": "build up-to-date",
    "delete a reference file": "up-to-date build",
    "damage a manifest": "build up-to-date",
    "edit the model and keep size and time": "build up-to-date",
    "swap artifacts": "build build",
    "swap files": "build build",
    "corrupt the index": "up-to-date up-to-date",
    "corrupt the stat cache": "up-to-date up-to-date",
}


@pytest.mark.parametrize("name", CHANGES)
def test_after_any_change_the_plan_is_that_without_index(world: World, name: str) -> None:
    CHANGES[name](world)
    for _ in range(2):
        quick, slow = world.both()
        assert told(quick) == told(slow)
        if name in SEEN:
            assert " ".join(action for _, action in sorted(shown(quick))) == SEEN[name]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([*CHANGES, "wait", "publish", "edit it back"]), min_size=1, max_size=8)
)
def test_after_any_changes_the_plan_is_that_without_index(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(stat_cache, "RACY_NS", int(TICK * 0.5e9))
        world = World(Path(directory), patch)
        for name in names:
            if name == "wait":
                time.sleep(TICK)
            else:
                CHANGES[name](world)
            quick, slow = world.both()
            assert told(quick) == told(slow), name


def test_a_no_op_reads_no_manifest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shown_published(world.both()[1])

    def refuse(*_: object) -> None:
        raise AssertionError("a no-op looked at more than stats")

    for module, name in (
        (planning, "read_manifest"),
        (planning, "current_parts"),
        (stat_cache, "digest_file"),
    ):
        monkeypatch.setattr(module, name, refuse)
    quick = plan(world.project, world.project.targets)
    assert shown(quick) == [("first/cpu", "up-to-date"), ("second/cpu", "up-to-date")]
    assert shown_published(quick) == before


def test_without_quick_every_step_has_its_manifest(world: World) -> None:
    assert all(
        step.manifest for step in plan(world.project, world.project.targets, quick=False).steps
    )


def test_force_does_not_ask_the_index(world: World) -> None:
    made = plan(world.project, world.project.targets, force=True)
    assert [step.action for step in made.steps] == ["build", "build"]


def test_a_part_of_the_targets_leaves_the_others_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_path(world.project).unlink()
    plan(world.project, world.project.targets[:1])
    plan(world.project, world.project.targets[1:])
    monkeypatch.setattr(planning, "read_manifest", None)
    assert len(shown(plan(world.project, world.project.targets))) == 2


def test_an_index_that_cannot_be_written_changes_nothing(world: World) -> None:
    index_path(world.project).unlink()
    index_path(world.project).mkdir()
    quick, slow = world.both()
    assert told(quick) == told(slow)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"format": "aoti-build/index", "format_version": 2, "targets": {}}',
        b'{"format": "aoti-build/index", "format_version": 1, "targets": [1]}',
        b'{"format": "aoti-build/index", "format_version": 1, "targets": null}',
    ],
    ids=lambda content: repr(content[:70]),
)
def test_a_record_that_is_none_of_ours_is_a_miss(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.json").write_bytes(content)
    index = Index(
        tmp_path / "index.json",
        Project(tmp_path / "models.yaml", ()),
        StatCache(tmp_path / "cache.json"),
    )
    assert index.look_up("small/cpu", "spec", "facts") is None


ENTRY = {
    "spec": "s",
    "facts": "f",
    "distributions": {},
    "modules": {},
    "variables": {},
    "files": {},
    "key": "a" * 64,
    "sha256": "b" * 64,
    "size": 3,
}


@pytest.mark.parametrize(
    "entry",
    [
        None,
        3,
        [],
        "text",
        {},
        {**ENTRY, "spec": "other"},
        {**ENTRY, "facts": "other"},
        {**ENTRY, "distributions": []},
        {**ENTRY, "distributions": {"no-such-distribution": ["1", None]}},
        {**ENTRY, "modules": {"no_such_module": "installed"}},
        {**ENTRY, "files": None},
        {**ENTRY, "files": {"absent.py": "0" * 64}},
        {**ENTRY, "files": {"nul\0": "0" * 64}},
        {**ENTRY, "size": "large"},
        {**ENTRY, "size": float("nan")},
        pytest.param({**ENTRY, "size": float("inf")}),
        *({name: value for name, value in ENTRY.items() if name != missing} for missing in ENTRY),
    ],
    ids=str,
)
def test_a_garbled_entry_is_a_miss(tmp_path: Path, entry: object) -> None:
    assert look_up(tmp_path, ENTRY) == Published("a" * 64, "b" * 64, 3)
    assert look_up(tmp_path, entry) is None


def look_up(root: Path, entry: object) -> Published | None:
    document = {"format": "aoti-build/index", "format_version": 1, "targets": {"small/cpu": entry}}
    (root / "index.json").write_text(json.dumps(document))
    return Index(
        root / "index.json", Project(root / "models.yaml", ()), StatCache(root / "cache.json")
    ).look_up("small/cpu", "s", "f")


def told(made: Plan) -> list[tuple[Any, ...]]:
    return [(step.target.name, step.action, step.reasons, step.stored) for step in made.steps]


def shown(made: Plan) -> list[tuple[str, str]]:
    return [(step.target.name, step.action) for step in made.steps]


def shown_published(made: Plan) -> list[Published | None]:
    return [step.published or published_of(step.manifest) for step in made.steps]
