"""A compiled package in this process, through torch's raw loader.

It takes 0.1 s instead of the 2 to 55 s of `aoti_load_package`, because it neither imports inductor
nor compiles a probe. Loading runs native code, so the package must be checked before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from aoti_build._torch.program.writes import Writes
from aoti_build.errors import BuildError
from aoti_build.runtime.raw import raw_loader, synchronize

_ALIGNMENT = 64  # bytes; of the memory that torch allocates


Tensors: TypeAlias = list[Tensor]


class PackageLacks(BuildError):
    """The package cannot be called in the way that was asked for. The message says why.

    Either a C++ process cannot have what it needs, or it cannot be recorded as a CUDA graph.
    """


class LoadedPackage:
    """Runs a `.pt2` on flat lists of tensors.

    Inputs have the order of `Call.tensors`, outputs that of the exported outputs.
    """

    def __init__(
        self,
        path: Path,
        device: str,
        writes: Writes | None = None,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Load the package at `path`. Raises `BuildError` if torch cannot.

        `writes` names the inputs and buffers that `calls` returns too, and `state` holds the values
        of these buffers before the first call, `in_compiled_layout`.
        """
        self._path = path
        self._device = device
        self._writes = writes or Writes()
        self._state = state or {}
        self._loader: Any = self._load()
        self._was_called = False

    def __call__(self, inputs: Tensors) -> Tensors:
        """The outputs of one call. Raises RuntimeError if the package refuses the inputs."""
        return self.run_in_place(self._copies(inputs))

    def run_in_place(self, inputs: Tensors) -> Tensors:
        """The outputs of one call on the tensors themselves, which the package may write into.

        They must be on the device. Raises RuntimeError if the package refuses them.
        """
        if self._loader is None:
            self._loader = self._load()
        self._was_called = True
        return self._run(self._loader, inputs)

    def calls(self, sequence: list[Tensors]) -> list[list[Any]]:
        """The results of several calls: the outputs, then the written inputs and buffers.

        A buffer that cannot be read is None. A package with state starts from its first state. The
        inputs stay unchanged. Raises RuntimeError if the package refuses them.
        """
        if not self._writes.buffers:
            return [self._call(inputs) for inputs in sequence]
        if self._was_called:
            self._loader = None  # a new load has the first state
        results = [self._call(inputs) for inputs in sequence]
        # Frees memory: this loader holds all weights, and so will the one that is loaded next.
        self._loader = None
        for result, state in zip(results, self._states(sequence), strict=True):
            result.extend(state)
        return results

    def _call(self, inputs: Tensors) -> list[Any]:
        """The outputs of a call, and the inputs that it writes into."""
        copies = self._copies(inputs)
        outputs = self.run_in_place(copies)
        written = [copies[position].clone() for position in self._writes.positions]
        return [*outputs, *written]

    def _states(self, sequence: list[Tensors]) -> list[list[Tensor | None]]:
        """The buffers after each call, from another load of the package.

        The raw loader cannot read the buffers of a package. So the package gets buffers in memory
        of this process. They are None if torch cannot do that.
        """
        names = self._writes.buffers
        loader = self._load()
        buffers = self._load_buffers(loader)
        if not buffers:
            return [[None] * len(names) for _ in sequence]
        states = []
        for inputs in sequence:
            self._run(loader, self._copies(inputs))
            # Cloned, because the next call writes into the buffers.
            after = {name: value.clone() for name, value in buffers.items()}
            states.append([after.get(name) for name in names])
        return states

    def _load_buffers(self, loader: Any) -> dict[str, Tensor]:
        """Copies of the first state, in which the loaded package now keeps its buffers."""
        names = set(loader.get_constant_fqns())
        buffers = {}
        for name, value in self._state.items():
            if name in names:
                # `to` would close gaps between the elements.
                buffer = torch.empty_strided(
                    value.shape, value.stride(), dtype=value.dtype, device=self._device
                )
                buffers[name] = buffer.copy_(value)
        if not buffers:
            return {}
        try:
            loader.load_constants(
                buffers,
                False,  # use_inactive
                False,  # check_full_update
                True,  # user_managed: the package uses these tensors instead of copies
            )
        except (RuntimeError, TypeError):
            return {}  # an older torch, or a package with the buffers in its code
        return buffers

    def _copies(self, inputs: Tensors) -> Tensors:
        return [private_copy(value, self._device) for value in inputs]

    def _run(self, loader: Any, inputs: Tensors) -> Tensors:
        outputs = list(loader.run(inputs))
        synchronize(self._device)
        return outputs

    def _load(self) -> Any:
        try:
            return raw_loader(str(self._path), self._device)
        except RuntimeError as error:
            raise BuildError(
                "torch cannot load the package",
                cause=str(error),
                hint=(
                    "the log has more; `invoke doctor` says whether compiler, driver or disk are to"
                    " blame"
                ),
            ) from error


def in_compiled_layout(
    state: Mapping[str, Tensor], signature: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The buffers in `state` with the strides that the code was compiled for.

    Reference data is contiguous. `signature` is that of a manifest, which has the strides of every
    weight that is not.
    """
    strides = {entry["name"]: entry.get("stride") for entry in signature.get("weights", ())}
    laid_out = {}
    for name, value in state.items():
        stride = strides.get(name)
        if stride is None:
            laid_out[name] = value
        else:
            laid_out[name] = torch.empty_strided(value.shape, stride, dtype=value.dtype)
            laid_out[name].copy_(value)
    return laid_out


def private_copy(value: Tensor, device: str) -> Tensor:
    """A copy of a tensor on `device` with the same strides.

    On the CPU it also has the same distance from an aligned address. A package may depend on both.
    """
    if device != "cpu" or value.device.type != "cpu":
        return value.to(device, copy=True)
    if not value.numel():
        return value.clone()
    misalignment = value.data_ptr() % _ALIGNMENT
    shift = misalignment // value.element_size()
    span = _span(value)
    memory = torch.empty(shift + span, dtype=value.dtype)
    # All of the memory that the value spans, also what lies between its elements.
    flat = value.as_strided((span,), (1,), value.storage_offset())
    memory[shift:].copy_(flat)
    return memory.as_strided(value.shape, value.stride(), shift)


def _span(value: Tensor) -> int:
    """The elements of memory from the first to the last one of a tensor."""
    span = 1
    for size, stride in zip(value.shape, value.stride(), strict=True):
        span += (size - 1) * stride
    return span
