"""A compiled package in a C++ process of its own, through torch's C++ loader: what a C++ service
gets.

Each sequence of calls starts the program that `aoti_build.work.runner` compiled from
``work/runner.cpp``, which documents the files that tensors go through. The program belongs to this
worker's process group, so it ends with the worker.
"""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from aoti_build._torch.discovery.registered import libraries_with
from aoti_build._torch.packages.imports import import_for
from aoti_build._torch.packages.loaded import LoadedPackage
from aoti_build._torch.program.writes import Writes
from aoti_build.errors import BuildError
from aoti_build.messages import CheckJob, ProbeJob
from aoti_build.models_file.project import Target

_HEAD = ("aoti_build-tensors", "1")
_MOST_HEAD = 1 << 20
_NOT_LOADED, _REFUSED, _LACKS = 2, 3, 5  # exit statuses


class Package(Protocol):
    """A loaded package, which takes and gives flat lists of tensors."""

    def calls(self, sequence: list[list[Tensor]]) -> list[list[Any]]:
        """What each of several calls, from the first state on, leaves: the outputs, then the inputs
        and the buffers that it writes into, None for a buffer that cannot be read. RuntimeError if
        it refuses the inputs of one."""


class RunnerLacks(BuildError):
    """A C++ process cannot have what the package needs; the message says why."""


class RunnerCrash(BuildError):
    """The runner ended without a reply."""


def open_package(job: CheckJob | ProbeJob, state: Mapping[str, Tensor]) -> Package:
    """The package of a job, in this process, or in the C++ runner that the job names. `state` is
    what the buffers that it writes into hold before the first call. Raises `BuildError`."""
    target, writes, path = job.target, Writes.of_signature(job.signature), Path(job.model)
    import_for(job)
    if job.runner is not None:
        operators = [name for entry in job.imports for name in entry["operators"]]
        return RunnerPackage(path, target, Path(job.runner), writes, operators)
    return LoadedPackage(path, target.device, writes, state)


class RunnerPackage:
    """Runs a `.pt2` as `LoadedPackage` does, loading it for every sequence of calls."""

    def __init__(
        self,
        path: Path,
        target: Target,
        program: Path,
        writes: Writes,
        operators: Sequence[str] = (),
    ) -> None:
        """`operators` are those from outside torch that it calls; what registers them was imported
        here."""
        self._device, self._writes = target.device, writes
        self._brought = [f"library={library}" for library in libraries_with(operators)]
        self._brought += [f"operator={name}" for name in operators]
        self._words = [str(program), str(path), target.device]
        options = {
            "tf32": target.model.cuda.tf32,
            "reduced_precision": target.model.cuda.reduced_precision,
        }
        self._switches = [
            f"{name}={int(value)}" for name, value in options.items() if value is not None
        ]

    def calls(self, sequence: list[list[Tensor]]) -> list[list[Tensor | None]]:
        """Raises RuntimeError if the package refuses the inputs, `BuildError` if it cannot be
        loaded, `RunnerCrash`."""
        with tempfile.TemporaryDirectory(prefix="aoti_build-runner-") as directory:
            request, reply = Path(directory, "request"), Path(directory, "reply")
            write_tensors(request, [value for inputs in sequence for value in inputs])
            asked = [f"calls={len(sequence)}", *(f"buffer={name}" for name in self._writes.buffers)]
            self._run(
                [*self._words, str(request), str(reply), *self._switches, *self._brought, *asked]
            )
            found = read_tensors(reply)
        each = len(found) // len(sequence)
        moved = [value if value is None else value.to(self._device) for value in found]
        return [
            self._of_call(moved[number * each : (number + 1) * each], len(inputs))
            for number, inputs in enumerate(sequence)
        ]

    def _of_call(self, found: list[Tensor | None], inputs: int) -> list[Tensor | None]:
        """The outputs, the inputs and buffers written into, from outputs, all inputs and these
        buffers."""
        count = len(found) - inputs - len(self._writes.buffers)
        after = found[count : count + inputs]
        written = [after[position] for position in self._writes.positions]
        return [*found[:count], *written, *found[count + inputs :]]

    def _run(self, words: Sequence[str]) -> None:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=subprocess.PIPE, check=False
        )
        printed = done.stderr.decode(errors="replace")
        print(printed, file=sys.stderr, end="", flush=True)
        if done.returncode == _REFUSED:
            raise RuntimeError(printed)
        if done.returncode == _LACKS:
            raise RunnerLacks(printed.strip())
        if done.returncode == _NOT_LOADED:
            raise BuildError(
                "torch's C++ loader cannot load the package",
                cause=printed,
                hint=(
                    "the log has more; `invoke doctor` says whether compiler, driver or disk are to"
                    " blame"
                ),
            )
        if done.returncode != 0:
            tail = "\n".join(printed.splitlines()[-12:])
            raise RunnerCrash(
                f"the C++ runner {_ended(done.returncode)}", cause=tail or None, hint="see the log"
            )


def write_tensors(path: Path, tensors: Sequence[Tensor]) -> None:
    """Each with its whole storage, strides and offset, so that it arrives in the layout it has
    here."""
    head = [*_HEAD, str(len(tensors))]
    storages = [_bytes(value) for value in tensors]
    for value, storage in zip(tensors, storages, strict=True):
        numbers = (
            value.dim(),
            *value.shape,
            *value.stride(),
            value.storage_offset(),
            storage.numel(),
        )
        head += [str(value.dtype).removeprefix("torch."), *map(str, numbers)]
    with path.open("wb") as file:
        file.write(" ".join(head).encode() + b"\n")
        for storage in storages:
            file.write(storage.numpy().data)


def read_tensors(path: Path) -> list[Tensor | None]:
    """Contiguous tensors, None where there was none. Raises `RunnerCrash` for a file that is not
    whole."""
    try:
        with path.open("rb") as file:
            words = iter(file.readline(_MOST_HEAD).decode().split())
            if (next(words), next(words)) != _HEAD:
                raise ValueError("it does not begin as one")
            return [
                _tensor(entry, file) for entry in [_entry(words) for _ in range(int(next(words)))]
            ]
    except (OSError, ValueError, StopIteration, AttributeError) as error:
        raise RunnerCrash("the C++ runner left no file of tensors", cause=repr(error)) from error


def _entry(words: Any) -> tuple[torch.dtype, list[int], int] | None:
    name = next(words)
    if name == "none":
        return None
    rank = int(next(words))
    numbers = [int(next(words)) for _ in range(2 * rank + 2)]
    return getattr(torch, name), numbers[:rank], numbers[-1]


def _tensor(entry: tuple[torch.dtype, list[int], int] | None, file: Any) -> Tensor | None:
    if entry is None:
        return None
    dtype, sizes, count = entry
    if count != math.prod(sizes) * dtype.itemsize:
        raise ValueError(f"{count} bytes for {sizes} of {dtype}")
    content = bytearray(count)
    if file.readinto(content) != count:
        raise ValueError("it is cut short")
    return (
        torch.frombuffer(content, dtype=dtype).view(sizes)
        if count
        else torch.empty(sizes, dtype=dtype)
    )


def _bytes(value: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(value.detach().cpu().untyped_storage())


def _ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status} and no reply"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-status}"
