"""A model in float64, where converting its weights is not enough.

Models convert as they run: a bfloat16 model returns `head(h).float()`, or takes a softmax in
float32. In float64 such a conversion would be one to a narrower type. While `Widening` is entered
it is one to float64.

A quantised model rounds to integers as it runs, by operators that take float32 and no float64. Of
its exported program `float64_graph` makes a module that computes in float64 and quantises as the
model does: operators that quantise get float32, all others float64.

Where a value lies near the middle between two steps, the last bit before decides which one it is
rounded to, and compiled code need not decide as eager does. `Stepping` says what that costs: while
it is entered, one value of each quantised tensor, and one of some ten thousand, goes to a
neighbouring step.
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
# What reads bits as another type is no conversion.
_BITS = (torch.ops.aten.view.dtype,)
_ASSERTIONS = frozenset({"_assert_tensor_metadata", "_assert_scalar", "_assert_async"})
# For values in [0, 255] with errors of some 1e-6 relative, the part that lies so near to the middle
# of a step is 1e-5 to 1e-4.
_PART = 1e-4
_SEED = 0


class Widening(TorchDispatchMode):
    """While it is entered, what operators are told to convert to a floating dtype is converted to
    float64."""

    supports_higher_order_operators = (
        True  # torch.cond and others, whose branches come here by themselves
    )

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _BITS:
            return func(*args, **(kwargs or {}))
        return func(
            *map(_wide, args), **{name: _wide(value) for name, value in (kwargs or {}).items()}
        )


def _wide(value: Any) -> Any:
    return _WIDE.get(value, value) if isinstance(value, torch.dtype) else value


def float64_graph(program: ExportedProgram) -> nn.Module:
    """The program as a module that computes in float64, with operators that quantise as they
    are."""
    options = (
        {"check_guards": False}
        if "check_guards" in inspect.signature(program.module).parameters
        else {}
    )
    module = copy.deepcopy(program.module(**options)).to(torch.float64)
    for part in graph_modules(module):
        for node in list(part.graph.nodes):
            if node.op == "call_function":
                _widen(part, node)
        part.recompile()
    return module


def _widen(part: GraphModule, node: Node) -> None:
    name = str(getattr(node.target, "__name__", "")).partition(".")[0]
    if name in _ASSERTIONS and not node.users:
        part.graph.erase_node(node)  # of a dtype that is another one here
    elif is_quantiser(node):
        node.target = _Quantiser(node.target)
    elif node.target not in _BITS:
        node.args, node.kwargs = pytree.tree_map(_wide, (node.args, node.kwargs))


class _Quantiser:
    """An operator that quantises, or back, among operators of float64."""

    def __init__(self, operator: Any) -> None:
        self.operator = operator
        self.__name__ = self.__qualname__ = str(operator).replace(".", "_").replace("::", "_")
        self.__module__ = __name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = pytree.tree_map(_narrow, (args, kwargs))
        found = self.operator(*args, **kwargs)
        return pytree.tree_map(lambda value: _stepped(_back(value)), found)


def _narrow(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(torch.float32) if value.dtype == torch.float64 else value
    return torch.float32 if isinstance(value, torch.dtype) and value in _WIDE else value


def _back(value: Any) -> Any:
    return (
        value.to(_WIDE[value.dtype])
        if isinstance(value, Tensor) and value.dtype in _WIDE
        else value
    )


_generators: list[torch.Generator] = []


@contextlib.contextmanager
def stepping() -> Iterator[None]:
    """Let some values in modules of `float64_graph` be rounded to a neighbouring step."""
    _generators.append(torch.Generator().manual_seed(_SEED))
    try:
        yield
    finally:
        _generators.pop()


def _stepped(value: Any) -> Any:
    """Small integers with some of them one up or down, within the range they have."""
    if (
        not _generators
        or not isinstance(value, Tensor)
        or value.dtype not in (torch.int8, torch.uint8)
    ):
        return value
    if not value.numel():
        return value
    chosen = torch.rand(value.shape, generator=_generators[-1]) < _PART
    chosen.view(-1)[torch.randint(value.numel(), (1,), generator=_generators[-1])] = True
    up = torch.randint(0, 2, value.shape, generator=_generators[-1]) * 2 - 1
    wide = value.to(torch.int32)
    moved = (wide + (up * chosen).to(wide)).clamp(int(wide.min()), int(wide.max()))
    return moved.to(value.dtype)
