"""The cause and the remedy of a failure of `doctor`'s small model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aoti_build.errors import AotiBuildError
from aoti_build.host.checks.compiler import other_compiler
from aoti_build.host.checks.finding import FAIL, Finding
from aoti_build.work.crash import WorkerCrash

_SIGNAL_CAUSES = {
    "SIGSEGV": "native code crashed while it was loaded or run",
    "SIGILL": "the code has instructions that this processor lacks, so it was made for another one",
    "SIGKILL": "the system ended it, most likely because memory ran out",
    "SIGBUS": "a mapped file was truncated, most often because a disk or /dev/shm is full",
    "SIGABRT": "a library aborted; the log says why",
}
_SIGNAL_FIXES = {
    "SIGILL": (
        "remove -march and similar options from CXX; under an emulator or a live migration, build"
        " on the final host"
    ),
    "SIGKILL": "give the container more memory, or end other programs",
    "SIGBUS": "free space in the temporary directory, or set TMPDIR",
}
# A pattern in the output of torch or of a tool -> the remedy.
_FIX_BY_OUTPUT = {
    "no kernel image is available": (
        "install a torch whose build covers this GPU (torch.cuda.get_arch_list())"
    ),
    "out of memory": "see with nvidia-smi what else runs on the GPU",
    "No space left on device": "free space in the temporary directory, or set TMPDIR",
    "cannot find -lcuda": (
        "set CUDA_HOME to a toolkit with lib64/stubs, or add a directory with libcuda.so to"
        " LIBRARY_PATH"
    ),
    "failed to map segment": "set TMPDIR to a directory that allows execution",
}
_PHASES = {
    "compile": "while it was compiled",
    "load": "when it was loaded",
    "check": "when it was run",
}


def explain(error: AotiBuildError, device: str, phases: Sequence[str]) -> Finding:
    """The finding for a small model that failed on `device` in the last of `phases`."""
    phase = phases[-1] if phases else None
    output = error.cause or ""
    if isinstance(error, WorkerCrash) and error.signal_name:
        cause = _SIGNAL_CAUSES.get(error.signal_name, "see the signal's meaning in signal(7)")
        message = f"the small model was ended by {error.signal_name} {_time_of(phase)}: {cause}"
        fix = _SIGNAL_FIXES.get(error.signal_name)
    else:
        message = f"the small model failed {_time_of(phase)}: {error.message}"
        fix = None
    fix = fix or _fix_for(output)
    if fix is None and phase in ("load", "check"):
        # A package that compiles and does not load points to the compiler.
        compiler = other_compiler()
        fix = f"try another compiler: {compiler}" if compiler else None
    # The log is the only trace of the model, whose directory is gone.
    cause_lines = [output] if output else []
    if error.log:
        cause_lines.append(f"the log is {error.log}")
    return Finding(
        "model",
        FAIL,
        message,
        device,
        "\n".join(cause_lines) or None,
        fix or error.hint,
    )


def _time_of(phase: str | None) -> str:
    if phase is None:
        return "at the start"
    # Other phases, such as "export", are named as they are.
    return _PHASES.get(phase, f"in the phase {phase}")


def _fix_for(output: str) -> str | None:
    for pattern, fix in _FIX_BY_OUTPUT.items():
        if re.search(pattern, output):
            return fix
    return None
