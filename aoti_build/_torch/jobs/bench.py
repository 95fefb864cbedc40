"""The `bench` job: one sample of a benchmark. It brings a model to run in one way, and times it.

What the process imports before its clocks start is little: a module of inductor that is there
already would make the ways that import it look faster.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aoti_build._torch.clocked import TORCH_SECONDS
from aoti_build._torch.events import Events

# isort: split
import torch
from torch.utils import _pytree as pytree

from aoti_build._torch.jobs.bench_ways import WAYS, Call, Way
from aoti_build._torch.jobs.memory import PeakMemory
from aoti_build._torch.jobs.nvml import gpu_clock
from aoti_build._torch.jobs.timing import (
    EventTimer,
    Timer,
    WaitForTurn,
    timed_calls,
    wall_time,
    warm_up,
)
from aoti_build._torch.program.permitted import set_precision
from aoti_build.messages import BenchJob, BenchResult
from aoti_build.runtime.raw import synchronize

# Positional and keyword arguments.
Arguments = tuple[Any, Any]


def bench(job: BenchJob, events: Events) -> BenchResult:
    """Take one sample. Gradients are off, and inputs are on the device before any clock starts."""
    started = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    device = job.target.device
    torch.set_num_threads(job.threads)
    torch.set_grad_enabled(False)
    set_precision(job.target)
    way = WAYS[job.way]
    with events.phase("import"):
        import_seconds = TORCH_SECONDS + way.imports(job)
    points = _read_calls(job, way)
    # This starts CUDA, which takes the same time in every way.
    memory = PeakMemory(device)
    first = _copied(points[0], job)
    with events.phase("load"):
        began = time.perf_counter()
        call = way.load(job)
        loaded = time.perf_counter()
    with events.phase("first"):
        call(*first[0], **first[1])
        synchronize(device)
        called = time.perf_counter()
    memory.settle()
    turn = events.wait_for_turn if job.turns else None
    before = gpu_clock(device)
    with events.phase("timing"):
        times = tuple(_times(job, call, point, turn) for point in points[: job.timed])
    after = gpu_clock(device)
    if way.check is not None:
        way.check(call)
    return BenchResult(
        started=started,
        import_seconds=import_seconds,
        load_seconds=loaded - began,
        first_seconds=called - began,
        peak_memory=memory.peak(),
        times=times,
        clocks=(before, after) if before is not None and after is not None else None,
    )


def _read_calls(job: BenchJob, way: Way) -> list[Arguments]:
    """The calls at each point, as the way takes them."""
    file = Path(job.calls)
    if file.exists():
        points = torch.load(file, weights_only=True)
    else:
        # Imported here, because the import costs what a way may have to count.
        from aoti_build._torch.jobs.calls import make_calls

        points = make_calls(job, job.points)
    return [way.arguments(args, kwargs, job.target.device) for args, kwargs in points]


def _copied(arguments: Arguments, job: BenchJob) -> Arguments:
    """The arguments, with tensors of their own if the model writes into its inputs."""
    if not job.writes_inputs:
        return arguments
    copied: Arguments = pytree.tree_map(_clone, arguments)
    return copied


def _clone(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf


def _times(
    job: BenchJob, call: Call, point: Arguments, turn: WaitForTurn | None
) -> tuple[float, ...]:
    """The seconds of the timed calls at one point."""
    device = job.target.device

    def prepare() -> Arguments:
        return _copied(point, job)

    def call_once(arguments: Arguments) -> None:
        args, kwargs = arguments
        call(*args, **kwargs)

    timer: Timer = wall_time
    if device == "cuda":
        timer = EventTimer()
    warm_up(prepare, call_once, timer)
    return tuple(timed_calls(prepare, call_once, job.seconds, job.least_calls, timer, turn))
