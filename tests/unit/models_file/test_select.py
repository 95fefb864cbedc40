"""`--target`: which targets a glob means."""

from __future__ import annotations

import pytest

from aoti_build.errors import ExitCode, UsageError
from aoti_build.models_file import Model, Source, Target, select


def target(name: str, device: str, preset: str = "default") -> Target:
    return Target(Model(name, Source("f", module="m"), ()), device, preset)


TARGETS = [
    target("resnet18", "cpu"),
    target("resnet18", "cuda"),
    target("resnet18", "cuda", "max-autotune"),
    target("encoder", "cpu"),
    target("resnet180", "cpu"),
]
NAMES = [
    "resnet18/cpu",
    "resnet18/cuda",
    "resnet18/cuda-max-autotune",
    "encoder/cpu",
    "resnet180/cpu",
]


def chosen(pattern: str | None) -> list[str]:
    return [target.name for target in select(TARGETS, pattern)]


@pytest.mark.parametrize(
    ("pattern", "indices"),
    [
        (None, [0, 1, 2, 3, 4]),
        ("", [0, 1, 2, 3, 4]),
        ("*", [0, 1, 2, 3, 4]),
        ("resnet18", [0, 1, 2]),
        ("resnet18/cuda", [1]),
        ("resnet18/*", [0, 1, 2]),
        ("*/cpu", [0, 3, 4]),
        ("*-max-autotune", [2]),
        ("resnet*", [0, 1, 2, 4]),
        ("encoder,resnet18/cpu", [0, 3]),
        (" encoder , encoder/cpu, *coder ,", [3]),
        ("resnet1[8]/c?u", [0]),
    ],
)
def test_globs_keep_the_order_of_the_file(pattern: str | None, indices: list[int]) -> None:
    assert chosen(pattern) == [NAMES[index] for index in indices]


def test_a_glob_that_matches_nothing_names_what_is_near_and_what_there_is() -> None:
    with pytest.raises(UsageError) as caught:
        select(TARGETS, "encoder,resnt18/cpu,zzz,Encoder")
    assert caught.value.exit_code == ExitCode.USAGE
    assert "'resnt18/cpu' (did you mean 'resnet18/cpu' or " in caught.value.message
    assert "'Encoder' (did you mean 'encoder'?)" in caught.value.message
    assert "'zzz'" in caught.value.message
    assert caught.value.hint == "the targets are: " + ", ".join(NAMES)


def test_many_targets_are_counted_rather_than_listed() -> None:
    with pytest.raises(UsageError) as caught:
        select([target(f"m{n}", "cpu") for n in range(21)], "x")
    assert caught.value.hint == "there are 21 targets; `invoke status` lists them"


@pytest.mark.parametrize("pattern", [",", " ", " , "])
def test_a_pattern_without_globs_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError):
        select(TARGETS, pattern)


def test_letter_case_counts() -> None:
    with pytest.raises(UsageError):
        select(TARGETS, "ENCODER/CPU")
