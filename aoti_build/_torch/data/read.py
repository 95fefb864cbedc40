"""Inputs of people's own: tensors from the files they have, fitted to what an artifact takes.

Nothing that is read can run code: numpy without pickles, torch with weights_only. Values are never
converted. A dtype that is not the artifact's is a mistake to be named, since AOTInductor would read
the bytes as if it were; sizes are left to the package's own checks, which know the ranges.
"""

from __future__ import annotations

import contextlib
import pickle
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aoti_build.artifact.manifest import tensor_inputs
from aoti_build.common.reading import require_regular
from aoti_build.common.resources import available_memory
from aoti_build.errors import UsageError

Signature = Mapping[str, Any]
# One tensor, tensors by position, or tensors by name.
Found = Tensor | list[Tensor] | dict[str, Tensor]

# What numpy, safetensors, torch's loader and Pillow raise for files that are cut short or something
# else.
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
    """The tensors in the file, in the order in which the artifact takes them. Raises `UsageError`
    if they do not fit, or if it is no regular file that memory has room for."""
    with readable(path.name):
        require_regular(path, available_memory())
    return fit(READERS[path.suffix.lower()](path), signature, path.name)


def wants(signature: Signature) -> str:
    """What the artifact takes, for a hint: ``tokens int64 [batch, 6], mask bool [batch, 6]; batch
    is 1 to 16``."""
    inputs = [
        f"{entry['name']} {_spelt(entry['dtype'], entry['shape'])}"
        for entry in tensor_inputs(signature)
    ]
    ranges = [
        f"{name} is {dim['min']} to {dim['max']}"
        + (f" in steps of {dim['multiple_of']}" if dim["multiple_of"] > 1 else "")
        for name, dim in signature.get("dims", {}).items()
    ]
    return "; ".join([f"the artifact takes {', '.join(inputs)}", *ranges])


def fit(found: Found, signature: Signature, name: str) -> list[Tensor]:
    """`found`, which came from `name`, as the artifact's inputs: by name, else by position; dtype
    and rank agree."""
    wanted = tensor_inputs(signature)
    values = _in_order(found, [entry["name"] for entry in wanted], signature, name)
    for entry, value in zip(wanted, values, strict=True):
        dtype = _dtype(value)
        if dtype != entry["dtype"]:
            raise UsageError(
                f"{name}: {entry['name']} is {_spelt(dtype, value.shape)}",
                cause=wants(signature),
                hint=_conversion(name, entry["dtype"]),
            )
        if value.dim() != len(entry["shape"]):
            raise UsageError(
                f"{name}: {entry['name']} is {_spelt(dtype, value.shape)}", hint=wants(signature)
            )
    return values


def _in_order(found: Found, names: list[str], signature: Signature, name: str) -> list[Tensor]:
    if isinstance(found, dict):
        if len(found) == len(names) == 1:
            return list(found.values())
        if set(found) != set(names):
            raise UsageError(
                f"{name} holds the tensors {', '.join(found) or '(none)'}", hint=wants(signature)
            )
        return [found[input_name] for input_name in names]
    values = [found] if isinstance(found, Tensor) else found
    if len(values) != len(names):
        count = "one tensor" if len(values) == 1 else f"{len(values)} tensors"
        hint = wants(signature) + "; give them by name in a .npz or .safetensors file"
        raise UsageError(f"{name} holds {count}, the artifact takes {len(names)}", hint=hint)
    return values


def _conversion(name: str, dtype: str) -> str:
    """The sentence that says how to make a file of the right dtype."""
    if not name.endswith((".npy", ".npz")):
        return f"save it as tensor.to(torch.{dtype})"
    if dtype == "bfloat16":
        return (
            "numpy has no bfloat16: save it as a .safetensors or .pt file with"
            " tensor.to(torch.bfloat16)"
        )
    example = f'numpy.save("{name}", array.astype("{dtype}"))'
    if name.endswith(".npz"):
        example = f'numpy.savez("{name}", name=array.astype("{dtype}"))'
    return f"convert it, because numbers are not rounded unasked: {example}"


@contextlib.contextmanager
def readable(name: str, hint: str | None = None, *further: type[Exception]) -> Iterator[None]:
    """Turn what a library raises for a bad file into a `UsageError`."""
    errors: tuple[type[Exception], ...] = (*UNREADABLE, *further)
    try:
        yield
    except errors as error:
        said = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(
            f"{name} cannot be read", cause=f"{type(error).__name__}: {said}", hint=hint
        ) from error


def _read_numpy(path: Path) -> Found:
    import numpy

    hint = "write plain arrays with numpy.save or numpy.savez; object arrays are not read"
    # Opened here: numpy leaves a file that it cannot read open.
    with readable(path.name, hint), path.open("rb") as file:
        loaded = numpy.load(file, allow_pickle=False)
        if isinstance(loaded, numpy.ndarray):
            return _plain(torch.from_numpy(loaded), path.name)
        with loaded:
            return {
                name: _plain(torch.from_numpy(loaded[name]), path.name) for name in loaded.files
            }


def _read_safetensors(path: Path) -> Found:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with readable(path.name, None, SafetensorError):
        return load_file(path)


def _read_torch(path: Path) -> Found:
    hint = (
        "it must hold a tensor, a list of tensors or a dict of tensors: it is read with"
        " weights_only=True"
    )
    with readable(path.name, hint):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(loaded, Tensor):
        return _plain(loaded, path.name)
    values = list(loaded.values()) if isinstance(loaded, Mapping) else loaded
    if not isinstance(values, list | tuple) or not all(
        isinstance(value, Tensor) for value in values
    ):
        raise UsageError(f"{path.name} holds {_contents(loaded)}", hint=hint)
    plain = [_plain(value, path.name) for value in values]
    return dict(zip(map(str, loaded), plain, strict=True)) if isinstance(loaded, Mapping) else plain


# suffix -> reader of a file; a further format registers here and in `commands.run_inputs`.
READERS: Mapping[str, Callable[[Path], Found]] = {
    ".npy": _read_numpy,
    ".npz": _read_numpy,
    ".safetensors": _read_safetensors,
    ".pt": _read_torch,
}


def _plain(value: Tensor, name: str) -> Tensor:
    """Values in order in memory: compiled code looks at the bytes and not at views, and was
    compiled for such strides."""
    if value.layout != torch.strided:
        raise UsageError(
            f"{name} holds a tensor of layout {value.layout}", hint="save it as tensor.to_dense()"
        )
    return value.detach().resolve_conj().resolve_neg().contiguous()


def _contents(loaded: Any) -> str:
    values = list(loaded.values()) if isinstance(loaded, Mapping) else loaded
    if not isinstance(values, list | tuple):
        return f"{type(loaded).__name__} and no tensor"
    return (
        f"a {type(loaded).__name__} with"
        f" {', '.join(sorted({type(value).__name__ for value in values}))}"
    )


def _spelt(dtype: str, shape: Any) -> str:
    return f"{dtype} [{', '.join(map(str, shape))}]"


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
