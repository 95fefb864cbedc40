"""Computes a large model with other values of its parameters, made one parameter at a time.

A float64 copy takes twice the memory of the model, although its layers are used one after another.
While `Substitutes` is entered, a function of torch that gets one of the model's parameters gets a
replacement instead, which is freed again. This works for whatever code calls the function: layers,
or code that takes a weight from anywhere. Tied weights, lists of weights, `weight.t()` and
`weight.dtype` are therefore right.

Functions that torch's interpreter of scripted code calls are not intercepted.
"""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

# Bytes. Of a model with as many parameters or more, no full copy is made.
LARGE = 256 << 20
# Bytes of replacements that are cached, so that a loop over a small layer makes each one once.
_CACHE_LIMIT = 64 << 20

# The replacement of a parameter, from its number among the model's and its value.
Replace: TypeAlias = Callable[[int, Tensor], Tensor]


class Substitutes(TorchFunctionMode):
    """While it is entered, functions of torch get replacements of the model's parameters. `count`
    is how many replacements were made."""

    def __init__(self, module: nn.Module, replace: Replace) -> None:
        super().__init__()
        self._numbers: dict[int, int] = {}  # by the identity of a parameter
        # These references keep other objects from getting the identity of a parameter.
        self._parameters = list(module.parameters())
        for number, value in enumerate(self._parameters):
            self._numbers[id(value)] = number
        self._replace = replace
        self.count = 0
        self._cache: OrderedDict[int, Tensor] = OrderedDict()

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        replaced_args, replaced_kwargs = pytree.tree_map_only(
            nn.Parameter,
            self._replacement,
            (args, dict(kwargs or {})),
        )
        return func(*replaced_args, **replaced_kwargs)

    def _replacement(self, value: nn.Parameter) -> Tensor:
        number = self._numbers.get(id(value))
        if number is None:
            return value
        replacement = self._cache.pop(number, None)
        if replacement is None:
            replacement = self._replace(number, value.detach())
            self.count += 1
        if replacement.nbytes <= _CACHE_LIMIT:
            # At the end of the cache: the least recently used ones are dropped first.
            self._cache[number] = replacement
        while self._cached_bytes() > _CACHE_LIMIT:
            self._cache.popitem(last=False)
        return replacement

    def _cached_bytes(self) -> int:
        return sum(replacement.nbytes for replacement in self._cache.values())


class Deadline(TorchDispatchMode):
    """While it is entered, an operator that begins later than `seconds` after the deadline was made
    raises TimeoutError.

    It intercepts operators and not functions: some layers compute in another way while functions of
    torch are intercepted.
    """

    # Such as torch.cond. Their branches come through this mode too.
    supports_higher_order_operators = True

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
            raise TimeoutError("the deadline has passed")
        return func(*args, **(kwargs or {}))


def can_substitute(module: nn.Module) -> bool:
    """Whether the model is large enough, and its parameters are plain. What torch does with others
    need not go through a function."""
    size = 0
    for value in module.parameters():
        if type(value) is not nn.Parameter:
            return False
        size += value.nbytes
    return size >= LARGE


def sharing_copy(
    module: nn.Module,
    is_copied: Callable[[Tensor], bool],
) -> nn.Module:
    """A copy of the module that shares its parameters, and its buffers except those for which
    `is_copied` holds."""
    # What the memo has already is not copied.
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = parameter
    for buffer in module.buffers():
        if not is_copied(buffer):
            memo[id(buffer)] = buffer
    return copy.deepcopy(module, memo)
