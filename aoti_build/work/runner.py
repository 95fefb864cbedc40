"""The C++ program that `verify --runtime cpp` calls packages with: compiled once per toolchain
against the installed torch, by the compiler directly, and kept in the user's cache.

CMake's `find_package(Torch)` is not used: with a torch built for CUDA it wants the CUDA toolkit,
which running a package does not need.
"""

from __future__ import annotations

import os
from pathlib import Path

from aoti_build.artifact.paths import runner_cache
from aoti_build.common.digests import digest_file, digest_json
from aoti_build.common.locks import lock
from aoti_build.common.publication import staging
from aoti_build.errors import ToolchainError
from aoti_build.host import installed_torch, toolchain
from aoti_build.host.checks.inductor import command_words, cpp_standard, include_directories
from aoti_build.host.devices import device_named
from aoti_build.host.programs import compiler_command
from aoti_build.messages import CompileJob
from aoti_build.work.processes import check_stopping
from aoti_build.work.worker import run_worker

SOURCE = Path(__file__).with_name("runner.cpp")
_TIME_LIMIT = 600.0


def compile_command(device: str, output: Path) -> list[str]:
    """The words that compile the runner for packages of `device`.

    Libraries register what they bring when they are loaded, so all of them are linked, whether
    named by code or not. Raises `ToolchainError` without torch, or if CXX is no command.
    """
    torch, compiler = installed_torch.torch_directory(), command_words(compiler_command())
    if torch is None or not compiler:
        what = (
            "torch is not installed here"
            if torch is None
            else f"CXX={compiler_command()!r} is no command"
        )
        raise ToolchainError(what, hint="`invoke doctor` says what this host lacks")
    return [
        *compiler,
        f"-std={cpp_standard()}",
        "-O1",
        *(f"-I{directory}" for directory in include_directories()),
        str(SOURCE),
        "-o",
        str(output),
        f"-L{torch / 'lib'}",
        f"-Wl,-rpath,{torch / 'lib'}",
        "-Wl,--no-as-needed",
        *(f"-l{name}" for name in device_named(device).torch_libraries),
    ]


def runner_key(device: str) -> str:
    """A digest of all that decides what the program is: its source, the command and the
    toolchain."""
    command = compile_command(device, Path("runner"))
    facts = {name: fact for name, fact in toolchain.facts("cpu").items() if name != "cpu.count"}
    searched = {
        name: os.environ.get(name) for name in ("CPATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH")
    }
    return digest_json([digest_file(SOURCE), command, facts, searched])


def compiled_runner(device: str) -> Path:
    """The program for packages of `device` ("cpu" or "cuda"); compiled, in some fifteen seconds, if
    the cache lacks it.

    Raises `ToolchainError` if it cannot be compiled, `DirectoryError` if there is no private place
    for it, and `Interrupted`.
    """
    cache = runner_cache()
    program = cache / f"runner-{device}-{runner_key(device)[:32]}"
    if program.is_file():
        return program
    with (
        lock(program.with_suffix(".lock"), check_stopping),
        staging(cache, f"{program.name}@") as staged,
    ):
        if not program.is_file():
            made = staged / "runner"
            job = CompileJob(
                root=str(staged),
                command=tuple(compile_command(device, made)),
                what=f"the C++ runner for {device} packages",
            )
            log = program.with_suffix(".log")
            log.unlink(missing_ok=True)
            run_worker(job, directory=staged / "job", log=log, limit=_TIME_LIMIT)
            os.replace(made, program)
    return program
