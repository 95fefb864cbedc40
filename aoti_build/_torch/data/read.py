"""Reads tensors from users' files and fits them to the inputs of an artifact.

Reading runs no code from a file: numpy reads without pickles, torch with weights_only. Values are
never converted. Another dtype than the artifact's is an error, because AOTInductor would
reinterpret the bytes. Sizes are checked by the package itself, which knows their ranges.
"""

from __future__ import annotations

import contextlib
import pickle
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from aoti_build.artifact.manifest import tensor_inputs
from aoti_build.common.reading import require_regular
from aoti_build.common.resources import available_memory
from aoti_build.errors import UsageError

Signature = Mapping[str, Any]
# One tensor, tensors by position, or tensors by name.
FileTensors: TypeAlias = Tensor | list[Tensor] | dict[str, Tensor]

# What numpy, safetensors, torch and Pillow raise for files that are truncated or of another kind.
UNREADABLE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    RuntimeError,
    MemoryError,
    ArithmeticError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
)


def read(path: Path, signature: Signature) -> list[Tensor]:
    """The tensors in a file, in the order in which the artifact takes them.

    Raises `UsageError` if they do not fit, or if the file is not a regular one or exceeds the
    available memory.
    """
    with readable(path.name):
        require_regular(path, available_memory())
    reader = READERS[path.suffix.lower()]
    return fit(reader(path), signature, path.name)


def describe_inputs(signature: Signature) -> str:
    """The inputs of an artifact, for a hint.

    For example ``the artifact takes tokens int64 [batch, 6]; batch is 1 to 16``.
    """
    inputs = []
    for entry in tensor_inputs(signature):
        inputs.append(f"{entry['name']} {_type_text(entry['dtype'], entry['shape'])}")
    parts = [f"the artifact takes {', '.join(inputs)}"]
    for name, dim in signature.get("dims", {}).items():
        text = f"{name} is {dim['min']} to {dim['max']}"
        if dim["multiple_of"] > 1:
            text += f" in steps of {dim['multiple_of']}"
        parts.append(text)
    return "; ".join(parts)


def fit(tensors: FileTensors, signature: Signature, source: str) -> list[Tensor]:
    """The tensors in the order of the artifact's inputs, by name or else by position.

    Raises `UsageError`, which names `source`, if their number, a name, dtype or rank differs.
    """
    entries = tensor_inputs(signature)
    names = [entry["name"] for entry in entries]
    values = _in_order(
        tensors,
        names,
        signature,
        source,
    )
    for entry, value in zip(entries, values, strict=True):
        dtype = _dtype_name(value)
        message = f"{source}: {entry['name']} is {_type_text(dtype, value.shape)}"
        if dtype != entry["dtype"]:
            raise UsageError(
                message,
                cause=describe_inputs(signature),
                hint=_conversion(source, entry["dtype"]),
            )
        if value.dim() != len(entry["shape"]):
            raise UsageError(message, hint=describe_inputs(signature))
    return values


def _in_order(
    tensors: FileTensors,
    names: list[str],
    signature: Signature,
    source: str,
) -> list[Tensor]:
    if isinstance(tensors, dict):
        if len(tensors) == len(names) == 1:
            return list(tensors.values())  # a single tensor may have any name
        if set(tensors) != set(names):
            raise UsageError(
                f"{source} holds the tensors {', '.join(tensors) or '(none)'}",
                hint=describe_inputs(signature),
            )
        return [tensors[name] for name in names]
    values = [tensors] if isinstance(tensors, Tensor) else tensors
    if len(values) != len(names):
        count = "one tensor" if len(values) == 1 else f"{len(values)} tensors"
        inputs = describe_inputs(signature)
        raise UsageError(
            f"{source} holds {count}, the artifact takes {len(names)}",
            hint=f"{inputs}; give them by name in a .npz or .safetensors file",
        )
    return values


def _conversion(source: str, dtype: str) -> str:
    """A sentence that says how to make a file with the right dtype."""
    if not source.endswith((".npy", ".npz")):
        return f"save it as tensor.to(torch.{dtype})"
    if dtype == "bfloat16":
        return (
            "numpy has no bfloat16: save it as a .safetensors or .pt file with"
            " tensor.to(torch.bfloat16)"
        )
    example = f'numpy.save("{source}", array.astype("{dtype}"))'
    if source.endswith(".npz"):
        example = f'numpy.savez("{source}", name=array.astype("{dtype}"))'
    return f"convert it, because numbers are never rounded silently: {example}"


@contextlib.contextmanager
def readable(
    name: str,
    hint: str | None = None,
    *further: type[Exception],
) -> Iterator[None]:
    """Turn the exceptions that a library raises for a bad file into a `UsageError`.

    `further` adds types to `UNREADABLE`.
    """
    errors: tuple[type[Exception], ...] = (*UNREADABLE, *further)
    try:
        yield
    except errors as error:
        lines = str(error).strip().splitlines()
        first_line = lines[0] if lines else ""
        cause = f"{type(error).__name__}: {first_line}"
        raise UsageError(f"{name} cannot be read", cause=cause, hint=hint) from error


def _read_numpy(path: Path) -> FileTensors:
    import numpy

    hint = "write plain arrays with numpy.save or numpy.savez; object arrays are not read"
    # Opened here, because numpy does not close a file that it cannot read.
    with readable(path.name, hint), path.open("rb") as file:
        loaded = numpy.load(file, allow_pickle=False)
        if isinstance(loaded, numpy.ndarray):
            return _plain(torch.from_numpy(loaded), path.name)
        tensors = {}
        with loaded:
            for name in loaded.files:
                array = loaded[name]
                tensors[name] = _plain(torch.from_numpy(array), path.name)
        return tensors


def _read_safetensors(path: Path) -> FileTensors:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    # The format has only contiguous tensors, so `_plain` is not needed.
    with readable(path.name, None, SafetensorError):
        return load_file(path)


def _read_torch(path: Path) -> FileTensors:
    hint = (
        "it must hold a tensor, a list of tensors or a dict of tensors: it is read with"
        " weights_only=True"
    )
    with readable(path.name, hint):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(loaded, Tensor):
        return _plain(loaded, path.name)
    values = _values(loaded)
    if values is None or not all(isinstance(value, Tensor) for value in values):
        raise UsageError(f"{path.name} holds {_contents(loaded)}", hint=hint)
    tensors = [_plain(value, path.name) for value in values]
    if isinstance(loaded, Mapping):
        names = [str(name) for name in loaded]  # torch saves keys of any type
        return dict(zip(names, tensors, strict=True))
    return tensors


# Readers by suffix. A new format registers here and in `aoti_build.commands.run.inputs`.
READERS: Mapping[str, Callable[[Path], FileTensors]] = {
    ".npy": _read_numpy,
    ".npz": _read_numpy,
    ".safetensors": _read_safetensors,
    ".pt": _read_torch,
}


def _plain(value: Tensor, name: str) -> Tensor:
    """The tensor with its values in order in memory.

    Compiled code reads memory with the strides that it was compiled for, and ignores views. Raises
    `UsageError` for a sparse tensor.
    """
    if value.layout != torch.strided:
        raise UsageError(
            f"{name} holds a tensor of layout {value.layout}", hint="save it as tensor.to_dense()"
        )
    return value.detach().resolve_conj().resolve_neg().contiguous()


def _values(loaded: object) -> Sequence[Any] | None:
    """The values of a dict, list or tuple; None for anything else."""
    if isinstance(loaded, Mapping):
        return list(loaded.values())
    if isinstance(loaded, list | tuple):
        return loaded
    return None


def _contents(loaded: object) -> str:
    """What a file holds instead of tensors, for a message."""
    kind = type(loaded).__name__
    values = _values(loaded)
    if values is None:
        return f"{kind} and no tensor"
    kinds = {type(value).__name__ for value in values}
    return f"a {kind} with {', '.join(sorted(kinds))}"


def _type_text(dtype: str, shape: Sequence[Any]) -> str:
    return f"{dtype} [{', '.join(map(str, shape))}]"


def _dtype_name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
