"""Quantised models as torchao makes them: weights that are tensor subclasses, and modules that an
export made (pt2e).

A subclass such as torchao's `Int8Tensor` holds plain tensors (the integers, their scales). Before
the export each one is taken apart, so that the program, its keys, the package and whoever exchanges
weights later see these plain tensors: the weight ``fc.weight`` becomes
``fc.parametrizations.weight.original0`` and so on, in the order of the subclass's
``__tensor_flatten__``. The module puts the subclass together again whenever it uses the weight.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.nn.utils import parametrize

# Operators that round floating point values to integers with a scale, and back: torchao's, and
# those of pt2e.
NAMESPACES = frozenset({"torchao", "quantized_decomposed"})


def in_eval_mode(module: nn.Module) -> nn.Module:
    """The module, in eval mode. An exported one refuses `eval()`: its dropout and batch norm are
    operators of a graph, which torchao rewrites."""
    try:
        return module.eval()
    except NotImplementedError:
        exported = [part for part in module.modules() if isinstance(part, GraphModule)]
    to_eval = _exported_to_eval()
    if to_eval is not None:
        for part in exported:
            to_eval(part)
    for each in module.modules():
        each.training = False
    return module


def _exported_to_eval() -> Any:
    """The function for exported modules, of the library that made them; None if neither is
    there."""
    for name in ("torchao.quantization.pt2e", "torch.ao.quantization"):
        function = getattr(sys.modules.get(name), "move_exported_model_to_eval", None)
        if function is not None:
            return function
    return None


def subclassed(module: nn.Module) -> list[str]:
    """Names of parameters and buffers that are tensor subclasses made of plain tensors."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, value in named if _is_made_of_tensors(value)]


def taken_apart(module: nn.Module) -> nn.Module:
    """The module with plain tensors in place of parameters and buffers that are made of several."""
    if not subclassed(module):
        return module
    # torch's own, which the compile would call later: the names in the program are then those in
    # the package.
    from torch._functorch._aot_autograd.subclass_parametrization import (
        unwrap_tensor_subclass_parameters,
    )

    return unwrap_tensor_subclass_parameters(module).requires_grad_(False)


def is_quantised(module: nn.Module) -> bool:
    """Whether the module has weights that were taken apart, or operators that quantise."""
    for part in module.modules():
        if parametrize.is_parametrized(part) and _was_taken_apart(part):
            return True
        if isinstance(part, GraphModule) and any(is_quantiser(node) for node in part.graph.nodes):
            return True
    return False


def is_quantiser(node: Node) -> bool:
    """Whether a node of a graph is one of the operators that round to integers with a scale, or
    back."""
    return node.op == "call_function" and getattr(node.target, "namespace", None) in NAMESPACES


def graph_modules(module: nn.Module) -> Iterator[GraphModule]:
    for part in module.modules():
        if isinstance(part, GraphModule):
            yield part


def _is_made_of_tensors(value: torch.Tensor) -> bool:
    return hasattr(value, "__tensor_flatten__") and hasattr(type(value), "__tensor_unflatten__")


def _was_taken_apart(module: Any) -> bool:
    lists = module.parametrizations.values()
    return any(hasattr(part, "subclass_meta") for entries in lists for part in entries)
