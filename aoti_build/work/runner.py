"""The C++ program with which `verify --runtime cpp` calls packages.

It is compiled once per toolchain, against the installed torch, and stays in the user's cache. The
compiler is called directly. CMake's `find_package(Torch)` requires the CUDA toolkit if torch is
built for CUDA, and a package runs without it.
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
_TIME_LIMIT = 600.0  # seconds
# Where compilers look for files that the command does not name.
_SEARCH_VARIABLES = ("CPATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH")


def compile_command(device: str, output: Path) -> list[str]:
    """The words of the command that compiles the runner for packages of `device`.

    Raises `ToolchainError` if torch is not installed, or if CXX is not a command.
    """
    torch = installed_torch.torch_directory()
    if torch is None:
        raise _no_compile("torch is not installed here")
    compiler = command_words(compiler_command())
    if not compiler:
        raise _no_compile(f"CXX={compiler_command()!r} is not a command")
    includes = [f"-I{directory}" for directory in include_directories()]
    libraries = [f"-l{name}" for name in device_named(device).torch_libraries]
    return [
        *compiler,
        f"-std={cpp_standard()}",
        "-O1",
        *includes,
        str(SOURCE),
        "-o",
        str(output),
        f"-L{torch / 'lib'}",
        # The program then finds torch's libraries without LD_LIBRARY_PATH.
        f"-Wl,-rpath,{torch / 'lib'}",
        # A library registers its operators when it is loaded. The linker would omit one that the
        # code does not call.
        "-Wl,--no-as-needed",
        *libraries,
    ]


def _no_compile(message: str) -> ToolchainError:
    return ToolchainError(message, hint="`invoke doctor` shows what this host lacks")


def runner_key(device: str) -> str:
    """A digest of everything that determines the program: source, command and toolchain."""
    command = compile_command(device, Path("runner"))
    facts = toolchain.facts("cpu")
    # The number of processors does not change the program.
    facts = {name: fact for name, fact in facts.items() if name != "cpu.count"}
    search_paths = {name: os.environ.get(name) for name in _SEARCH_VARIABLES}
    return digest_json([digest_file(SOURCE), command, facts, search_paths])


def compiled_runner(device: str) -> Path:
    """The program for packages of `device`, which is "cpu" or "cuda".

    If it is not cached, it is compiled, which takes about 15 seconds.

    Raises:
        ToolchainError: it cannot be compiled.
        DirectoryError: there is no private directory for it.
        Interrupted: on Ctrl-C.
    """
    cache = runner_cache()
    program = cache / f"runner-{device}-{runner_key(device)[:32]}"
    if program.is_file():
        return program
    with (
        lock(program.with_suffix(".lock"), check_stopping),
        staging(cache, f"{program.name}@") as directory,
    ):
        # Another process may have compiled it before this one got the lock.
        if not program.is_file():
            _compile(device, program, directory)
    return program


def _compile(device: str, program: Path, directory: Path) -> None:
    """Compile in `directory`, so that the name `program` never belongs to an incomplete file."""
    output = directory / "runner"
    job = CompileJob(
        root=str(directory),
        command=tuple(compile_command(device, output)),
        what=f"the C++ runner for {device} packages",
    )
    log = program.with_suffix(".log")
    log.unlink(missing_ok=True)
    run_worker(job, directory=directory / "job", log=log, limit=_TIME_LIMIT)
    os.replace(output, program)
