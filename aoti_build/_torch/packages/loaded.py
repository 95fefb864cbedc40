"""A compiled package in this process, through torch's raw loader: no inductor import, no compiler, 0.1 s instead of 2
to 55.

Only for packages that were checked before: loading runs native code.
"""

from __future__ import annotations

from pathlib import Path

import torch

from aoti_build.errors import BuildError
from aoti_build.runtime.raw import raw_loader


class LoadedPackage:
    """Runs a `.pt2` on flat lists of tensors, the order of `Call.tensors` and of the exported outputs."""

    def __init__(self, path: Path, device: str) -> None:
        """Raises `BuildError` if torch refuses the package."""
        self._device = device
        try:
            self._loader = raw_loader(str(path), device)
        except RuntimeError as error:
            raise BuildError(
                "torch cannot load the package",
                cause=str(error),
                hint="the log has more; `invoke doctor` says whether compiler, driver or disk are to blame",
            ) from error

    def __call__(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        moved = [value.to(self._device) for value in inputs]
        outputs = list(self._loader.boxed_run(moved))
        if self._device == "cuda":
            torch.cuda.synchronize()
        return outputs
