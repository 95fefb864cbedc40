"""The `measure` job: load an artifact as a service does, and time its calls on the reference
input."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

import aoti_build
from aoti_build._torch.checking.reference_reader import load_reference_data
from aoti_build._torch.events import Events
from aoti_build._torch.jobs.drawn import Draw
from aoti_build._torch.jobs.memory import PeakMemory
from aoti_build._torch.jobs.timing import sample
from aoti_build._torch.program.permitted import set_precision
from aoti_build.artifact.manifest import REFERENCE_DATA
from aoti_build.errors import BuildError
from aoti_build.messages import MeasureJob, MeasureResult
from aoti_build.runtime.flat_call import call_of
from aoti_build.runtime.model import LoadedModel
from aoti_build.runtime.raw import synchronize


def measure(job: MeasureJob, events: Events) -> MeasureResult:
    """Time calls of the target's artifact. Inputs are on the device before."""
    target = job.target
    set_precision(target)
    memory = PeakMemory(target.device)
    started = time.perf_counter()
    with events.phase("load"):
        model = _load(job)
    load_seconds = time.perf_counter() - started
    signature = model.metadata["signature"]
    inputs = [value.to(target.device) for value in _inputs(job, signature)]
    if job.contiguous_inputs:
        inputs = [value.contiguous() for value in inputs]
    is_written = bool(signature["mutates"]["inputs"])
    fixed_call = call_of(model, inputs)

    def prepare() -> Any:
        if not is_written:
            return fixed_call
        # The model writes into its inputs, so each call gets new ones.
        return call_of(model, [value.clone() for value in inputs])

    def call(arguments: Any) -> None:
        args, kwargs = arguments
        model(*args, **kwargs)
        synchronize(target.device)

    call(prepare())
    memory.settle()
    with events.phase("timing"):
        result = sample(
            prepare,
            call,
            seconds=job.seconds,
            least_calls=job.least_calls,
            load_seconds=load_seconds,
            memory=memory,
            wait_for_turn=events.wait_for_turn if job.turns else None,
        )
    # The first call records the graph, and falls back to a plain call where that is not possible.
    if job.cuda_graphs:
        _require_graphs(model)
    return result


def _load(job: MeasureJob) -> LoadedModel:
    return aoti_build.load(job.target.name, artifacts=job.artifacts, cuda_graphs=job.cuda_graphs)


def _require_graphs(model: LoadedModel) -> None:
    """Raise `BuildError` if the calls were not replayed from CUDA graphs."""
    why_not = model.metadata["load"]["cuda_graphs"]["why_not"]
    if why_not is not None:
        raise BuildError(
            f"it cannot run in CUDA graphs: {why_not}", hint="measure without --cuda-graphs"
        )


def _inputs(job: MeasureJob, signature: Mapping[str, Any]) -> list[Tensor]:
    """The inputs of the reference data, drawn again if they did not fit into its file."""
    file = Path(job.artifacts) / job.target.name / REFERENCE_DATA
    first_case = next(load_reference_data(file).sequences())[0]
    if first_case.inputs is not None:
        return first_case.inputs
    draw = Draw(job.target.model, Path(job.root), job.where["inputs"])
    return draw(first_case.sizes, first_case.seed, signature, "the reference input")
