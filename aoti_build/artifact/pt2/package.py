"""A `.pt2` package on disk, opened without torch and without trust.

`open_archive` finds the models in a package, the device and machine they were compiled for, and the
kind of each file. It refuses a package with a broken zip file, a missing member, another format
version or no compiled code, and one with a shared library that is not one or is for another machine
than its metadata says.

It reads the zip file's directory, the few small files that describe the package, and the first
bytes of each library, whatever the size of the rest. So every load can be preceded by it.

The layout is that of torch/csrc/export/pt2_archive_constants.h and
torch/export/pt2_archive/_package.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aoti_build.artifact.pt2.container import Container
from aoti_build.artifact.pt2.directory import Member
from aoti_build.common.elf import NotElf, Read, read_machine
from aoti_build.errors import ArtifactError

FORMAT_FILE = "archive_format"
FORMAT = b"pt2"
VERSION_FILE = "archive_version"
VERSION = 0
MODELS_FOLDER = "data/aotinductor/"
PROGRAMS_FOLDER = "models/"

# GPU_KERNEL_BIN_EXTS in torch/_inductor/utils.py, and the endings of files for several
# architectures.
KERNEL_ENDINGS = (".cubin", ".fatbin", ".ptx", ".hsaco", ".spv", ".zebin")
LIBRARY_ENDINGS = (".so",)
WEIGHTS_ENDINGS = (".blob", ".weights", "weights_config.json")
SOURCE_ENDINGS = (".cpp", ".h")
METADATA_ENDINGS = ("_metadata.json",)

_LARGEST_METADATA = 1 << 20  # bytes; real metadata has some hundred
_LARGEST_FORMAT_FILE = 64  # bytes


@dataclass(frozen=True)
class Model:
    """One compiled model.

    Attributes:
        name: its folder in the package.
        metadata: what inductor records.
        machine: the machine of the shared libraries, from their headers.
        libraries: names of the members that are shared libraries.
        kernels: names of the members with GPU code.
        weights: names of the members with weights apart from the libraries.
        sources: names of the members with generated C++.
    """

    name: str
    metadata: Mapping[str, str]
    machine: str
    libraries: tuple[str, ...]
    kernels: tuple[str, ...]
    weights: tuple[str, ...]
    sources: tuple[str, ...]

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
    """An open package, as a context manager.

    Attributes:
        members: the files in it by name, as in the zip file.
        root: the folder of all members, with a slash at the end, or an empty text.
        models: the compiled models.
    """

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
        """All bytes of a member, compared with its CRC-32.

        Raises ArtifactError if it is damaged or exceeds `limit` bytes.
        """
        return self._container.read(name, limit)

    def reader(self, name: str) -> Read:
        """A function from (offset, size) to bytes of a member, without a comparison."""
        return partial(self._container.read_at, name)

    def digest(self, name: str) -> str:
        """The sha256 of a member, which is compared with its CRC-32."""
        return self._container.digest(name)

    def check(self) -> None:
        """Read all members. Raises ArtifactError if the CRC-32 of one is another."""
        for name in self.members:
            self._container.check(name)

    def check_machine(self, machine: str | None = None) -> None:
        """Raises ArtifactError if a library is for another machine than `machine`.

        The default is this host's.
        """
        host = machine or os.uname().machine
        for model in self.models:
            if model.machine != host:
                raise ArtifactError(
                    f"built for {model.machine}, this host is {host}",
                    where=str(self.path),
                    hint=f"load it on a host with a {model.machine} processor, or build it here",
                )

    def _root(self) -> str:
        """The folder of all members. torch writes its format file first, at the top of it."""
        if not self.members:
            raise self._container.refusal("the archive is empty")
        roots = []
        for name in self.members:
            folder, slash, file = name.rpartition("/")
            if file == FORMAT_FILE and "/" not in folder:
                roots.append(folder + slash)
        if not roots:
            raise self._container.refusal(
                f"the archive lacks {FORMAT_FILE}, so it is not a .pt2 package"
            )
        root = min(roots)
        for name in self.members:
            if not name.startswith(root):
                raise self._container.refusal(f"{name} is outside the package's folder {root}")
        return root

    def _version(self) -> int:
        format_name = self.read(self.root + FORMAT_FILE, _LARGEST_FORMAT_FILE).strip()
        if format_name != FORMAT:
            raise self._container.refusal(
                f"a package of the format {format_name!r}, not {FORMAT!r}"
            )
        version = self.read(self.root + VERSION_FILE, _LARGEST_FORMAT_FILE).strip()
        if version != str(VERSION).encode():
            shown = version.decode("ascii", "replace")
            raise ArtifactError(
                f"a package of format version {shown}; this release reads {VERSION}",
                where=str(self.path),
                hint=(
                    "use a newer release of aoti_build, or build the package with the torch that"
                    " will load it"
                ),
            )
        return VERSION

    def _model_names(self) -> list[str]:
        """The folders below the one of models, in the order of the archive."""
        parent = self.root + MODELS_FOLDER
        names: dict[str, None] = {}
        for member in self.members:
            if not member.startswith(parent):
                continue
            name, slash, _ = member.removeprefix(parent).partition("/")
            if slash:
                names[name] = None
        if names:
            return list(names)
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
            f"the archive has no {MODELS_FOLDER}<model>/, so it has no compiled model"
        )

    def _model(self, name: str) -> Model:
        folder = f"{self.root}{MODELS_FOLDER}{name}/"
        files = [file for file in self.members if file.startswith(folder)]
        libraries = _with_endings(files, LIBRARY_ENDINGS)
        kernels = _with_endings(files, KERNEL_ENDINGS)
        weights = _with_endings(files, WEIGHTS_ENDINGS)
        sources = _with_endings(files, SOURCE_ENDINGS)
        metadata_files = _with_endings(files, METADATA_ENDINGS)
        if not libraries:
            if _with_endings(sources, (".cpp",)):
                raise self._container.refusal(
                    f"model {name} consists of C++ source only, without a shared library"
                )
            raise self._container.refusal(f"model {name} lacks its shared library (*.so)")
        if not metadata_files:
            raise self._container.refusal(f"model {name} lacks its metadata (*_metadata.json)")
        # The loader takes the metadata of the wrapper; those of the kernels are a copy.
        metadata = self._metadata(min(metadata_files, key=_wrapper_first))
        return Model(
            name=name,
            metadata=metadata,
            machine=self._machine(libraries, metadata.get("AOTI_MACHINE")),
            libraries=libraries,
            kernels=kernels,
            weights=weights,
            sources=sources,
        )

    def _metadata(self, name: str) -> dict[str, str]:
        try:
            document = json.loads(self.read(name, _LARGEST_METADATA))
        except (ValueError, RecursionError) as error:
            raise self._container.refusal(f"{name} is not JSON", str(error)) from None
        if not isinstance(document, dict):
            raise self._container.refusal(f"{name} is not a table of texts")
        for value in document.values():
            if not isinstance(value, str):
                raise self._container.refusal(f"{name} is not a table of texts")
        return document

    def _machine(self, libraries: Sequence[str], recorded: str | None) -> str:
        """The machine of all libraries, which must be the one that the metadata record."""
        sources: dict[str, str] = {}
        for name in libraries:
            try:
                machine = read_machine(self.reader(name))
            except NotElf as error:
                message = f"{name} is not a shared library of Linux"
                raise self._container.refusal(message, str(error)) from None
            sources[machine] = name
        if recorded:
            sources.setdefault(recorded, "its metadata")
        if len(sources) > 1:
            claims = [f"{source} is for {machine}" for machine, source in sources.items()]
            raise self._container.refusal(", ".join(claims))
        return next(iter(sources))


def open_archive(path: Path) -> Archive:
    """The package at `path`, or at the target of that link.

    Raises ArtifactError, and nothing else, unless it is a package.
    """
    container = Container(path)
    try:
        return Archive(container)
    except BaseException:
        container.close()
        raise


def _with_endings(files: Sequence[str], endings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(file for file in files if file.endswith(endings))


def _wrapper_first(name: str) -> tuple[bool, str]:
    """A sort key."""
    return not name.endswith(".wrapper_metadata.json"), name
