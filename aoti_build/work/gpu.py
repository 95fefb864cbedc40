"""What is particular about building for a GPU: what a worker must find in its environment before it
imports torch, and what the package holds then.

The variables reach the processes that inductor starts for compiling only if they are there from the
beginning.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aoti_build.artifact.manifest import MODEL
from aoti_build.artifact.pt2.gpu_code import common_architectures
from aoti_build.artifact.pt2.package import open_archive
from aoti_build.errors import ArtifactError
from aoti_build.host import cuda
from aoti_build.models_file.project import Target
from aoti_build.store.kernels import KERNELS_VARIABLE
from aoti_build.work.context import Place


def gpu_environment(target: Target, kernels: Path | None) -> dict[str, str]:
    """Variables for a worker of a CUDA target; nothing for others. What the user set stays.

    All processes assemble with one ptxas (see `cuda.ptxas`). With `kernels`, Triton's cache is
    backed by that directory. A kernel's bytes must not say where it was compiled, so they hold no
    line numbers; those would point into a cache that is removed after the job.
    """
    if not target.hardware.has_kernels:
        return {}
    wanted = {"TRITON_DISABLE_LINE_INFO": "1"}
    if (ptxas := cuda.ptxas()) is not None:
        wanted["TRITON_PTXAS_PATH"] = ptxas
    if kernels is not None:
        wanted["TRITON_CACHE_MANAGER"] = "aoti_build._torch.compiling.kernels:StoredKernels"
    chosen = {name: value for name, value in wanted.items() if name not in os.environ}
    return {**chosen, KERNELS_VARIABLE: str(kernels or "")}


def gpu_code_of(target: Target, place: Place) -> dict[str, Any]:
    """For the manifest, the architectures that all kernels of the staged package have code for;
    nothing for the CPU, and where they cannot be told, as of a package that calls torch's own
    kernels alone."""
    if not target.hardware.has_kernels:
        return {}
    try:
        with open_archive(place.staged / MODEL) as archive:
            code = list(common_architectures(archive))
    except (ArtifactError, OSError):
        return {}
    return {"gpu_code": code} if code else {}
