"""The interface of a store.

A store has every artifact that was ever published, and finds it by what it was made from. A lookup
returns None for a miss, and never raises an error for bad content. A store may be deleted at any
time. Then builds take longer, and their results are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aoti_build.artifact.fingerprint import Parts
from aoti_build.artifact.manifest import FileRecord, Manifest

if TYPE_CHECKING:
    from aoti_build.host.checks.finding import Finding


@dataclass(frozen=True)
class StoredObject:
    """A file that `gc` may remove: an object, whose name is its digest, or a GPU kernel.

    `size` is in bytes, `last_used` in seconds since the epoch.
    """

    path: Path
    size: int
    last_used: float

    @property
    def digest(self) -> str:
        return self.path.name


class Store(Protocol):
    """Earlier artifacts, the locks of their compiles, and GPU kernels."""

    @property
    def address(self) -> str:
        """Where the store is. Two stores with the same address are the same store."""
        ...

    def check(self) -> Finding:
        """Whether the store can be written to and has space, for `doctor` and the preflight."""
        ...

    def put(self, manifest: Manifest, directory: Path) -> None:
        """Keep the artifact in `directory`.

        If the store cannot be written to, nothing is kept and no error is raised.
        """
        ...

    def get(self, file: FileRecord, destination: Path) -> bool:
        """`get_all` of one file."""
        ...

    def get_all(self, files: Mapping[Path, FileRecord], *, to_publish: bool = False) -> bool:
        """Copy the objects of `files` to their destinations, and compare their digests.

        With `to_publish` the copies will be synced to the disk soon.

        Returns:
            Whether all objects are there and intact. If not, no copy stays.

        Raises:
            OSError: there is no space for a copy.
        """
        ...

    def has(self, manifest: Manifest) -> bool:
        """Whether the files of an artifact are there. Only `get` reads their bytes."""
        ...

    def is_empty(self) -> bool:
        """Whether no lookup can find anything."""
        ...

    def by_key(self, key: str) -> Manifest | None:
        """The artifact with this artifact key."""
        ...

    def by_graph(self, graph_key: str) -> Manifest | None:
        """An artifact of this graph whose weights can be replaced."""
        ...

    def by_sources(self, parts: Parts) -> Manifest | None:
        """The artifact that was made from exactly these parts."""
        ...

    def candidates(self, parts: Parts) -> Iterator[Manifest]:
        """Artifacts with the spec, config, toolchain and environment of `parts`, newest first.

        Their sources may be any.
        """
        ...

    def manifests(self) -> Iterator[Manifest]:
        """All artifacts, in no order."""
        ...

    def lock(self, graph_key: str, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """The lock of a graph, so that only one process compiles it.

        While another process holds the lock, `on_wait` is called about five times a second. An
        error that it raises ends the wait. Raises OSError if the store cannot be written to.
        """
        ...

    def kernels(self, parts: Parts) -> Path:
        """The directory of GPU kernels and autotuning results; see `aoti_build.store.kernels`.

        It is that of the toolchain and the environment in `parts`.
        """
        ...

    def share_weights(self, package: Path) -> int:
        """Let a package on the disk share blocks with a stored one that has the same weights.

        Returns the number of bytes that are shared.
        """
        ...

    def register(self, artifacts: Path) -> None:
        """Remember that the artifacts in `artifacts` use this store.

        `gc` keeps the objects of registered artifacts.
        """
        ...

    def roots(self) -> Iterator[Path]:
        """The registered directories that still exist."""
        ...

    def list_objects(self) -> Iterator[StoredObject]:
        """All objects and GPU kernels, in no order."""
        ...

    def remove(self, objects: Iterable[StoredObject]) -> None:
        """Remove objects, and all records without their objects."""
        ...
