"""Files of tensors for the C++ runner; the comment in ``work/runner.cpp`` documents the format."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

_MAGIC = "aoti_build-tensors"
_VERSION = "1"
_LONGEST_HEAD = 1 << 20  # bytes


class _Entry(NamedTuple):
    """A tensor in the head of a file; `storage` counts bytes."""

    dtype: torch.dtype
    sizes: list[int]
    storage: int


def write_tensors(path: Path, tensors: Sequence[Tensor]) -> None:
    """Write tensors with their whole storage, strides and offset, so that their layout stays."""
    words = [_MAGIC, _VERSION, str(len(tensors))]
    storages = [_storage_bytes(value) for value in tensors]
    for value, storage in zip(tensors, storages, strict=True):
        words += _entry_words(value, storage)
    with path.open("wb") as file:
        head = " ".join(words)
        file.write(f"{head}\n".encode())
        for storage in storages:
            file.write(storage.numpy().data)


def _entry_words(value: Tensor, storage: Tensor) -> list[str]:
    dtype = str(value.dtype).removeprefix("torch.")
    numbers = [
        value.dim(),
        *value.shape,
        *value.stride(),
        value.storage_offset(),
        storage.numel(),
    ]
    return [dtype, *map(str, numbers)]


def read_tensors(path: Path) -> list[Tensor | None]:
    """The contiguous tensors in a file, None for an absent one.

    Raises OSError if it cannot be read, and ValueError if it is damaged.
    """
    with path.open("rb") as file:
        try:
            entries = _read_head(file)
            return [_read_tensor(entry, file) for entry in entries]
        except (StopIteration, AttributeError) as error:  # too few words, or no dtype of torch
            raise ValueError(f"its head is damaged: {error!r}") from error


def _read_head(file: BufferedReader) -> list[_Entry | None]:
    head = file.readline(_LONGEST_HEAD).decode()
    words = iter(head.split())
    if next(words) != _MAGIC or next(words) != _VERSION:
        raise ValueError("it does not begin as a file of tensors")
    count = int(next(words))
    return [_parse_entry(words) for _ in range(count)]


def _parse_entry(words: Iterator[str]) -> _Entry | None:
    dtype = next(words)
    if dtype == "none":
        return None
    rank = int(next(words))
    sizes = [int(next(words)) for _ in range(rank)]
    for _ in range(rank + 1):
        next(words)  # strides and offset: what the runner writes is contiguous
    storage = int(next(words))
    return _Entry(getattr(torch, dtype), sizes, storage)


def _read_tensor(entry: _Entry | None, file: BufferedReader) -> Tensor | None:
    if entry is None:
        return None
    dtype, sizes, storage = entry
    if storage != math.prod(sizes) * dtype.itemsize:
        raise ValueError(f"{storage} bytes for {sizes} of {dtype}")
    content = bytearray(storage)
    if file.readinto(content) != storage:
        raise ValueError("it is truncated")
    if not storage:
        return torch.empty(sizes, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype).view(sizes)


def _storage_bytes(value: Tensor) -> Tensor:
    storage = value.detach().cpu().untyped_storage()
    return torch.empty(0, dtype=torch.uint8).set_(storage)
