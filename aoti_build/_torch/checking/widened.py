"""Computes a model in float64 where a conversion of its weights is not enough.

Models convert while they run: a bfloat16 model returns `head(h).float()`, or computes a softmax in
float32. In a float64 copy, such a conversion would be one to a narrower type. While `Widening` is
entered, it is one to float64.

A quantised model rounds to integers while it runs, by operators that take float32 and no float64.
`float64_graph` makes a module of its exported program. This module computes in float64 and
quantises as the model does: operators that quantise get float32, all others float64.

If a value lies near the middle between two steps, its last bits decide which step it is rounded to.
Compiled code need not decide as eager does. `stepping` measures what that costs: while it is
entered, one value of each quantised tensor, and one in ten thousand, goes to a neighbouring step.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from aoti_build._torch.program.quantised import graph_modules, is_quantiser

_WIDE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}
_QUANTISED_TYPES = (torch.int8, torch.uint8)
# Operators that read bits as another type, which is not a conversion.
_BIT_VIEWS = (torch.ops.aten.view.dtype,)
_ASSERTIONS = frozenset({"_assert_tensor_metadata", "_assert_scalar", "_assert_async"})
# The fraction of values that go to a neighbouring step. With values in [0, 255] and relative errors
# of some 1e-6, 1e-5 to 1e-4 of them are near enough to the middle between two steps.
_STEPPED_FRACTION = 1e-4
_SEED = 0


def as_float64(value: Tensor) -> Tensor:
    """Floating point values in float64, complex ones in complex128, others as they are."""
    if value.is_complex():
        return value.to(torch.complex128)
    if value.is_floating_point():
        return value.to(torch.float64)
    return value


class Widening(TorchDispatchMode):
    """While it is entered, operators that should convert to a floating dtype convert to float64."""

    # Such as torch.cond. Their branches come through this mode too.
    supports_higher_order_operators = True

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _BIT_VIEWS:
            return func(*args, **kwargs)
        wide_args = [_wide_dtype(value) for value in args]
        wide_kwargs = {}
        for name, value in kwargs.items():
            wide_kwargs[name] = _wide_dtype(value)
        return func(*wide_args, **wide_kwargs)


def _wide_dtype(argument: Any) -> Any:
    """The wide dtype for a narrow one. Other arguments stay as they are."""
    if isinstance(argument, torch.dtype):
        return _WIDE.get(argument, argument)
    return argument


def float64_graph(program: ExportedProgram) -> nn.Module:
    """The program as a module that computes in float64, except for operators that quantise."""
    options = {}
    # Older releases of torch have no such option.
    if "check_guards" in inspect.signature(program.module).parameters:
        options["check_guards"] = False
    module = copy.deepcopy(program.module(**options))
    module = module.to(torch.float64)
    for part in graph_modules(module):
        for node in list(part.graph.nodes):
            if node.op == "call_function":
                _widen(part, node)
        part.recompile()
    return module


def _widen(part: GraphModule, node: Node) -> None:
    full_name = str(getattr(node.target, "__name__", ""))
    name, _, _overload = full_name.partition(".")
    if name in _ASSERTIONS and not node.users:
        part.graph.erase_node(node)  # it may assert the narrow dtype
    elif is_quantiser(node):
        node.target = _Float64Quantiser(node.target)
    elif node.target not in _BIT_VIEWS:
        node.args = pytree.tree_map(_wide_dtype, node.args)
        node.kwargs = pytree.tree_map(_wide_dtype, node.kwargs)


class _Float64Quantiser:
    """An operator that quantises or dequantises, called with and returning float64."""

    def __init__(self, operator: Any) -> None:
        self.operator = operator
        # torch.fx writes a call into generated code by the function's name and module.
        name = str(operator).replace(".", "_").replace("::", "_")
        self.__name__ = name
        self.__qualname__ = name
        self.__module__ = __name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        narrow_args = pytree.tree_map(_narrow, args)
        narrow_kwargs = pytree.tree_map(_narrow, kwargs)
        result = self.operator(*narrow_args, **narrow_kwargs)
        return pytree.tree_map(_wide_result, result)


def _narrow(argument: Any) -> Any:
    """An argument for an operator that takes float32."""
    if isinstance(argument, Tensor) and argument.dtype == torch.float64:
        return argument.to(torch.float32)
    if isinstance(argument, torch.dtype) and argument in _WIDE:
        return torch.float32
    return argument


def _wide_result(value: Any) -> Any:
    """A result for the operators of float64."""
    if not isinstance(value, Tensor):
        return value
    if value.dtype in _WIDE:
        return value.to(_WIDE[value.dtype])
    is_quantised = value.dtype in _QUANTISED_TYPES
    if _generators and is_quantised and value.numel():
        return _stepped(value, _generators[-1])
    return value


# The generator of each `stepping` that is entered.
_generators: list[torch.Generator] = []


@contextlib.contextmanager
def stepping() -> Iterator[None]:
    """Let some values in modules of `float64_graph` be rounded to a neighbouring step."""
    _generators.append(torch.Generator().manual_seed(_SEED))
    try:
        yield
    finally:
        _generators.pop()


def _stepped(value: Tensor, generator: torch.Generator) -> Tensor:
    """8-bit integers with some of them one up or down, within the range that they have."""
    chances = torch.rand(value.shape, generator=generator)
    chosen = chances < _STEPPED_FRACTION
    # At least one value, however small the tensor is.
    certain = torch.randint(value.numel(), (1,), generator=generator)
    chosen.view(-1)[certain] = True
    is_up = torch.randint(0, 2, value.shape, generator=generator)
    direction = is_up * 2 - 1
    wide = value.to(torch.int32)
    steps = (direction * chosen).to(wide)  # also to its device
    lowest = int(wide.min())
    highest = int(wide.max())
    moved = (wide + steps).clamp(lowest, highest)
    return moved.to(value.dtype)
