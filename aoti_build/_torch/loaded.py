"""A compiled package in this process, for jobs: flat lists of tensors in, and out when they are ready.

Only for packages that were checked before: loading runs native code.
"""

from __future__ import annotations

from pathlib import Path

import torch

from aoti_build.runtime.raw import raw_loader


class LoadedPackage:
    """Runs a `.pt2` on flat lists of tensors, the order of `Call.tensors` and of the exported outputs."""

    def __init__(self, path: Path, device: str) -> None:
        self._device = device
        self._loader = raw_loader(str(path), device)

    def __call__(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        moved = [value.to(self._device) for value in inputs]
        outputs = list(self._loader.boxed_run(moved))
        if self._device == "cuda":
            torch.cuda.synchronize()
        return outputs
