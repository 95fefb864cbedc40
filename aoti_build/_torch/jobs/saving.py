"""Writes output tensors into a file: .safetensors, .npz or .pt."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from aoti_build.common.outputs import write_output
from aoti_build.errors import UsageError


def save(path: Path, outputs: Mapping[str, Tensor]) -> None:
    """Write the outputs by name, in the format of the file's suffix. A regular file is complete or
    absent. Raises `UsageError`."""
    on_cpu = {name: value.detach().cpu().contiguous().clone() for name, value in outputs.items()}
    content = WRITERS[path.suffix.lower()](on_cpu)
    write_output(path, content)


def _safetensors(outputs: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save as packed

    return packed(outputs)


def _npz(outputs: dict[str, Tensor]) -> bytes:
    import numpy

    arrays = {}
    for name, value in outputs.items():
        try:
            arrays[name] = value.numpy()
        except TypeError as error:
            raise UsageError(
                f"{name} is {value.dtype}, which numpy does not have",
                hint="write .safetensors or .pt instead",
            ) from error
    buffer = io.BytesIO()
    # The keywords are names of outputs. numpy's stub takes one of them for an option.
    numpy.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _torch(outputs: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(outputs, buffer)
    return buffer.getvalue()


# From a suffix to a function that gives the content of a file. A further format is registered here
# and in `aoti_build.commands.run.inputs`.
WRITERS: Mapping[str, Callable[[dict[str, Tensor]], bytes]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".pt": _torch,
}
