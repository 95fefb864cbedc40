"""A compiled package in this process, through torch's raw loader: no inductor import, no compiler,
0.1 s instead of 2 to 55.

Only for packages that were checked before: loading runs native code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aoti_build._torch.program.writes import Writes
from aoti_build.errors import BuildError
from aoti_build.runtime.raw import raw_loader


class LoadedPackage:
    """Runs a `.pt2` on flat lists of tensors, the order of `Call.tensors` and of the exported
    outputs."""

    def __init__(
        self,
        path: Path,
        device: str,
        writes: Writes | None = None,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`writes` is what is looked at after a call beside the outputs, and `state` what the
        buffers among it hold before the first one. Raises `BuildError` if torch refuses the
        package."""
        self._path, self._device = path, device
        self._writes = writes or Writes()
        self._state = state or {}
        self._loader: Any = self._load()
        self._was_called = False

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """The outputs of one call. RuntimeError if the package refuses the inputs."""
        return self.run_own([private_copy(value, self._device) for value in inputs])

    def run_own(self, inputs: list[Tensor]) -> list[Tensor]:
        """As a call, without copies: the inputs are on the device, and the package may write into
        them."""
        if self._loader is None:
            self._loader = self._load()
        self._was_called = True
        return self._run(self._loader, inputs)

    def calls(self, sequence: list[list[Tensor]]) -> list[list[Any]]:
        """What each of several calls leaves: the outputs, then the inputs and the buffers that it
        writes into, None for a buffer that cannot be read. A package with state begins with the
        first one. The tensors given stay as they are. RuntimeError for a refusal."""
        if not self._writes.buffers:
            return [self._left(inputs) for inputs in sequence]
        if self._was_called:
            self._loader = None
        found = [self._left(inputs) for inputs in sequence]
        self._loader = None  # its memory: it holds all weights, and so does the witness
        states = self._states(sequence)
        return [[*left, *state] for left, state in zip(found, states, strict=True)]

    def _left(self, inputs: list[Tensor]) -> list[Any]:
        """The outputs of a call, and the inputs that it writes into."""
        given = [private_copy(value, self._device) for value in inputs]
        return [
            *self.run_own(given),
            *(given[position].clone() for position in self._writes.positions),
        ]

    def _states(self, sequence: list[list[Tensor]]) -> list[list[Tensor | None]]:
        """The buffers after each call, from the package once more, with its buffers in memory of
        ours: the raw loader has no way to read those that a package holds itself. None where torch
        does not do that."""
        names, loader = self._writes.buffers, self._load()
        known = set(loader.get_constant_fqns())
        ours = {
            name: value.to(self._device, copy=True)
            for name, value in self._state.items()
            if name in known
        }
        try:
            if ours:
                loader.load_constants(ours, False, False, True)
        except (
            RuntimeError,
            TypeError,
        ):  # an older torch, or a package that keeps them in its code
            ours = {}
        if not ours:
            return [[None] * len(names) for _ in sequence]
        states: list[list[Tensor | None]] = []
        for inputs in sequence:
            self._run(loader, [private_copy(value, self._device) for value in inputs])
            states.append([ours[name].clone() if name in ours else None for name in names])
        return states

    def _run(self, loader: Any, inputs: list[Tensor]) -> list[Tensor]:
        outputs = list(loader.run(inputs))
        if self._device == "cuda":
            torch.cuda.synchronize()
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


def private_copy(value: Tensor, device: str) -> Tensor:
    """The values on `device`, in the same strides and, on the CPU, as far from an aligned address:
    a package may look at both, and write into what it gets."""
    if device != "cpu" or value.device.type != "cpu":
        return value.to(device, copy=True)
    if not value.numel():
        return value.clone()
    span = 1 + sum(
        (size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True)
    )
    shift = value.data_ptr() % _ALIGNMENT // value.element_size()
    room = torch.empty(shift + span, dtype=value.dtype)
    room[shift:].copy_(value.as_strided((span,), (1,), value.storage_offset()))
    return room.as_strided(value.shape, value.stride(), shift)


_ALIGNMENT = 64  # of what torch allocates
