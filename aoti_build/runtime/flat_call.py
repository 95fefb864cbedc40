"""The arguments of a call, made again from its flat tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from aoti_build.runtime.model import LoadedModel
from aoti_build.runtime.structures import constant_value


def call_of(model: LoadedModel, tensors: Sequence[Tensor]) -> tuple[Sequence[Any], dict[str, Any]]:
    """The positional and the keyword arguments that flatten to `tensors`.

    `tensors` have the order of the inputs in the signature, without the constants.
    """
    remaining = iter(tensors)
    leaves = []
    for entry in model.metadata["signature"]["inputs"]:
        if "constant" in entry:
            leaves.append(constant_value(entry["constant"]))
        else:
            leaves.append(next(remaining))
    args, kwargs = pytree.tree_unflatten(leaves, model.in_spec)
    return args, kwargs
