"""A large model computed with other values of its parameters than it holds, made one at a time.

A float64 copy of a model takes twice its memory beside the model, and its layers are used one after
another. So while `Substitutes` is entered, a function of torch that is given one of the model's
parameters gets what is `made` of it instead, and that is freed again. A function sees its arguments
as the model's code gave them, whether a layer calls it, or code that takes a weight from anywhere:
tied weights, lists of weights, `weight.t()` and `weight.dtype` too.

Not seen is what torch's interpreter of scripted code does inside of it.
"""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

# Bytes of the parameters from which on nothing whole is made of them.
LARGE = 256 << 20
# Bytes of what was made that are kept, so that a loop over a small layer makes it once.
_KEPT = 64 << 20

# Makes another tensor of a parameter, whose number among the model's it is given.
Made = Callable[[int, Tensor], Tensor]


class Substitutes(TorchFunctionMode):
    """While it is entered, torch's functions get what is `made` of each parameter in its place.
    `count` is how often something was made."""

    def __init__(self, module: nn.Module, made: Made) -> None:
        super().__init__()
        # The parameters too, so that no other object gets the identity of one.
        self._numbered = {
            id(value): (number, value) for number, value in enumerate(module.parameters())
        }
        self._made = made
        self.count = 0
        self._kept: OrderedDict[int, Tensor] = OrderedDict()

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        args, kwargs = pytree.tree_map_only(nn.Parameter, self._other, (args, dict(kwargs or {})))
        return func(*args, **kwargs)

    def _other(self, value: nn.Parameter) -> Tensor:
        if id(value) not in self._numbered:
            return value
        number, parameter = self._numbered[id(value)]
        found = self._kept.pop(number, None)
        if found is None:
            found = self._made(number, parameter.detach())
            self.count += 1
        if found.nbytes <= _KEPT:
            self._kept[number] = found
        while sum(kept.nbytes for kept in self._kept.values()) > _KEPT:
            self._kept.popitem(last=False)
        return found


class Deadline(TorchDispatchMode):
    """While it is entered, the first operator that begins `seconds` or more after this was made
    raises TimeoutError. By operator, because some layers compute in another way where functions of
    torch are looked at."""

    supports_higher_order_operators = (
        True  # torch.cond and others, whose branches come here by themselves
    )

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._end = time.monotonic() + seconds

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if time.monotonic() > self._end:
            raise TimeoutError("it takes too long")
        return func(*args, **(kwargs or {}))


def parameter_bytes(module: nn.Module) -> int:
    """What the parameters take, each once."""
    return sum(value.nbytes for value in module.parameters())


def can_substitute(module: nn.Module) -> bool:
    """Whether its parameters are worth it, and plain: what torch does with others need not go
    through a function."""
    return parameter_bytes(module) >= LARGE and all(
        type(value) is nn.Parameter for value in module.parameters()
    )


def sharing_copy(module: nn.Module, own: Callable[[Tensor], bool]) -> nn.Module:
    """A copy of the module that shares its parameters, and buffers except those that it is to
    `own`."""
    shared = [*module.parameters(), *(value for value in module.buffers() if not own(value))]
    return copy.deepcopy(module, {id(value): value for value in shared})
