"""Indicative latencies for reports: a few calls at the example sizes, which cost next to nothing.

Other targets may be compiled on the host meanwhile. A call whose threads lost their processors to
other programs does not count, since it may have taken a thousand times as long. Of the others the
fastest does. `tune` measures properly.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aoti_build._torch.checking.eager import Subject
from aoti_build._torch.checking.state import restored_state
from aoti_build._torch.packages.loaded import LoadedPackage
from aoti_build._torch.program.inputs import Call
from aoti_build.runtime.raw import synchronize

# The timed calls of one side take about this long together, and are at most so many.
_SECONDS = 0.2
_MOST_CALLS = 50
# If a first call took longer than this many seconds, no other is made and there is no figure. A
# first call is none: it also reads weights and code. For a small model on a busy host it takes up
# to a hundred times as long as later ones.
_LONGEST_SECONDS = 10.0
# A thread that competes for a processor loses it every few milliseconds. The system itself takes
# one away a few times a second.
_SWITCHES_PER_SECOND = 20


class TimedCall(NamedTuple):
    """The seconds of a call, and how often the system took a processor from one of its threads."""

    seconds: float
    switches: int

    @property
    def is_undisturbed(self) -> bool:
        return self.switches <= self.seconds * _SWITCHES_PER_SECOND


def eager_seconds(subject: Subject, call: Call, known: float | None) -> float | None:
    """The seconds of the fastest of a few calls in eager mode. The state of the model stays.

    `known` is what a first call took. Returns None if that is too long for another one, and if
    other programs disturbed every call.
    """
    if known is not None and known > _LONGEST_SECONDS:
        return None
    with restored_state(subject.module):
        return _fastest(eager_calls(subject, call))


def eager_calls(subject: Subject, call: Call) -> Iterator[TimedCall]:
    """Calls in eager mode without an end. They change the state of the model."""

    def copied() -> Call:
        copy = call.clone()
        synchronize(subject.device)
        return copy

    def call_once(arguments: Call) -> None:
        with torch.no_grad():
            subject.module(*arguments.args, **arguments.kwargs)
        synchronize(subject.device)

    return _timed(copied, call_once)


def artifact_seconds(
    package: LoadedPackage, inputs: list[Tensor], device: str, known: float
) -> float | None:
    """The seconds of the fastest of a few calls of the package; see `eager_seconds`."""
    if known > _LONGEST_SECONDS:
        return None
    on_device = [value.to(device) for value in inputs]

    def copies() -> list[Tensor]:
        copied = [value.clone() for value in on_device]
        synchronize(device)
        return copied

    def call_once(arguments: list[Tensor]) -> None:
        package.run_in_place(arguments)  # waits for the device

    return _fastest(_timed(copies, call_once))


def _fastest(calls: Iterator[TimedCall]) -> float | None:
    """The seconds of the fastest undisturbed call; None if there is none."""
    fastest: float | None = None
    for made in first_calls(calls, _SECONDS, _MOST_CALLS):
        if made.is_undisturbed and (fastest is None or made.seconds < fastest):
            fastest = made.seconds
    return None if fastest is None else round(fastest, 7)


def first_calls(calls: Iterator[TimedCall], seconds: float, most: int) -> list[TimedCall]:
    """The calls until they take `seconds` together or there are `most`, and at least one."""
    made = [next(calls)]
    while len(made) < most and sum(entry.seconds for entry in made) < seconds:
        made.append(next(calls))
    return made


def _timed(prepare: Callable[[], Any], call_once: Callable[[Any], None]) -> Iterator[TimedCall]:
    """Calls without an end. `prepare` makes the arguments, which is not timed."""
    while True:
        arguments = prepare()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        started = time.perf_counter()
        call_once(arguments)
        elapsed = time.perf_counter() - started
        yield TimedCall(elapsed, resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - before)
