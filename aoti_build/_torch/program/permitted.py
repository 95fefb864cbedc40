"""The lower precision that a target permits on CUDA. This module imports no part of inductor."""

from __future__ import annotations

import torch

from aoti_build.models_file.project import Target


def set_precision(target: Target) -> None:
    """Let this process compute as the target's `cuda` options say.

    Eager and compiled code read these switches when they run. A process that compares the two must
    set them before both.
    """
    options = target.model.cuda
    matmul = torch.backends.cuda.matmul
    if options.tf32 is not None:
        torch.backends.cudnn.allow_tf32 = options.tf32
        matmul.allow_tf32 = options.tf32
    if options.reduced_precision is not None:
        matmul.allow_fp16_reduced_precision_reduction = options.reduced_precision
        matmul.allow_bf16_reduced_precision_reduction = options.reduced_precision
