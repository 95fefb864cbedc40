"""A look at the machine code that was compiled: is it for the instruction set that was asked for,
and no more?"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Set
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from aoti_build.artifact.manifest import MODEL
from aoti_build.artifact.manifest_types import InstructionsRecord
from aoti_build.artifact.pt2.instructions import Use, extensions
from aoti_build.artifact.pt2.package import Archive, open_archive
from aoti_build.errors import ArtifactError, BuildError
from aoti_build.models_file.project import Target
from aoti_build.work.context import Staging

_BLOCK = 1 << 22


class Instructions:
    """What the code of a staged package uses, found in a thread while the package is being checked.
    `known` is what is known of it already."""

    def __init__(
        self, target: Target, staging: Staging, known: InstructionsRecord | None = None
    ) -> None:
        self._pool = ThreadPoolExecutor(1, "instructions")
        self._found: Future[InstructionsRecord] = Future()
        if known and known.get("seen") is not None:
            self._found.set_result(known)
        else:
            self._found = self._pool.submit(instructions_of, target, staging)

    def result(self) -> InstructionsRecord:
        """As `instructions_of`, and what it raises."""
        return self._found.result()

    def __enter__(self) -> Instructions:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """A check that failed because of what the code uses is explained by that."""
        self._pool.shutdown()
        if isinstance(error, BuildError) and isinstance(own := self._found.exception(), BuildError):
            raise own from error


def instructions_of(target: Target, staging: Staging) -> InstructionsRecord:
    """What the code of the staged package uses, for the manifest: `seen`, or null and `why` not.

    Raises `BuildError` if a target with a portable architecture uses more than that.
    """
    machine = os.uname().machine
    if machine != "x86_64":
        return {"seen": None, "why": f"instructions of {machine} are not told apart"}
    tool = shutil.which("objdump")
    if tool is None:
        return {"seen": None, "why": "there is no objdump here (it is part of binutils)"}
    try:
        found = _found(tool, staging)
    except (ArtifactError, OSError, ValueError) as error:
        return {"seen": None, "why": f"the code cannot be read: {error}"}
    allowed = target.hardware.allowed_instructions(target.architecture)
    if allowed is not None:
        _refuse_others(target.architecture, allowed, found, staging.log)
    return {"seen": sorted(found)}


def _found(tool: str, staging: Staging) -> dict[str, Use]:
    found: dict[str, Use] = {}
    with open_archive(staging.artifact / MODEL) as archive:
        for model in archive.models:
            for name in model.libraries:
                code = staging.directory / "library.so"
                _extract(archive, name, code)
                found = {**_disassembled(tool, code), **found}
    return found


def _refuse_others(isa: str, allowed: Set[str], found: dict[str, Use], log: Path) -> None:
    beyond = [use for name, use in sorted(found.items()) if name not in allowed]
    if beyond:
        raise BuildError(
            f"the compiled code uses more than `isa: {isa}` has, so it was not published",
            cause="\n".join(map(str, beyond)),
            hint=(
                "remove what asks for another processor (cpp.march or flags in the preset, CXX or"
                " its wrapper), or say the isa that is meant"
            ),
            log=log,
        )


def _extract(archive: Archive, name: str, path: Path) -> None:
    read, size = archive.reader(name), archive.members[name].size
    with path.open("wb") as file:
        for offset in range(0, size, _BLOCK):
            file.write(read(offset, min(_BLOCK, size - offset)))


def _disassembled(tool: str, code: Path) -> dict[str, Use]:
    command = [tool, "-d", "--insn-width=16", str(code)]
    environment = {**os.environ, "LC_ALL": "C"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env=environment,
    ) as process:
        found = extensions(process.stdout or ())
    if process.returncode != 0:
        raise ValueError(f"it ended with status {process.returncode}")
    return found
