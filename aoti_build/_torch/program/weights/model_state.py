"""The tensors of a model that weights are loaded into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch

from aoti_build._torch.program.weights.source import WeightsSource

# A state dict: tensors by name, and the extra state of modules, which is of any type.
State: TypeAlias = Mapping[str, Any]

_NAMES_SHOWN = 8


@dataclass(frozen=True)
class ModelState:
    """The tensors of a module by name; they are the module's own memory.

    `state` is its state dict and `computed` the buffers outside that. `on_meta` has the names of
    the tensors that the callable left on the meta device.
    """

    state: State
    computed: Mapping[str, torch.Tensor]
    on_meta: frozenset[str]

    @classmethod
    def of(cls, module: torch.nn.Module, source: WeightsSource) -> ModelState:
        """The state of `module`, after its tensors on the meta device are made on the CPU.

        Raises:
            UsageError: A buffer outside the state dict is on the meta device. A file cannot give
                its value.
        """
        on_meta = _replace_meta_tensors(module)
        state = module.state_dict()
        computed = {}
        for name, buffer in module.named_buffers(remove_duplicate=False):
            if name not in state:
                computed[name] = buffer
        without_value = sorted(on_meta & computed.keys())
        if without_value:
            raise source.error(
                "does not have the buffers that the model has on the meta device",
                cause=", ".join(without_value[:_NAMES_SHOWN]),
                hint="they are outside the state dict: let the callable make these on the CPU",
            )
        return cls(state, computed, on_meta)


def have_equal_values(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors of one shape have the same values.

    False for tensors that torch cannot compare: sparse ones and those on the meta device.
    """
    for value in (first, second):
        if value.layout != torch.strided or value.is_meta:
            return False
    return torch.equal(first, second)


class MemoryView(NamedTuple):
    """The memory of a dense tensor and how it is read. Tied names have the same one."""

    address: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def memory_of(value: Any) -> MemoryView | None:
    """The memory of a tensor; None for a value that has none of its own to share."""
    if not isinstance(value, torch.Tensor):
        return None
    # A subclass made of several tensors has no address, and an empty tensor has address 0.
    if hasattr(value, "__tensor_flatten__") or not value.numel():
        return None
    return MemoryView(value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)


def _replace_meta_tensors(module: torch.nn.Module) -> frozenset[str]:
    """Replace tensors on the meta device by zeros on the CPU. Returns their names.

    A tensor under two names is replaced by one tensor under both, so tied weights stay tied.
    """
    values = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    names = set()
    replacements: dict[int, Any] = {}
    for name, value in values:
        if not value.is_meta:
            continue
        names.add(name)
        if id(value) not in replacements:
            replacements[id(value)] = _zeros_like(value)
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, entry in table.items():
                # An assignment to a key that is there does not disturb the iteration.
                if id(entry) in replacements:
                    table[name] = replacements[id(entry)]
    return frozenset(names)


def _zeros_like(value: torch.Tensor) -> torch.Tensor:
    # Zeros and not empty memory: BatchNorm's count of batches keeps this value where a file has
    # none.
    zeros = torch.zeros_like(value, device="cpu")
    if isinstance(value, torch.nn.Parameter):
        return torch.nn.Parameter(zeros, requires_grad=False)
    return zeros
