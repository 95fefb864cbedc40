"""Weights that are used where they lie in the unpacked blob, without a copy in each process.

torch's loader maps a blob, copies it into memory of its own, and unmaps it. So each process that
loads a package has all weights once more. Here the blob is not in the directory that the loader
reads. The loader then starts without weights, and receives tensors whose memory is a private
mapping of the blob. Processes share its pages, and the system can drop and read them again.

Weights that a model writes into are copied. The mapping is also copy-on-write, so nothing can
change the file.

torch never frees the tensors that it is given in this way (`MaybeOwningAtenTensorHandle` in its
aoti_runtime/utils.h, seen in 2.14). A mapping is therefore never unmapped. Loads of one blob in a
process share it, and its pages are given back when the last of them is closed.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aoti_build.common.reading import open_regular
from aoti_build.runtime.constants import Constant, read_constants
from aoti_build.runtime.leaves import Signature, written_weights
from aoti_build.runtime.package import Admitted

_mappings: dict[tuple[int, int], _Mapping] = {}
_mappings_lock = threading.Lock()


def map_weights(admitted: Admitted, signature: Signature, loader: Any) -> MappedWeights | None:
    """Give a loader the weights that are not in the package it loaded; None if they are.

    They are closed with the package. Raises RuntimeError if they cannot be mapped.
    """
    if admitted.weights is None:
        return None
    mapped = MappedWeights(
        admitted.weights,
        Path(admitted.path),
        written_weights(signature),
    )
    admitted.on_close(mapped.close)
    mapped.give_to(loader)
    return mapped


class MappedWeights:
    """The mapped weights of one loaded model, of which `private` ones are copied for it.

    Call `close` when the model is no longer used.
    """

    def __init__(self, blob: Path, root: Path, private: Collection[str]) -> None:
        """Map `blob`, which belongs to the unpacked package at `root`.

        `private` are names of weights in the model. Raises RuntimeError if that is impossible.
        """
        try:
            self._mapping = _open(blob, root)
        except (OSError, ValueError, AttributeError) as error:
            raise RuntimeError(f"the weights cannot be mapped: {error}") from error
        self._private = []
        self._shared = {}
        for constant in self._mapping.constants:
            if constant.name in private:
                self._private.append(constant)
            else:
                self._shared[constant.compiled] = self._mapping.tensors[constant.compiled]

    def give_to(self, loader: Any) -> None:
        """Let a loader without weights use these, and copies of the private ones."""
        loader.update_constant_buffer(
            self._shared,
            False,  # use_inactive
            False,  # validate_full_updates
            True,  # user_managed: the tensors themselves are used
        )
        self.reset(loader, {})

    def reset(self, loader: Any, replaced: Mapping[str, Tensor]) -> None:
        """Let a loader have new copies of the private weights, from `replaced` or from the blob."""
        values = {}
        for constant in self._private:
            value = replaced.get(constant.name)
            if value is None:
                value = _copy(self._mapping.tensors[constant.compiled])
            values[constant.compiled] = value
        if values:
            loader.update_constant_buffer(values, False, False, False)

    def close(self) -> None:
        """Give back the memory unless another model in this process uses it. Call it once."""
        with _mappings_lock:
            self._mapping.users -= 1
            if not self._mapping.users:
                # A tensor that still uses the mapping reads the file again.
                self._mapping.memory.madvise(mmap.MADV_DONTNEED)


class _Mapping:
    """A blob in the memory of this process, and its `tensors` by their names in the code."""

    def __init__(self, descriptor: int, root: Path) -> None:
        self.users = 0
        self.memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
        source = _generated_source(root)
        self.constants = read_constants(source, len(self.memory))
        self.tensors: dict[str, Tensor] = {}
        for constant in self.constants:
            self.tensors[constant.compiled] = _tensor(self.memory, constant)


def _open(blob: Path, root: Path) -> _Mapping:
    """The process's mapping of a blob, with one more user. Raises OSError and ValueError."""
    descriptor = open_regular(blob)
    try:
        status = os.fstat(descriptor)
        # The mapping keeps the file, so no other file can get the number of its inode.
        identity = (status.st_dev, status.st_ino)
        with _mappings_lock:
            if identity not in _mappings:
                _mappings[identity] = _Mapping(descriptor, root)
            mapping = _mappings[identity]
            mapping.users += 1
            return mapping
    finally:
        os.close(descriptor)


def _generated_source(root: Path) -> str:
    """The C++ source with the table of constants. Raises OSError, and ValueError without one."""
    sources = list(root.glob("data/aotinductor/*/*.wrapper.cpp"))
    if len(sources) != 1:
        raise ValueError(f"the package has {len(sources)} generated sources")
    return sources[0].read_text()


def _tensor(memory: mmap.mmap, constant: Constant) -> Tensor:
    """The constant as a tensor in a mapping. Raises AttributeError for an unknown dtype."""
    dtype = getattr(torch, constant.dtype)
    if not constant.size:
        return torch.empty_strided(constant.shape, constant.stride, dtype=dtype)
    content = torch.frombuffer(
        memory,
        dtype=torch.uint8,
        count=constant.size,
        offset=constant.start,
    )
    flat = content.view(dtype)
    return flat.as_strided(constant.shape, constant.stride, constant.offset)


def _copy(value: Tensor) -> Tensor:
    """A copy with the same strides. torch copies its whole memory, so it holds nothing else."""
    copy = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    return copy.copy_(value)
