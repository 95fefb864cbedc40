"""The `calls` job: make example calls, and write them to a file for the samples of a benchmark.

A sample then makes no inputs. To make them, a process imports the model's code, and parts of torch
that would make a later import look faster.
"""

from __future__ import annotations

from pathlib import Path

import torch

from aoti_build._torch.checking.eager import SEED
from aoti_build._torch.events import Events
from aoti_build._torch.program.inputs import Make, from_callable, from_shapes
from aoti_build._torch.program.model import import_declared, load_callable
from aoti_build.errors import UsageError
from aoti_build.messages import CallsJob, CallsResult
from aoti_build.models_file.project import Source


def calls(job: CallsJob, events: Events) -> CallsResult:
    """Write the positional and keyword arguments at each point, on the CPU, as the checks draw
    them."""
    make = _maker(job)
    made = []
    with events.phase("inputs"):
        for sizes in job.points:
            call = make(sizes, SEED)
            made.append((call.args, call.kwargs))
    try:
        torch.save(made, job.file)
    # What pickle raises depends on the types of the user's structures.
    except Exception as error:
        raise UsageError(
            "the inputs cannot be passed to another process",
            where=job.where["inputs"],
            cause=f"{type(error).__name__}: {error}",
            hint="define the types of nested inputs in a module that can be imported by its name",
        ) from error
    return CallsResult()


def _maker(job: CallsJob) -> Make:
    model = job.target.model
    import_declared(model.imports, job.where["imports"])
    if isinstance(model.inputs, Source):
        function = load_callable(model.inputs, Path(job.root), job.where["inputs"])
        return from_callable(function, job.where["inputs"], model.memory_format)
    return from_shapes(model.inputs)
