"""The state of a model, as it was: what one case leaves behind must not reach the next one, nor the
compile.

Buffers are the state that an export knows. User code may also replace a buffer by a new tensor, or
keep tensors and numbers in plain attributes, lists and dicts of its modules; these are put back as
well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def kept_state(module: nn.Module) -> Iterator[None]:
    """Let the code inside call `module`; afterwards its state is what it was before."""
    # Another model where a method has the place of forward.
    owner = getattr(module.forward, "__self__", module)
    parts = {id(part): part for part in (*module.modules(), owner) if isinstance(part, nn.Module)}
    roots: list[Any] = [table for part in parts.values() for table in (part._buffers, vars(part))]
    containers = list(_containers(roots))
    contents = [container.copy() for container in containers]
    tensors = [value for container in containers for value in _values(container) if is_plain(value)]
    with kept_tensors(tensors):
        try:
            yield
        finally:
            for container, content in zip(containers, contents, strict=True):
                _put_back(container, content)


@contextlib.contextmanager
def kept_tensors(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Let the code inside write into the tensors; afterwards they hold what they held before."""
    values = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                # A write, even of the same values, would count as one for whoever watches the
                # tensor's version.
                if not same_bytes(tensor, value):
                    tensor.copy_(value)


def _containers(found: list[Any]) -> Iterator[dict[Any, Any] | list[Any]]:
    """The lists and dicts in `found`, and those inside them, each once."""
    seen: set[int] = set()
    waiting = list(found)
    while waiting:
        value = waiting.pop()
        if type(value) not in (dict, list) or id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        waiting += _values(value)


def _values(container: dict[Any, Any] | list[Any]) -> list[Any]:
    return list(container.values()) if isinstance(container, dict) else container


def _put_back(container: Any, content: Any) -> None:
    """Give a list or dict its former content. Nothing is assigned that is already there: a module
    reads these too."""
    if isinstance(container, list):
        if len(container) != len(content) or any(map(_differ, container, content)):
            container[:] = content
        return
    for name in [name for name in container if name not in content]:
        del container[name]
    for name, value in content.items():
        if name not in container or container[name] is not value:
            container[name] = value


def _differ(one: Any, other: Any) -> bool:
    return one is not other


def is_plain(value: Any) -> bool:
    """Whether it is a tensor whose values lie in memory of its own kind: no subclass, not sparse,
    no parameter."""
    return (
        type(value) is Tensor
        and value.layout == torch.strided
        and not value.is_quantized
        and not value.is_meta
    )


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one dtype and shape have the same values, bit for bit; NaN equals
    itself then."""
    return torch.equal(_raw(one), _raw(other))


def _raw(value: Tensor) -> Tensor:
    return value.detach().contiguous().reshape(-1).view(torch.uint8)
