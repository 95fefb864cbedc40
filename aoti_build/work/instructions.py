"""Checks that compiled machine code uses no instructions beyond the target's architecture."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from aoti_build.artifact.manifest import MODEL
from aoti_build.artifact.manifest_types import InstructionsRecord
from aoti_build.artifact.pt2.instructions import Use, extensions
from aoti_build.artifact.pt2.package import Archive, open_archive
from aoti_build.errors import ArtifactError, BuildError
from aoti_build.models_file.project import Target
from aoti_build.work.context import Staging

# Bytes of a library that are extracted at a time.
_BLOCK = 1 << 22


class Instructions:
    """The instruction set extensions that the code of a staged package uses.

    A thread reads the code while the package is checked. Leaving the context waits for the thread.
    `known` is the record of the same code from an earlier build; then nothing is read.
    """

    def __init__(
        self, target: Target, staging: Staging, known: InstructionsRecord | None = None
    ) -> None:
        self._pool = ThreadPoolExecutor(1, "instructions")
        self._record: Future[InstructionsRecord] = Future()
        if known and known.get("seen") is not None:
            self._record.set_result(known)
        else:
            self._record = self._pool.submit(instructions_of, target, staging)

    def result(self) -> InstructionsRecord:
        """The record for the manifest. Raises what `instructions_of` raises."""
        return self._record.result()

    def __enter__(self) -> Instructions:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """If a check failed and the code uses instructions beyond its architecture, raise the error
        about the instructions. It explains the failure."""
        self._pool.shutdown()
        if not isinstance(error, BuildError):
            return
        explanation = self._record.exception()
        if isinstance(explanation, BuildError):
            raise explanation from error


def instructions_of(target: Target, staging: Staging) -> InstructionsRecord:
    """Read the code of the staged package. The record has the extensions that were `seen`, or None
    and `why` they are not known.

    Raises `BuildError` if the code uses more than the architecture that the target names.
    """
    machine = os.uname().machine
    if machine != "x86_64":
        return {"seen": None, "why": f"instructions of {machine} are not told apart"}
    objdump = shutil.which("objdump")
    if objdump is None:
        return {"seen": None, "why": "there is no objdump here (it is part of binutils)"}
    try:
        uses = _uses(objdump, staging)
    except (ArtifactError, OSError, ValueError) as error:
        return {"seen": None, "why": f"the code cannot be read: {error}"}
    allowed = target.hardware.allowed_instructions(target.architecture)
    if allowed is not None:
        _refuse_others(target.architecture, allowed, uses, staging.log)
    return {"seen": sorted(uses)}


def _uses(objdump: str, staging: Staging) -> dict[str, Use]:
    """The first use of each extension in the libraries of the staged package."""
    uses: dict[str, Use] = {}
    with open_archive(staging.artifact / MODEL) as archive:
        for model in archive.models:
            for name in model.libraries:
                library = staging.directory / "library.so"
                _extract(archive, name, library)
                for extension, use in _disassembled(objdump, library).items():
                    uses.setdefault(extension, use)
    return uses


def _refuse_others(isa: str, allowed: Set[str], uses: Mapping[str, Use], log: Path) -> None:
    refused = [str(use) for name, use in sorted(uses.items()) if name not in allowed]
    if not refused:
        return
    raise BuildError(
        f"the compiled code uses more than `isa: {isa}` has, so it was not published",
        cause="\n".join(refused),
        hint=(
            "remove the option that selects another processor (cpp.march or flags in the preset,"
            " CXX or its wrapper), or name the isa that the code is for"
        ),
        log=log,
    )


def _extract(archive: Archive, name: str, path: Path) -> None:
    """Write a member of the package to `path`."""
    read = archive.reader(name)
    size = archive.members[name].size
    with path.open("wb") as file:
        for offset in range(0, size, _BLOCK):
            file.write(read(offset, min(_BLOCK, size - offset)))


def _disassembled(objdump: str, library: Path) -> dict[str, Use]:
    """The first use of each extension in a shared library. Raises ValueError if objdump fails."""
    with subprocess.Popen(
        [objdump, "-d", "--insn-width=16", str(library)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},
    ) as process:
        uses = extensions(process.stdout or ())
    if process.returncode != 0:
        raise ValueError(f"objdump ended with status {process.returncode}")
    return uses
