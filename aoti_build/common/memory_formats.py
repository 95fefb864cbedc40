"""The memory formats of tensors: in which order the values of an image lie in memory.

They have the names that torch gives them. `contiguous` is the order of the axes. The others put the
channels last: the values of one pixel are next to each other.
"""

from __future__ import annotations

from collections.abc import Sequence

CONTIGUOUS = "contiguous"
# The rank of the tensors that can have a format, by its name. `contiguous` is for every rank.
RANKS = {"channels_last": 4, "channels_last_3d": 5}
NAMES = (CONTIGUOUS, *RANKS)


def applied_format(name: str | None, rank: int) -> str | None:
    """The format `name` if tensors of this rank can have it. None stands for contiguous."""
    if name is None or RANKS.get(name) != rank:
        return None
    return name


def channels_last_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides, in elements, of a tensor [batch, channels, ...] whose channels lie last.

    They are those that torch gives a new tensor. An axis of size 1 could have any stride, but torch
    chooses formats of results by the strides of all axes.
    """
    strides = [0] * len(shape)
    strides[1] = 1
    step = shape[1]
    for axis in range(len(shape) - 1, 1, -1):
        strides[axis] = step
        step *= shape[axis]
    strides[0] = step
    return tuple(strides)
