"""Times calls for a sample: warm-up, then calls for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from aoti_build._torch.jobs.memory import PeakMemory
from aoti_build.common.percentiles import nearest_rank
from aoti_build.messages import MeasureResult

# Caches, thread pools, clock rates and the allocator of CUDA settle in these calls.
_WARM_UP_SECONDS = 0.5
_LEAST_WARM_UP_CALLS = 3

# Makes the arguments of the next call. It is not timed.
Prepare = Callable[[], Any]
# Makes the call, and waits until its outputs are there.
CallOnce = Callable[[Any], object]
# Makes a call, and returns its seconds.
Timer = Callable[[Callable[[], object]], float]
# Waits until no other worker times calls.
WaitForTurn = Callable[[], None]
# A turn is short beside a disturbance. Its first call is not timed, since the caches of the
# processor hold what the other model has left there.
_TURN_SECONDS = 0.02
_LEAST_TURN_CALLS = 4
# More calls of a tiny model would tell nothing more, and fill the result of a job.
_MOST_CALLS = 20_000


def wall_time(call: Callable[[], object]) -> float:
    """The seconds of a call by the clock of the system."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


class EventTimer:
    """Times calls on the current CUDA device by events in its stream.

    The queue is empty before each call, so the time includes that of the launches. A call need not
    wait for its outputs.
    """

    def __init__(self) -> None:
        self._start = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)

    def __call__(self, call: Callable[[], object]) -> float:
        torch.cuda.synchronize()
        self._start.record()
        call()
        self._end.record()
        self._end.synchronize()
        milliseconds: float = self._start.elapsed_time(self._end)
        return milliseconds / 1000


def sample(
    prepare: Prepare,
    call: CallOnce,
    *,
    seconds: float,
    least_calls: int,
    load_seconds: float,
    memory: PeakMemory,
    wait_for_turn: WaitForTurn | None = None,
) -> MeasureResult:
    """Warm up, then time calls that last `seconds` together, and at least `least_calls` calls."""
    warm_up(prepare, call, wall_time)
    times = sorted(timed_calls(prepare, call, seconds, least_calls, wait_for_turn=wait_for_turn))
    return MeasureResult(
        median=nearest_rank(times, 0.5),
        p95=nearest_rank(times, 0.95),
        calls=len(times),
        peak_memory=memory.peak(),
        load_seconds=round(load_seconds, 3),
    )


def warm_up(prepare: Prepare, call: CallOnce, timer: Timer) -> None:
    """Make the calls that are not timed."""
    _calls(prepare, call, _WARM_UP_SECONDS, _LEAST_WARM_UP_CALLS, timer)


def timed_calls(
    prepare: Prepare,
    call: CallOnce,
    seconds: float,
    least: int,
    timer: Timer = wall_time,
    wait_for_turn: WaitForTurn | None = None,
) -> list[float]:
    """The seconds of each call. With `wait_for_turn` the calls are made in several turns."""
    if wait_for_turn is None:
        return _calls(prepare, call, seconds, least, timer)
    times: list[float] = []
    total = 0.0
    while not _is_enough(times, total, seconds, least):
        wait_for_turn()
        call(prepare())
        turn = _calls(prepare, call, _TURN_SECONDS, _LEAST_TURN_CALLS, timer)
        times += turn
        total += sum(turn)
    return times


def _calls(
    prepare: Prepare, call: CallOnce, seconds: float, least: int, timer: Timer
) -> list[float]:
    """The seconds of calls that follow each other."""
    times: list[float] = []
    total = 0.0
    while not _is_enough(times, total, seconds, least):
        arguments = prepare()
        elapsed = timer(partial(call, arguments))
        times.append(elapsed)
        total += elapsed
    return times


def _is_enough(times: Sequence[float], total: float, seconds: float, least: int) -> bool:
    """Whether no further call is timed after `times`, which are `total` together."""
    if len(times) < least:
        return False
    return total >= seconds or len(times) >= _MOST_CALLS
