"""Times calls for a sample: warm-up, then calls for a fixed time."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from aoti_build.messages import MeasureResult

# Caches, thread pools, clock rates and the allocator of CUDA settle in these calls.
_WARM_UP_SECONDS = 0.5
_LEAST_WARM_UP_CALLS = 3

# Makes the arguments of the next call. It is not timed.
Prepare = Callable[[], Any]
# Makes the call, and waits until its outputs are there.
CallOnce = Callable[[Any], object]


def sample(
    prepare: Prepare,
    call: CallOnce,
    *,
    seconds: float,
    least_calls: int,
    load_seconds: float,
    peak_memory: Callable[[], int],
) -> MeasureResult:
    """Warm up, then time calls that last `seconds` together, and at least `least_calls` calls."""
    timed_calls(prepare, call, _WARM_UP_SECONDS, _LEAST_WARM_UP_CALLS)
    times = sorted(timed_calls(prepare, call, seconds, least_calls))
    return MeasureResult(
        median=nearest_rank(times, 0.5),
        p95=nearest_rank(times, 0.95),
        calls=len(times),
        peak_memory=peak_memory(),
        load_seconds=round(load_seconds, 3),
    )


def nearest_rank(ordered: Sequence[float], part: float) -> float:
    """The smallest of the ordered values that this part of all do not exceed. It was measured."""
    return ordered[math.ceil(part * len(ordered)) - 1]


def timed_calls(prepare: Prepare, call: CallOnce, seconds: float, least: int) -> list[float]:
    """The seconds of each call."""
    times: list[float] = []
    total = 0.0
    while total < seconds or len(times) < least:
        arguments = prepare()
        started = time.perf_counter()
        call(arguments)
        elapsed = time.perf_counter() - started
        times.append(elapsed)
        total += elapsed
    return times


def peak_memory(device: str) -> int:
    """The most bytes that this process had in memory, or that torch allocated on the GPU."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in units of 1024 bytes, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024
