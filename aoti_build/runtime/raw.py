"""The raw loader of torch, which runs a package on flat lists of tensors, and what a device needs
before a load and after a run.

`torch._inductor.aoti_load_package` reads the same file, but first imports inductor and compiles a
probe. That takes seconds to a minute. Loading runs native code, so the package must be checked
before.
"""

from __future__ import annotations

from typing import Any

import torch

MODEL_NAME = "model"  # of the only model in a package: the default of torch


def raw_loader(
    path: str,
    device: str,
    *,
    single_threaded: bool = False,
    num_runners: int = 1,
    device_index: int = -1,
) -> Any:
    """Load the package at `path`: a `.pt2`, or from torch 2.14 on the root of an unpacked one.

    `device_index` is -1 for a device without an index. Raises RuntimeError if torch cannot load it.
    """
    if device == "cuda":
        torch.cuda.init()
    return torch._C._aoti.AOTIModelPackageLoader(
        path, MODEL_NAME, single_threaded, num_runners, device_index
    )


def synchronize(device: str, index: int | None = None) -> None:
    """Wait until a device has done all work that was queued on it. A CPU queues none.

    `device` is its type. Without `index` it is the current device of that type.
    """
    if device == "cuda":
        torch.cuda.synchronize(index)
