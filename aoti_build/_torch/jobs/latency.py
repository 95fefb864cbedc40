"""Indicative latencies for reports: a few calls at the example sizes, which cost next to nothing.

Other work may run on the host meanwhile, so the fastest call counts. `tune` measures properly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aoti_build._torch.checking.eager import Subject
from aoti_build._torch.checking.state import restored_state
from aoti_build._torch.packages.loaded import LoadedPackage
from aoti_build._torch.program.inputs import Call
from aoti_build.runtime.raw import synchronize

# The timed calls of one side take about this long together, and are at most so many.
_SECONDS = 0.2
_MOST_CALLS = 20


def eager_seconds(subject: Subject, call: Call, known: float | None) -> float:
    """The seconds of the fastest of a few calls in eager mode. The state of the model stays.

    `known` is what a call took before. If that is too long for another call, it is the result.
    """
    if known is not None and known > _SECONDS:
        return round(known, 7)
    return round(min(eager_times(subject, call, _SECONDS, _MOST_CALLS)), 7)


def eager_times(subject: Subject, call: Call, seconds: float, most: int) -> list[float]:
    """The seconds of up to `most` calls in eager mode; see `_times`. The state of the model
    stays."""

    def copied() -> Call:
        copy = call.clone()
        synchronize(subject.device)
        return copy

    def call_once(arguments: Call) -> None:
        with torch.no_grad():
            subject.module(*arguments.args, **arguments.kwargs)
        synchronize(subject.device)

    with restored_state(subject.module):
        return _times(copied, call_once, seconds, most)


def artifact_seconds(
    package: LoadedPackage, inputs: list[Tensor], device: str, known: float
) -> float:
    """The seconds of the fastest of a few calls of the package; see `eager_seconds` for
    `known`."""
    if known > _SECONDS:
        return round(known, 7)
    on_device = [value.to(device) for value in inputs]

    def copies() -> list[Tensor]:
        copied = [value.clone() for value in on_device]
        synchronize(device)
        return copied

    def call_once(arguments: list[Tensor]) -> None:
        package.run_in_place(arguments)  # waits for the device

    return round(min(_times(copies, call_once, _SECONDS, _MOST_CALLS)), 7)


def _times(
    prepare: Callable[[], Any], call_once: Callable[[Any], None], seconds: float, most: int
) -> list[float]:
    """The seconds of each call, until they take `seconds` together or there are `most`, and at
    least one. `prepare` makes the arguments, which is not timed."""
    times: list[float] = []
    while not times or (len(times) < most and sum(times) < seconds):
        arguments = prepare()
        started = time.perf_counter()
        call_once(arguments)
        times.append(time.perf_counter() - started)
    return times
