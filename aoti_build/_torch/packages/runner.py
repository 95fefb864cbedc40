"""A compiled package in a C++ process, through torch's C++ loader, as a C++ service uses it.

Each sequence of calls starts the program that `aoti_build.work.runner` compiled from
``work/runner.cpp``. The program belongs to the process group of this worker, so it ends with the
worker.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from aoti_build._torch.discovery.registered import libraries_with
from aoti_build._torch.packages.graphed import GraphedPackage
from aoti_build._torch.packages.imports import import_for
from aoti_build._torch.packages.loaded import (
    LoadedPackage,
    PackageLacks,
    Tensors,
    in_compiled_layout,
)
from aoti_build._torch.packages.tensor_file import read_tensors, write_tensors
from aoti_build._torch.program.writes import Writes
from aoti_build.errors import BuildError
from aoti_build.messages import CheckJob, ProbeJob
from aoti_build.models_file.project import Target

_TAIL_LINES = 12  # of the output of a crashed runner
# Exit statuses.
_NOT_LOADED = 2
_REFUSED = 3
_LACKS = 5


class Package(Protocol):
    """A loaded package, which takes and returns flat lists of tensors."""

    def calls(self, sequence: list[Tensors]) -> list[list[Any]]:
        """The results of several calls: the outputs, then the written inputs and buffers.

        The calls start from the first state. A buffer that cannot be read is None. Raises
        RuntimeError if the package refuses inputs.
        """


class RunnerCrash(BuildError):
    """The runner ended without a reply."""


def open_package(job: CheckJob | ProbeJob, state: Mapping[str, Tensor]) -> Package:
    """The package of a job, in this process or in the C++ runner that the job names.

    `state` holds the buffers that the package writes into, before the first call. Raises
    `BuildError`.
    """
    target = job.target
    writes = Writes.of_signature(job.signature)
    path = Path(job.model)
    state = in_compiled_layout(state, job.signature)
    import_for(job)
    if isinstance(job, CheckJob) and job.cuda_graphs:
        return GraphedPackage(path, target.device, job.signature, state)
    if job.runner is None:
        return LoadedPackage(path, target.device, writes, state)
    operators = []
    for entry in job.imports:
        operators += entry["operators"]
    return RunnerPackage(
        path,
        target,
        Path(job.runner),
        writes,
        operators,
    )


class RunnerPackage:
    """Runs a `.pt2` as `LoadedPackage` does, but loads it for each sequence of calls."""

    def __init__(
        self,
        path: Path,
        target: Target,
        program: Path,
        writes: Writes,
        operators: Sequence[str] = (),
    ) -> None:
        """`operators` are those of the package that torch does not have. This process must have
        imported the modules that register them."""
        self._device = target.device
        self._writes = writes
        self._command = [str(program), str(path), target.device]
        self._options = _precision_options(target)
        for library in libraries_with(operators):
            self._options.append(f"library={library}")
        for name in operators:
            self._options.append(f"operator={name}")

    def calls(self, sequence: list[Tensors]) -> list[list[Tensor | None]]:
        """The results of several calls, as `Package.calls` returns them.

        Raises RuntimeError if the package refuses inputs, `BuildError` if it cannot be loaded, and
        `RunnerCrash`.
        """
        options = [*self._options, f"calls={len(sequence)}"]
        for name in self._writes.buffers:
            options.append(f"buffer={name}")
        with tempfile.TemporaryDirectory(prefix="aoti_build-runner-") as directory:
            request = Path(directory, "request")
            reply = Path(directory, "reply")
            write_tensors(request, list(itertools.chain.from_iterable(sequence)))
            files = [str(request), str(reply)]
            _run(self._command + files + options)
            tensors = _read_reply(reply)
        count = len(tensors) // len(sequence)  # of tensors for each call
        results = []
        for number, inputs in enumerate(sequence):
            start = number * count
            reply_of_call = tensors[start : start + count]
            results.append(self._result(reply_of_call, len(inputs)))
        return results

    def _result(self, tensors: list[Tensor | None], inputs: int) -> list[Tensor | None]:
        """The outputs, written inputs and buffers of a call, whose reply has all its inputs."""
        on_device: list[Tensor | None] = []
        for value in tensors:
            on_device.append(None if value is None else value.to(self._device))
        first_input = len(on_device) - inputs - len(self._writes.buffers)
        first_buffer = first_input + inputs
        outputs = on_device[:first_input]
        written = [on_device[first_input + position] for position in self._writes.positions]
        buffers = on_device[first_buffer:]
        return outputs + written + buffers


def _precision_options(target: Target) -> list[str]:
    """The runner's options for torch's switches of floating point that models.yaml sets."""
    cuda = target.model.cuda
    options = []
    if cuda.tf32 is not None:
        options.append(f"tf32={int(cuda.tf32)}")
    if cuda.reduced_precision is not None:
        options.append(f"reduced_precision={int(cuda.reduced_precision)}")
    return options


def _run(command: Sequence[str]) -> None:
    """Run the program, and raise the error that its exit status stands for."""
    process = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        check=False,
    )
    printed = process.stderr.decode(errors="replace")
    print(printed, file=sys.stderr, end="", flush=True)
    status = process.returncode
    if status == 0:
        return
    if status == _REFUSED:
        raise RuntimeError(printed)
    if status == _LACKS:
        raise PackageLacks(printed.strip())
    if status == _NOT_LOADED:
        raise BuildError(
            "torch's C++ loader cannot load the package",
            cause=printed,
            hint=(
                "the log has more; `invoke doctor` says whether compiler, driver or disk are to"
                " blame"
            ),
        )
    last_lines = printed.splitlines()[-_TAIL_LINES:]
    tail = "\n".join(last_lines)
    raise RunnerCrash(f"the C++ runner {_end(status)}", cause=tail or None, hint="see the log")


def _read_reply(path: Path) -> list[Tensor | None]:
    try:
        return read_tensors(path)
    except (OSError, ValueError) as error:
        raise RunnerCrash("the C++ runner left no file of tensors", cause=repr(error)) from error


def _end(status: int) -> str:
    if status >= 0:
        return f"ended with status {status} and no reply"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-status}"
