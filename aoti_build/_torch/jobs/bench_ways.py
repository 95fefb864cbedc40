"""The ways in which a benchmark brings a model to run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from aoti_build._torch.clocked import seconds_to_import
from aoti_build._torch.jobs.converted import LOADERS
from aoti_build._torch.program.memory_formats import convert_weights
from aoti_build._torch.program.model import assemble, import_declared, load_callable
from aoti_build.artifact.manifest import MODEL
from aoti_build.errors import BuildError
from aoti_build.messages import BenchJob

# Takes what the model takes. What it returns is not looked at.
Call = Callable[..., Any]
MakeArguments = Callable[[Any, Any, str], tuple[Any, Any]]


def _on_device(args: Any, kwargs: Any, device: str) -> tuple[Any, Any]:
    moved: tuple[Any, Any] = pytree.tree_map(partial(_moved, device), (args, kwargs))
    return moved


def _moved(device: str, leaf: Any) -> Any:
    return leaf.to(device) if isinstance(leaf, Tensor) else leaf


def _as_arrays(args: Any, kwargs: Any, device: str) -> tuple[Any, Any]:  # noqa: ARG001 - the CPU
    """One positional argument: the tensors as numpy arrays, in flattened order."""
    leaves = pytree.tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return ([value.detach().contiguous().numpy() for value in tensors],), {}


@dataclass(frozen=True)
class Way:
    """One way to run a model.

    Attributes:
        imports: imports its libraries, and returns the seconds that it took, without torch.
        load: makes the model ready to be called.
        arguments: from the arguments of the model to those of the call, with the device's name.
        check: raises `BuildError` if the calls were not made as intended. It gets what `load`
            returned.
    """

    imports: Callable[[BenchJob], float]
    load: Callable[[BenchJob], Call]
    arguments: MakeArguments = _on_device
    check: Callable[[Any], None] | None = None


def _import_runtime(job: BenchJob) -> float:  # noqa: ARG001
    return seconds_to_import("aoti_build.runtime")


def _load_artifact(job: BenchJob, *, cuda_graphs: bool = False) -> Call:
    return import_module("aoti_build.runtime").load(  # type: ignore[no-any-return]
        job.target.name, artifacts=job.artifacts, cuda_graphs=cuda_graphs
    )


def _require_graphs(model: Any) -> None:
    why_not = model.metadata["load"]["cuda_graphs"]["why_not"]
    if why_not is not None:
        raise BuildError(f"it cannot run in CUDA graphs: {why_not}")


def _import_inductor(job: BenchJob) -> float:
    started = time.perf_counter()
    # A service without aoti_build imports these by itself.
    import_declared(job.target.model.imports, job.where["imports"])
    import_module("torch._inductor")
    return time.perf_counter() - started


def _load_package(job: BenchJob) -> Call:
    package = Path(job.artifacts) / job.target.name / MODEL
    return import_module("torch._inductor").aoti_load_package(  # type: ignore[no-any-return]
        str(package)
    )


def _import_source(job: BenchJob) -> float:
    """Import the code of the model, as the program would that runs it."""
    model = job.target.model
    started = time.perf_counter()
    import_declared(model.imports, job.where["imports"])
    load_callable(model.source, Path(job.root), job.where["source"])
    return time.perf_counter() - started


def _load_eager(job: BenchJob) -> nn.Module:
    model = job.target.model
    module = assemble(model, model.source, model.kwargs, model.dtype, Path(job.root), job.where)
    if model.memory_format is not None:
        convert_weights(module, model.memory_format)
    return module.to(job.target.device)


def _load_compiled(job: BenchJob, *, mode: str | None = None) -> Call:
    return torch.compile(_load_eager(job), mode=mode)


def _import_library(job: BenchJob, *, name: str) -> float:  # noqa: ARG001
    return seconds_to_import(name)


def _load_converted(job: BenchJob, *, name: str) -> Call:
    return LOADERS[name](Path(job.converted))


def _converted(name: str) -> Way:
    return Way(
        partial(_import_library, name=name),
        partial(_load_converted, name=name),
        arguments=_as_arrays,
    )


# By the values of `aoti_build.measurement.record.Way`.
WAYS: Mapping[str, Way] = {
    "artifact": Way(_import_runtime, _load_artifact),
    "artifact, CUDA graphs": Way(
        _import_runtime, partial(_load_artifact, cuda_graphs=True), check=_require_graphs
    ),
    "aoti_load_package": Way(_import_inductor, _load_package),
    "eager": Way(_import_source, _load_eager),
    "torch.compile": Way(_import_source, _load_compiled),
    "torch.compile, reduce-overhead": Way(
        _import_source, partial(_load_compiled, mode="reduce-overhead")
    ),
    "onnxruntime": _converted("onnxruntime"),
    "openvino": _converted("openvino"),
}
