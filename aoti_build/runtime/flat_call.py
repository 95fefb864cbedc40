"""The arguments of a call, made again from its flat tensors."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from aoti_build.runtime.leaves import Parameter
from aoti_build.runtime.model import LoadedModel


def call_of(model: LoadedModel, tensors: Sequence[Tensor]) -> tuple[list[Any], dict[str, Any]]:
    """The positional and the keyword arguments that flatten to `tensors`.

    `tensors` have the order of the inputs in the signature, without the constants.
    """
    remaining = iter(tensors)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    entries = iter(model.metadata["signature"]["inputs"])
    for parameter in model.parameters:
        leaves = [_leaf(next(entries), remaining) for _ in range(parameter.leaves)]
        value = _restored(parameter, leaves)
        if parameter.keyword:
            kwargs[parameter.name] = value
        else:
            args.append(value)
    return args, kwargs


def _leaf(entry: dict[str, Any], tensors: Iterator[Tensor]) -> Any:
    if "constant" not in entry:
        return next(tensors)
    # The manifest has the repr of a constant, which is a literal in all models but a few.
    try:
        return ast.literal_eval(entry["constant"])
    except (ValueError, SyntaxError):
        return float(entry["constant"])  # nan, inf


def _restored(parameter: Parameter, leaves: list[Any]) -> Any:
    if parameter.spec is None:
        return leaves[0]
    return pytree.tree_unflatten(leaves, parameter.spec)
