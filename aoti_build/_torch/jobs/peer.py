"""The `peer` job: time the target's model in another library, for comparison.

The libraries are no dependencies of aoti_build. What is not installed ends the job with an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import asdict
from torch import Tensor

from aoti_build._torch.events import Events
from aoti_build._torch.jobs.converted import LoadModel, load_onnx, load_openvino
from aoti_build._torch.jobs.memory import PeakMemory
from aoti_build._torch.jobs.prepared import Prepared, prepare
from aoti_build._torch.jobs.timing import sample
from aoti_build._torch.program.inputs import Call
from aoti_build.errors import BuildError
from aoti_build.messages import PeerJob, PeerResult


def peer(job: PeerJob, events: Events) -> PeerResult:
    """Convert the model if that was not done yet, and time its calls on the example input."""
    target = job.target
    convert, load = PEERS[job.library]
    prepared = prepare(target.model, target.device, Path(job.root), job.where)
    file = Path(job.converted)
    try:
        if not file.exists():
            with events.phase("convert"), torch.no_grad():
                convert(prepared, file)
        started = time.perf_counter()
        with events.phase("load"):
            call = load(file)
        load_seconds = time.perf_counter() - started
        arrays = [_array(value) for value in prepared.example.tensors()]
        with events.phase("timing"):
            result = sample(
                lambda: arrays,
                call,
                seconds=job.seconds,
                least_calls=job.least_calls,
                load_seconds=load_seconds,
                memory=PeakMemory(target.device),
                wait_for_turn=events.wait_for_turn if job.turns else None,
            )
            return PeerResult(**asdict(result))
    # Each library has errors of its own, and none of them may end the comparison.
    except Exception as error:
        raise BuildError(f"{job.library} cannot run this model", cause=str(error)[:2000]) from error


def _array(value: Tensor) -> Any:
    return value.detach().cpu().contiguous().numpy()


def _to_onnx(prepared: Prepared, file: Path) -> None:
    call: Call = prepared.example
    torch.onnx.export(
        prepared.module, tuple(call.args), str(file), kwargs=dict(call.kwargs), dynamo=True
    )


def _to_openvino(prepared: Prepared, file: Path) -> None:
    library = import_module("openvino")
    call: Call = prepared.example
    program = torch.export.export(prepared.module, tuple(call.args), dict(call.kwargs))
    library.save_model(library.convert_model(program), str(file), compress_to_fp16=False)


PEERS: Mapping[str, tuple[Callable[[Prepared, Path], None], LoadModel]] = {
    "onnxruntime": (_to_onnx, load_onnx),
    "openvino": (_to_openvino, load_openvino),
}
