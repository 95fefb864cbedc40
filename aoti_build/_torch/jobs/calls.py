"""The `calls` job: make example calls, and write them to a file for the samples of a benchmark.

A sample then makes no inputs. To make them, a process imports the model's code, and parts of torch
that would make a later import look faster.

The file holds tensors, constants, and tuples, lists and dicts of them: what torch reads with
``weights_only=True``. If a call has other types, there is no file, and each sample makes the calls
itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

from aoti_build._torch.checking.eager import SEED
from aoti_build._torch.events import Events
from aoti_build._torch.program.inputs import Make, Sizes, from_callable, from_shapes
from aoti_build._torch.program.model import import_declared, load_callable
from aoti_build.messages import BenchJob, CallsJob, CallsResult
from aoti_build.models_file.project import Source

# Positional and keyword arguments.
Arguments: TypeAlias = tuple[Any, Any]


def calls(job: CallsJob, events: Events) -> CallsResult:
    """Write the positional and keyword arguments at each point to `job.file`, if that can be."""
    file = Path(job.file)
    with events.phase("inputs"):
        made = make_calls(job, job.points)
        try:
            torch.save(made, file)
            read_calls(file)
        # What pickle raises depends on the types of the user's structures.
        except Exception:
            file.unlink(missing_ok=True)
    return CallsResult()


def make_calls(job: CallsJob | BenchJob, points: Sequence[Sizes]) -> list[Arguments]:
    """The positional and keyword arguments at each point, on the CPU, as the checks draw them."""
    make = _maker(job)
    made = []
    for sizes in points:
        call = make(sizes, SEED)
        made.append((call.args, call.kwargs))
    return made


def read_calls(file: Path) -> list[Arguments]:
    """The calls that a `calls` job wrote."""
    read: list[Arguments] = torch.load(file, weights_only=True)
    return read


def _maker(job: CallsJob | BenchJob) -> Make:
    model = job.target.model
    import_declared(model.imports, job.where["imports"])
    if isinstance(model.inputs, Source):
        function = load_callable(model.inputs, Path(job.root), job.where["inputs"])
        return from_callable(function, job.where["inputs"], model.memory_format)
    return from_shapes(model.inputs)
