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


def strides_of(shape: Sequence[int], name: str) -> tuple[int, ...]:
    """The strides, in elements, that torch gives a new tensor in the format `name`.

    An axis of size 1 could have any stride, but torch chooses formats of results by the strides of
    all axes.
    """
    order = list(range(len(shape)))
    if name != CONTIGUOUS:
        # [batch, channels, ...]: the channels come after all others.
        order.append(order.pop(1))
    strides = [0] * len(shape)
    step = 1
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


def may_have_two_formats(smallest_shape: Sequence[int]) -> bool:
    """Whether a tensor can be contiguous and have its channels last at once, at sizes from
    `smallest_shape` on.

    That is so if it has one channel, or one pixel. torch then takes it for either by its strides.
    """
    if len(smallest_shape) not in RANKS.values():
        return False
    _, channels, *pixels = smallest_shape
    return channels <= 1 or max(pixels) <= 1
