"""Follows a compile of inductor: announces its stages, and reports the programs that it runs.

Inductor has no interface for this. So a few of its functions are replaced while the context lasts.
A function that another release of torch lacks is left out, and only detail is lost.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aoti_build._torch.events import Events

_INDUCTOR = "torch._inductor"
# The stage of a compiler call, by a part of the name of the file that it writes, in this order.
_STAGES = (
    (".gch", "headers"),
    (".pch", "headers"),
    ("wrapper.so", "link"),
    ("wrapper.o", "wrapper"),
    ("kernel.o", "kernels"),
)
# Inductor names its files by digests.
_DIGEST = re.compile(r"([a-z0-9]{8})[a-z0-9]{20,}\.?")
# ``model.cpp:12:5: error: text``, or without a place, as of a compiler that was killed.
_PLACED_ERROR = re.compile(r"^\s*(\S[^:\n]*:\d+:(?:\d+:)? (?:fatal )?error: .*)$", re.MULTILINE)
_ANY_ERROR = re.compile(r"^\s*(.*\b(?:fatal )?error: .*)$", re.MULTILINE)
_LONGEST_ERROR = 300


@contextlib.contextmanager
def followed(events: Events) -> Iterator[None]:
    """Announce the stages of a compile inside: ``codegen``, ``autotune``, ``kernels``, ``headers``,
    ``wrapper`` and ``link``."""
    with contextlib.ExitStack() as stack:
        events.stage("codegen")
        stack.enter_context(_programs(events))
        stack.enter_context(_gpu_kernels(events))
        stack.enter_context(_autotuning(events))
        yield


def stage_of(words: Sequence[str]) -> str | None:
    """The stage that a compiler call belongs to; None for other programs, such as ``c++
    --version``."""
    output = output_of(words)
    for part, stage in _STAGES:
        if part in output:
            return stage
    return None


def output_of(words: Sequence[str]) -> str:
    """The name of the file that a compiler call writes; empty for other programs."""
    for word, following in itertools.pairwise(words):
        if word == "-o":
            return Path(following).name
    return ""


def first_error(output: str) -> str:
    """The first error line in the output of a compiler, with the file's name instead of its path.
    Empty if there is none."""
    match = _PLACED_ERROR.search(output) or _ANY_ERROR.search(output)
    if match is None:
        return ""
    place, separator, said = match[1].strip().partition(":")
    return f"{Path(place).name}{separator}{said}"[:_LONGEST_ERROR]


def _programs(events: Events) -> contextlib.AbstractContextManager[None]:
    """Report each program that is waited for. All functions of `subprocess` that wait for one enter
    the context of its `Popen`."""

    class Followed(subprocess.Popen[Any]):
        def __init__(self, args: Any, *others: Any, **options: Any) -> None:
            stage = stage_of(_words(args))
            if stage is not None:
                events.stage(stage)
            self._started = time.monotonic()
            super().__init__(args, *others, **options)

        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            words = _words(self.args)
            output = output_of(words)
            name = Path(words[0]).name if words else ""
            short = _DIGEST.sub(r"\1..", output)
            events.span("program", f"{name} {short}".strip(), self._started, output=output)

    return _replaced(subprocess, "Popen", lambda _: Followed)


def _words(arguments: Any) -> list[str]:
    if isinstance(arguments, str):
        return arguments.split()
    if isinstance(arguments, bytes | Path):
        return [str(arguments)]
    return [str(word) for word in arguments]


def _gpu_kernels(events: Events) -> contextlib.AbstractContextManager[None]:
    """Announce how many of the Triton kernels are compiled. Inductor has a progress bar for
    them."""

    class Bar:
        def __init__(self, *_: Any, total: int = 0, **__: Any) -> None:
            self._total = total
            self._done = 0
            if total:
                events.stage("kernels", 0, total)

        def update(self, count: int = 1) -> None:
            self._done += count
            if self._total:
                events.stage("kernels", self._done, self._total)

        def set_postfix_str(self, *_: Any, **__: Any) -> None:
            pass

    return _replaced(_module("async_compile"), "tqdm", lambda _: Bar)


@contextlib.contextmanager
def _autotuning(events: Events) -> Iterator[None]:
    """Announce how many of the candidates for an operator are measured, and each Triton kernel
    whose configurations are."""
    done, total = 0, 0

    def measure_all(original: Any) -> Any:
        def benchmark_choices(cls: type, choices: Sequence[Any], *others: Any, **named: Any) -> Any:
            nonlocal done, total
            done, total = 0, len(choices)
            events.stage("autotune", done, total)
            return original.__func__(cls, choices, *others, **named)

        return classmethod(benchmark_choices)

    def measure_one(original: Any) -> Any:
        def benchmark_choice(cls: type, *others: Any, **named: Any) -> Any:
            nonlocal done
            try:
                return original.__func__(cls, *others, **named)
            finally:
                done += 1
                if total:
                    events.stage("autotune", min(done, total), total)

        return classmethod(benchmark_choice)

    def tune_kernel(original: Callable[..., Any]) -> Callable[..., Any]:
        def autotune_to_one_config(self: Any, *others: Any, **named: Any) -> Any:
            name = getattr(getattr(self, "fn", None), "__name__", "")
            events.stage("autotune", detail=name)
            return original(self, *others, **named)

        return autotune_to_one_config

    algorithms = getattr(_module("select_algorithm"), "AlgorithmSelectorCache", None)
    autotuner = getattr(_module("runtime.triton_heuristics"), "CachingAutotuner", None)
    with (
        _replaced_classmethod(algorithms, "benchmark_choices", measure_all),
        _replaced_classmethod(algorithms, "benchmark_choice", measure_one),
        _replaced(autotuner, "autotune_to_one_config", tune_kernel),
    ):
        yield


def _module(name: str) -> Any:
    """A module of inductor that is imported already, else None."""
    return sys.modules.get(f"{_INDUCTOR}.{name}")


@contextlib.contextmanager
def _replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Replace an attribute inside by what `make` makes of it, if there is one."""
    original = vars(owner).get(name) if owner is not None else None
    if original is None:
        yield
        return
    setattr(owner, name, make(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def _replaced_classmethod(
    owner: Any, name: str, make: Callable[[Any], Any]
) -> contextlib.AbstractContextManager[None]:
    """`_replaced`, if the attribute is a class method."""
    is_known = owner is not None and isinstance(vars(owner).get(name), classmethod)
    return _replaced(owner if is_known else None, name, make)
