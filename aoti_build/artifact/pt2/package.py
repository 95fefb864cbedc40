"""A `.pt2` package as it lies on disk, opened without torch and without trust: which models it
holds, for what device and machine they were compiled, and which of its files are what.

`open_archive` refuses what is no sound package: a broken zip, a missing member, another format
version, no compiled code, a shared library that is none, or one that is for another machine than
its own metadata says. It reads the zip's directory, the few small files that describe the package,
and the first bytes of each library, whatever the size of the rest; so it can stand in front of
every load.

Layout: torch/csrc/export/pt2_archive_constants.h and torch/export/pt2_archive/_package.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aoti_build.artifact.pt2.container import Container
from aoti_build.artifact.pt2.directory import Member
from aoti_build.common.elf import NotElf, Read, read_machine
from aoti_build.errors import ArtifactError

FORMAT_FILE, FORMAT = "archive_format", b"pt2"
VERSION_FILE, VERSION = "archive_version", 0
MODELS_FOLDER = "data/aotinductor/"
WEIGHTS_FOLDERS = ("data/weights/", "data/constants/")
PROGRAMS_FOLDER = "models/"
# Endings of the files that hold code for a GPU (GPU_KERNEL_BIN_EXTS in torch/_inductor/utils.py,
# and multi-arch ones).
KERNEL_ENDINGS = (".cubin", ".fatbin", ".ptx", ".hsaco", ".spv", ".zebin")
_MOST_METADATA = 1 << 20  # bytes; real ones have some hundred


@dataclass(frozen=True)
class Model:
    """One compiled model. Files are names of members; `metadata` is inductor's, all of it text.

    `libraries`: shared libraries; `machine` is theirs, read from their headers. `kernels`: GPU
    binaries and GPU code. `weights`: values kept apart from the libraries. `sources`: generated
    C++. `other`: the rest.
    """

    name: str
    metadata: Mapping[str, str]
    machine: str
    libraries: tuple[str, ...]
    kernels: tuple[str, ...]
    weights: tuple[str, ...]
    sources: tuple[str, ...]
    other: tuple[str, ...]

    @property
    def device(self) -> str:
        return self.metadata.get("AOTI_DEVICE_KEY", "")

    @property
    def platform(self) -> str:
        return self.metadata.get("AOTI_PLATFORM", "")

    @property
    def isa(self) -> str:
        return self.metadata.get("AOTI_CPU_ISA", "")

    @property
    def compute_capability(self) -> str:
        return self.metadata.get("AOTI_COMPUTE_CAPABILITY", "")


class Archive:
    """An open package; a context manager. Names of members are those in the zip, `root` (with its
    slash) in front."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self.path = container.path
        self.size = container.size
        self.members: Mapping[str, Member] = container.members
        self.root = self._root()
        self.format_version = self._version()
        self.models = tuple(self._model(name) for name in self._model_names())

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()

    def read(self, name: str, limit: int) -> bytes:
        """A whole member, checked; ArtifactError if it has more than `limit` bytes."""
        return self._container.read(name, limit)

    def reader(self, name: str) -> Read:
        """A function from (offset, size) to bytes of a member, which it does not check."""
        return partial(self._container.read_at, name)

    def digest(self, name: str) -> str:
        """The sha256 of a member, which is checked on the way."""
        return self._container.digest(name)

    def check(self) -> None:
        """Read everything. Raises ArtifactError if a member is not what its CRC-32 says."""
        for name in self.members:
            self._container.check(name)

    def check_machine(self, machine: str | None = None) -> None:
        """Raises ArtifactError if a library in it is for another machine than `machine` (default:
        this host)."""
        here = machine or os.uname().machine
        for model in self.models:
            if model.machine != here:
                raise ArtifactError(
                    f"built for {model.machine}, this host is {here}",
                    where=str(self.path),
                    hint=(
                        f"load it on a host with a {model.machine} processor, or build it on one"
                        " like this"
                    ),
                )

    def _root(self) -> str:
        """The folder that everything lies in, named after the file that torch wrote first; or
        none."""
        if not self.members:
            raise self._container.refusal("the archive is empty")
        roots = {
            name[: -len(FORMAT_FILE)]
            for name in self.members
            if name.rpartition("/")[2] == FORMAT_FILE
        }
        roots = {root for root in roots if root.count("/") <= 1}
        if not roots:
            raise self._container.refusal(
                f"the archive lacks {FORMAT_FILE}, so it is no .pt2 package"
            )
        root = min(roots)
        if strays := [name for name in self.members if not name.startswith(root)]:
            raise self._container.refusal(
                f"{strays[0]} lies outside of the package's folder {root}"
            )
        return root

    def _version(self) -> int:
        found = self.read(self.root + FORMAT_FILE, limit=64).strip()
        if found != FORMAT:
            raise self._container.refusal(f"a package of the format {found!r}, not {FORMAT!r}")
        version = self.read(self.root + VERSION_FILE, limit=64).strip()
        if version != str(VERSION).encode():
            raise ArtifactError(
                f"a package of format version {version.decode('ascii', 'replace')}; this release"
                f" reads {VERSION}",
                where=str(self.path),
                hint=(
                    "use a newer release of aoti_build, or build the package with the torch that"
                    " will load it"
                ),
            )
        return VERSION

    def _model_names(self) -> list[str]:
        folder = self.root + MODELS_FOLDER
        inside = [name[len(folder) :] for name in self.members if name.startswith(folder)]
        names = list(dict.fromkeys(rest.partition("/")[0] for rest in inside if "/" in rest))
        if names:
            return names
        if any(name.startswith(self.root + PROGRAMS_FOLDER) for name in self.members):
            raise ArtifactError(
                "a package with an exported program and no compiled code",
                where=str(self.path),
                hint=(
                    "torch.export.save wrote it; torch.export.load reads it, and AOTInductor can"
                    " compile it"
                ),
            )
        raise self._container.refusal(
            f"the archive has no {MODELS_FOLDER}<model>/, so no compiled model"
        )

    def _model(self, name: str) -> Model:
        folder = f"{self.root}{MODELS_FOLDER}{name}/"
        files = [file for file in self.members if file.startswith(folder)]
        libraries = [file for file in files if file.endswith(".so")]
        described = sorted(
            (file for file in files if file.endswith("_metadata.json")), key=_wrapper_first
        )
        if not libraries:
            if any(file.endswith(".cpp") for file in files):
                raise self._container.refusal(
                    f"model {name} is there as C++ source only, without a shared library"
                )
            raise self._container.refusal(f"model {name} lacks its shared library (*.so)")
        if not described:
            raise self._container.refusal(f"model {name} lacks its metadata (*_metadata.json)")
        metadata = self._metadata(described[0])
        groups = {
            "libraries": libraries,
            "kernels": [file for file in files if file.endswith(KERNEL_ENDINGS)],
            "weights": [
                file
                for file in files
                if file.endswith((".blob", ".weights", "weights_config.json"))
            ],
            "sources": [file for file in files if file.endswith((".cpp", ".h"))],
        }
        known = {file for group in groups.values() for file in group} | set(described)
        return Model(
            name=name,
            metadata=metadata,
            machine=self._machine(libraries, metadata.get("AOTI_MACHINE")),
            other=tuple(file for file in files if file not in known),
            **{group: tuple(found) for group, found in groups.items()},
        )

    def _metadata(self, name: str) -> dict[str, str]:
        try:
            document = json.loads(self.read(name, _MOST_METADATA))
        except (ValueError, RecursionError) as error:
            raise self._container.refusal(f"{name} is no JSON", str(error)) from None
        if not isinstance(document, dict) or not all(
            isinstance(value, str) for value in document.values()
        ):
            raise self._container.refusal(f"{name} is not a table of texts")
        return document

    def _machine(self, libraries: list[str], said: str | None) -> str:
        machines = {}
        for name in libraries:
            try:
                machines[read_machine(self.reader(name))] = name
            except NotElf as error:
                raise self._container.refusal(
                    f"{name} is no shared library of Linux", str(error)
                ) from None
        if said:
            machines.setdefault(said, "its metadata")
        if len(machines) > 1:
            (one, first), (other, second), *_ = machines.items()
            raise self._container.refusal(f"{first} is for {one}, {second} for {other}")
        return next(iter(machines))


def open_archive(path: Path) -> Archive:
    """The package at `path`, or at what it links to. Raises ArtifactError, and nothing else, for
    whatever is none."""
    container = Container(path)
    try:
        return Archive(container)
    except BaseException:
        container.close()
        raise


def _wrapper_first(name: str) -> tuple[bool, str]:
    """The loader takes the metadata beside the wrapper; that of the kernels is a copy."""
    return not name.endswith(".wrapper_metadata.json"), name
