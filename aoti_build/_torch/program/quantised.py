"""Quantised models as torchao makes them: weights that are tensor subclasses, and modules that an
export made (pt2e).

A subclass such as torchao's `Int8Tensor` holds plain tensors: the integers and their scales. Each
one is unwrapped before the export, so that the program, its keys, the package and programs that
exchange weights have these plain tensors. The weight ``fc.weight`` becomes
``fc.parametrizations.weight.original0`` and so on, in the order of the subclass's
``__tensor_flatten__``. The module makes the subclass again whenever it uses the weight.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.nn.utils import parametrize

# Operators that round floating point values to integers with a scale, and back: torchao's, and
# those of pt2e.
NAMESPACES = frozenset({"torchao", "quantized_decomposed"})


def in_eval_mode(module: nn.Module) -> nn.Module:
    """The module, in eval mode."""
    try:
        return module.eval()
    except NotImplementedError:
        # A module of torch/export/exported_program.py refuses `eval()`, because its dropout and
        # batch norm are operators of a graph. torchao can rewrite them.
        to_eval = _function_for_exported()
    if to_eval is not None:
        for graph_module in list(graph_modules(module)):
            to_eval(graph_module)
    for part in module.modules():
        part.training = False
    return module


def _function_for_exported() -> Callable[[nn.Module], Any] | None:
    """The function that puts exported modules into eval mode, from the library that made them; None
    if neither library is imported."""
    for name in ("torchao.quantization.pt2e", "torch.ao.quantization"):
        library = sys.modules.get(name)
        function: Any = getattr(library, "move_exported_model_to_eval", None)
        if function is not None:
            return function  # type: ignore[no-any-return]
    return None


def subclassed(module: nn.Module) -> list[str]:
    """Names of parameters and buffers that are tensor subclasses made of plain tensors."""
    values = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, value in values if _is_made_of_tensors(value)]


def unwrap_subclasses(module: nn.Module) -> nn.Module:
    """The module with plain tensors in place of parameters and buffers that are made of several."""
    if not subclassed(module):
        return module
    # The compile would call this function of torch later. Called before the export, it gives the
    # program the same names that the package has.
    from torch._functorch._aot_autograd.subclass_parametrization import (
        unwrap_tensor_subclass_parameters,
    )

    return unwrap_tensor_subclass_parameters(module).requires_grad_(False)


def is_quantised(module: nn.Module) -> bool:
    """Whether the module has unwrapped weights, or operators that quantise."""
    for part in module.modules():
        if parametrize.is_parametrized(part) and _has_unwrapped_weights(part):
            return True
    for graph_module in graph_modules(module):
        if any(is_quantiser(node) for node in graph_module.graph.nodes):
            return True
    return False


def is_quantiser(node: Node) -> bool:
    """Whether a node is an operator that rounds to integers with a scale, or back."""
    return node.op == "call_function" and getattr(node.target, "namespace", None) in NAMESPACES


def graph_modules(module: nn.Module) -> Iterator[GraphModule]:
    for part in module.modules():
        if isinstance(part, GraphModule):
            yield part


def _is_made_of_tensors(value: torch.Tensor) -> bool:
    return hasattr(value, "__tensor_flatten__") and hasattr(type(value), "__tensor_unflatten__")


def _has_unwrapped_weights(module: Any) -> bool:
    for parametrizations in module.parametrizations.values():
        # Only torch's UnwrapTensorSubclass has this attribute.
        if any(hasattr(part, "subclass_meta") for part in parametrizations):
            return True
    return False
