"""Models that were converted to the format of another library: loads and calls them.

This module imports no part of torch, so that a sample measures the library alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

# Loads a converted model. Returns a function of the flat inputs, as numpy arrays.
LoadModel = Callable[[Path], Callable[[list[Any]], object]]


def load_onnx(file: Path) -> Callable[[list[Any]], object]:
    runtime = import_module("onnxruntime")
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def call(arrays: list[Any]) -> object:
        return session.run(None, dict(zip(names, arrays, strict=True)))

    return call


def load_openvino(file: Path) -> Callable[[list[Any]], object]:
    library = import_module("openvino")
    # By default it may compute in bfloat16 where the processor can.
    compiled = library.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def call(arrays: list[Any]) -> object:
        return compiled(arrays)

    return call


LOADERS: Mapping[str, LoadModel] = {"onnxruntime": load_onnx, "openvino": load_openvino}
