"""The error for a model that fails in eager mode: the user's line, what the model was called with,
and a next step for the kind of failure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import torch

from aoti_build._torch.program.code_lines import described
from aoti_build._torch.program.inputs import Call
from aoti_build._torch.program.user_errors import (
    is_about_gpu,
    refuses_arguments,
    signature_text,
)
from aoti_build.errors import BuildError

_MAX_TENSORS = 8
# Errors of code, whatever the inputs are.
_OF_CODE = (AttributeError, NameError, ImportError, NotImplementedError, AssertionError, KeyError)


class EagerFailure(BuildError):
    """The model fails in eager mode, so there is nothing to compile and nothing to compare with."""


class NothingReturned(EagerFailure):
    """The model leaves no tensor behind, so a compiled one could do nothing."""

    def __init__(self) -> None:
        super().__init__(
            "the model returns no tensor and writes into none",
            hint="let forward return its result; a compiled artifact can only return tensors, or"
            " write into its inputs and buffers",
        )


class _Hint(NamedTuple):
    """A pattern of torch's messages, and the next step."""

    pattern: str
    text: str


# Patterns of torch's messages (2.11 to 2.14). The first one that matches counts.
_HINTS = (
    _Hint(
        r"following scalar types: Long, Int",
        "an index is an integer: write `dtype: int64` for this input, and as `high` the number of"
        " rows of the table",
    ),
    _Hint(
        r"index out of range in self",
        "an index is larger than its table: write as `high` of the input the number of rows",
    ),
    _Hint(
        r"same dtype|should be the same|expected scalar type|expected m1 and m2|must match.*dtype",
        "input and weights have different types: write the type of the weights as `dtype` of the"
        " input, or a `dtype` for the whole model",
    ),
    _Hint(
        r"on the same device|is on cpu",
        "this line makes or keeps a tensor on another device than the target's: use the device of"
        " an input (device=x.device), or register the tensor as a buffer",
    ),
)


def eager_failure(
    name: str,
    call: Call,
    error: Exception,
    forward: Callable[..., object] | None = None,
) -> EagerFailure:
    """The error for a model that fails in eager mode on the inputs of the case `name`. `forward` is
    the function that took them, if it is Python's."""
    return EagerFailure(
        f"the model itself fails in eager mode on the {name} inputs, {_inputs_text(call)}",
        cause=described(error),
        hint=_hint(error, call, forward),
    )


def _inputs_text(call: Call) -> str:
    """``tokens: float32 [2, 8]``, for each tensor."""
    texts = []
    for name, value in [*((None, value) for value in call.args), *call.kwargs.items()]:
        prefix = f"{name}: " if name else ""
        for tensor in Call(args=(value,)).tensors():
            dtype = str(tensor.dtype).removeprefix("torch.")
            texts.append(f"{prefix}{dtype} {list(tensor.shape)}")
    if len(texts) > _MAX_TENSORS:
        texts[_MAX_TENSORS:] = [f"and {len(texts) - _MAX_TENSORS} more"]
    return ", ".join(texts) or "without tensors"


def _hint(error: Exception, call: Call, forward: Callable[..., object] | None) -> str:
    tensors = call.tensors()
    device = tensors[0].device.type if tensors else "cpu"
    if refuses_arguments(error) and forward is not None:
        return (
            f"give the arguments of {signature_text(forward)} under `inputs`; one that is no tensor"
            " is a constant, such as {value: 3}"
        )
    if is_about_gpu(error) and device == "cpu":
        return (
            "this target is for the cpu, and this line wants a GPU: replace `.cuda()` by the device"
            " of an input (x.device), or register the tensor as a buffer, which is moved along"
        )
    for pattern, text in _HINTS:
        if re.search(pattern, str(error), re.DOTALL):
            return text
    if isinstance(error, torch.OutOfMemoryError):
        return "make the example sizes of `dims` or `inputs` smaller, or free memory of the GPU"
    if isinstance(error, _OF_CODE):
        return "correct this line; the log has the whole traceback"
    return "make `inputs` and `dims` describe what the model takes; the log has the traceback"
