"""Builds for a GPU: variables that a worker needs before it imports torch, and the GPU code of the
package.

inductor compiles in processes of its own. They get the variables only if the worker is started with
them.
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
from aoti_build.work.context import Staging

_STORED_KERNELS = "aoti_build._torch.compiling.kernels:StoredKernels"


def gpu_environment(target: Target, kernels: Path | None) -> dict[str, str]:
    """Variables for the worker of a CUDA target; none for other targets.

    `kernels` is a directory of stored kernels for Triton's cache; None: no kernel is reused. A
    variable that the user has set is not changed.
    """
    if not target.hardware.has_kernels:
        return {}
    # Line numbers name a path in a cache that is removed after the job. They would also make the
    # bytes of a kernel depend on where it was compiled.
    defaults = {"TRITON_DISABLE_LINE_INFO": "1"}
    # All processes must assemble with the same ptxas; see `cuda.ptxas`.
    ptxas = cuda.ptxas()
    if ptxas is not None:
        defaults["TRITON_PTXAS_PATH"] = ptxas
    if kernels is not None:
        defaults["TRITON_CACHE_MANAGER"] = _STORED_KERNELS
    variables = {name: value for name, value in defaults.items() if name not in os.environ}
    # Always set, because the environment of this process must not choose the kernels.
    variables[KERNELS_VARIABLE] = str(kernels or "")
    return variables


def gpu_code_of(target: Target, staging: Staging) -> dict[str, Any]:
    """`gpu_code` for the manifest: the architectures that all kernels of the staged package have
    code for.

    Returns {} for the CPU and where they are unknown. A package that calls only torch's own kernels
    is an example.
    """
    if not target.hardware.has_kernels:
        return {}
    try:
        with open_archive(staging.artifact / MODEL) as archive:
            architectures = list(common_architectures(archive))
    except (ArtifactError, OSError):
        return {}
    return {"gpu_code": architectures} if architectures else {}
