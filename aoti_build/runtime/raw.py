"""torch's raw loader: runs a package on flat lists of tensors; no inductor import, no compiler.

`torch._inductor.aoti_load_package` reads the same file but imports inductor and compiles a probe
first, which costs seconds to a minute. Only for packages that were checked before: loading runs
native code.
"""

from __future__ import annotations

from typing import Any

import torch

MODEL_NAME = "model"


def raw_loader(
    path: str,
    device: str,
    *,
    single_threaded: bool = False,
    num_runners: int = 1,
    device_index: int = -1,
) -> Any:
    """The package at `path`, a `.pt2` or (torch 2.14) what one unpacks to. Raises RuntimeError if
    it cannot be loaded."""
    if device == "cuda":
        torch.cuda.init()
    return torch._C._aoti.AOTIModelPackageLoader(
        path, MODEL_NAME, single_threaded, num_runners, device_index
    )
