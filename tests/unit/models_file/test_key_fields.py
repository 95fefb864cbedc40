"""Every field of a target changes the source key, or stands here with the reason why it need not.

A field that is in neither would be forgotten by the key: after an edit of it in models.yaml, an
artifact that was made without it would be called up to date. The walk is over the types, so a new
field needs nothing here to be missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from aoti_build.artifact.verification import required_tolerance
from aoti_build.common.stat_cache import StatCache
from aoti_build.models_file.project import (
    Baseline,
    ConstantInput,
    CudaOptions,
    Dim,
    Image,
    Layout,
    Model,
    OutputTolerance,
    Position,
    Project,
    Source,
    Target,
    TensorInput,
    Tolerance,
    Weights,
)
from aoti_build.planning.current_state import current_parts

# Fields whose change asks for no other artifact, and why. A name stands for the fields below it.
CHECKED_AGAIN = {
    "model.tolerance": "decides whether an artifact passes, not what it is",
    "model.baseline.limit": "decides whether an artifact passes, not what it is",
}
EXEMPT = {
    **CHECKED_AGAIN,
    "digest": "is made of the other fields",
    "preset": "names the options that are a part of the key themselves (`inductor_config`)",
    "listed": "decides the name of the target's directory alone",
    "model.name": "decides the directory alone, so that equal models share what was built",
    "model.positions": "is where the fields stand in models.yaml, for messages",
    "model.image": "is read from models.yaml by `run`, each time it is called",
}

# Fields of a project that are no part of a target's key, and why.
OF_PROJECT = {
    "file": "is where the entries of the targets stand; their fields are the key",
    "targets": "have the keys",
    "presets": "are in the targets that use them, as `inductor_config`",
    "tuned": "is in the targets that use it, as `inductor_config`",
    "described": "are the targets before tuned.yaml",
    "preset_positions": "are for errors",
    "private": "is the directory of artifacts that are not published",
    "layout.root": "is where paths begin: what lies there is a source by its path from the root on",
    "layout.python_path": "is where modules are searched: the place of each one is in the key",
    "layout.artifacts": "is where artifacts are published, not what they are",
    "layout.history": "is where benchmarks are kept, which follow from artifacts",
}

# Every field that may be absent has a value in one of these.
ON_CPU = Target(
    Model(
        "m",
        Source("build", path="model.py"),
        (
            TensorInput((2, "batch"), "float32", "x", 0.5, 1.5, 0.5, "channels_last"),
            ConstantInput(1, "flag"),
        ),
        kwargs={"width": 4},
        weights=Weights("w.pt", "model", "net.", (("a.", "b."),), ("c.*",)),
        dims=(Dim("batch", 1, 8, 4),),
        baseline=Baseline(Source("base", path="base.py"), {"width": 4}, 0.5),
        tolerance=Tolerance(0.5, 0.5, {"y": OutputTolerance(0.5, 0.5, 0.5, 0.5)}),
        image=Image(256, 224, (0.5,), (0.5,), "classes.txt"),
        positions={"source": Position(1, 1)},
    ),
    "cpu",
)
BY_MODULE = Source("build", module="package.module")
ON_CUDA = replace(
    ON_CPU,
    model=replace(
        ON_CPU.model,
        source=BY_MODULE,
        inputs=BY_MODULE,
        baseline=Baseline(BY_MODULE),
        image=BY_MODULE,
        cuda=CudaOptions(tf32=True, reduced_precision=True),
    ),
    device="cuda",
)
BY_PATH = Source("build", path="model.py")
INPUTS_BY_PATH = replace(ON_CPU, model=replace(ON_CPU.model, inputs=BY_PATH, image=BY_PATH))
SAMPLES = (ON_CPU, ON_CUDA, INPUTS_BY_PATH)

# Values that are chosen from a few.
OTHER_CHOICE = {"cpu": "cuda", "cuda": "cpu", "native": "sm_80"}
OF_TYPE = {bool: True, int: 1, float: 0.5, str: "x"}


@dataclass(frozen=True)
class Effects:
    """Names of fields of which a change gives another key, and of those of which none does."""

    another_key: set[str]
    same_key: set[str]


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory) -> Effects:
    root = tmp_path_factory.mktemp("project")
    effects = Effects(set(), set())
    for sample in SAMPLES:
        key = _key(sample, root)
        for name, changed in _edits(sample):
            is_same = _key(changed, root) == key
            (effects.same_key if is_same else effects.another_key).add(name)
    effects.same_key.difference_update(effects.another_key)
    return effects


def test_every_field_changes_the_key_or_says_why_not(effects: Effects) -> None:
    names = {name for name in _names(Target) if not _exemption(name)}
    untried = names - effects.another_key - effects.same_key
    assert not untried, "give a sample of this test a value for these"
    forgotten = names & effects.same_key
    assert not forgotten, "the source key lacks these; see spec_parts in artifact/fingerprint.py"


@pytest.mark.parametrize("name", EXEMPT)
def test_an_exemption_is_needed(effects: Effects, name: str) -> None:
    exempt = {inner for inner in _names(Target) if _exemption(inner) == name}
    assert exempt, "there is no such field"
    assert not exempt & effects.another_key, "the source key has these already"


def test_what_is_left_out_of_the_key_as_a_bound_is_checked_again() -> None:
    edits = {name: edit for name, edit in _edits(ON_CPU) if _exemption(name) in CHECKED_AGAIN}
    assert edits.keys() == {name for name in _names(Target) if _exemption(name) in CHECKED_AGAIN}
    before = required_tolerance(ON_CPU)
    assert [name for name, edit in edits.items() if required_tolerance(edit) == before] == []


def test_every_field_of_a_project_says_why_it_is_not_in_the_key(tmp_path: Path) -> None:
    names = {field.name for field in fields(Project)} - {"layout"}
    names |= {f"layout.{field.name}" for field in fields(Layout)}
    assert names == set(OF_PROJECT)
    layouts = (
        Layout(),
        Layout(root=".."),
        Layout(python_path=("src",)),
        Layout(artifacts="out"),
        Layout(history="past"),
    )
    keys = set()
    for layout in layouts:
        project = Project(tmp_path / "models.yaml", (ON_CPU,), layout=layout)
        keys.add(current_parts(project, ON_CPU, {}, StatCache(tmp_path / "cache.json")).key)
    assert len(keys) == 1


def _key(target: Target, root: Path) -> str:
    project = Project(root / "models.yaml", (target,))
    return current_parts(project, target, {}, StatCache(root / "cache.json")).key


def _exemption(name: str) -> str | None:
    return next((prefix for prefix in EXEMPT if f"{name}.".startswith(f"{prefix}.")), None)


def _names(kind: type, above: str = "") -> Iterator[str]:
    """The fields of a dataclass and of the dataclasses that it holds. A field that is always one of
    those has no name of its own here: only the fields in it can differ."""
    for field_name, hint in get_type_hints(kind).items():
        name = above + field_name
        if not is_dataclass(hint):
            yield name
        for inner in _dataclasses_in(hint):
            yield from _names(inner, _step(name, hint, inner))


def _dataclasses_in(hint: Any) -> list[type]:
    if is_dataclass(hint):
        return [hint]
    return [inner for part in get_args(hint) for inner in _dataclasses_in(part)]


def _step(name: str, hint: Any, inner: type) -> str:
    """How the names of `inner`'s fields begin; where the field `name` may hold several types, the
    type is a part of it."""
    return f"{name}." if len(_dataclasses_in(hint)) == 1 else f"{name}.{inner.__name__}."


def _edits(value: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Each field of a dataclass and of those that it holds, with a copy that differs in it."""
    hints = get_type_hints(type(value))
    for field in fields(value):
        old, hint, name = getattr(value, field.name), hints[field.name], above + field.name
        new = _another(old, hint)
        if new is not old:
            yield name, replace(value, **{field.name: new})
        for at, inner in _dataclasses_of(old).items():
            for inner_name, changed in _edits(inner, _step(name, hint, type(inner))):
                yield inner_name, replace(value, **{field.name: _with(old, at, changed)})


def _another(old: Any, hint: Any) -> Any:
    """Another value for a field; the same one if there is none but for the fields in it."""
    if old is None:
        return next((OF_TYPE[kind] for kind in get_args(hint) if kind in OF_TYPE), None)
    if isinstance(old, bool):
        return not old
    if isinstance(old, int | float):
        return old + 1
    if isinstance(old, str):
        return OTHER_CHOICE.get(old, old + "x")
    if isinstance(old, tuple):
        return () if old else ("x",)
    if isinstance(old, Mapping):
        return {} if old else {"x": 1}
    return None if type(None) in get_args(hint) else old


def _dataclasses_of(value: Any) -> dict[Any, Any]:
    """The dataclasses in the value of a field, by index or key; None: the value is one."""
    entries: dict[Any, Any] = {None: value}
    if isinstance(value, tuple):
        entries = dict(enumerate(value))
    elif isinstance(value, Mapping):
        entries = dict(value)
    return {at: entry for at, entry in entries.items() if is_dataclass(entry)}


def _with(value: Any, at: Any, new: Any) -> Any:
    """The value of a field with one of its dataclasses replaced."""
    if isinstance(value, tuple):
        return (*value[:at], new, *value[at + 1 :])
    if isinstance(value, Mapping):
        return {**value, at: new}
    return new
