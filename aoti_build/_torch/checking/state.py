"""Restores the state of a model. A case must not affect the next one, nor the compile.

An export knows of state in buffers. User code may also replace a buffer by a new tensor, or keep
tensors and numbers in attributes, lists and dicts of its modules. These are restored as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

# What user code may keep state in, besides buffers.
Container: TypeAlias = dict[Any, Any] | list[Any]


@contextlib.contextmanager
def restored_state(module: nn.Module) -> Iterator[None]:
    """Let the code inside call `module`, and restore the state of the module afterwards."""
    containers = list(_containers(_state_tables(module)))
    contents = [container.copy() for container in containers]
    tensors = []
    for container in containers:
        tensors += [value for value in _values(container) if is_plain_tensor(value)]
    with restored_tensors(tensors):
        try:
            yield
        finally:
            for container, content in zip(containers, contents, strict=True):
                _restore(container, content)


@contextlib.contextmanager
def restored_tensors(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Let the code inside write into the tensors, and restore their values afterwards."""
    values = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                # Even a write of equal values would raise the version of the tensor, by which the
                # build job finds writes into weights.
                if not same_bytes(tensor, value):
                    tensor.copy_(value)


def _state_tables(module: nn.Module) -> list[Any]:
    """The dicts that hold the buffers and attributes of the module and its parts."""
    # `forward` may be a method of another module: `method:` in models.yaml puts it there.
    owner = getattr(module.forward, "__self__", module)
    parts = {id(part): part for part in module.modules()}
    if isinstance(owner, nn.Module):
        parts[id(owner)] = owner
    tables: list[Any] = []
    for part in parts.values():
        tables += [part._buffers, vars(part)]
    return tables


def _containers(roots: list[Any]) -> Iterator[Container]:
    """The lists and dicts in `roots`, and those inside them, each once."""
    visited: set[int] = set()
    pending = list(roots)
    while pending:
        value = pending.pop()
        if type(value) not in (dict, list) or id(value) in visited:
            continue
        visited.add(id(value))
        yield value
        pending += _values(value)


def _values(container: Container) -> list[Any]:
    if isinstance(container, dict):
        return list(container.values())
    return container


def _restore(container: Any, content: Any) -> None:
    """Give a list or dict its former content. What is still there is not assigned again, because
    modules read these containers too."""
    if isinstance(container, list):
        _restore_list(container, content)
        return
    for name in list(container):
        if name not in content:
            del container[name]
    for name, value in content.items():
        if name not in container or container[name] is not value:
            container[name] = value


def _restore_list(container: list[Any], content: list[Any]) -> None:
    # By identity: two tensors compare to a tensor and not to a bool.
    current = [id(value) for value in container]
    former = [id(value) for value in content]
    if current != former:
        container[:] = content


def is_plain_tensor(value: Any) -> bool:
    """Whether the value is a tensor that holds its values in strided memory. False for subclasses,
    parameters, and sparse, quantised and meta tensors."""
    return (
        type(value) is Tensor
        and value.layout == torch.strided
        and not value.is_quantized
        and not value.is_meta
    )


def same_bytes(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of one dtype and shape have the same values, bit for bit. NaN then equals
    itself."""
    return torch.equal(_bytes_of(first), _bytes_of(second))


def _bytes_of(value: Tensor) -> Tensor:
    flat = value.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8)
