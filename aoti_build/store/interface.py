"""What a store does, wherever it keeps things.

A store holds every artifact that was ever published, and finds it again by what it was made from.
A lookup returns None for a miss; it never raises for bad content. A store may be deleted at any
time: that costs time and never a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aoti_build.artifact.fingerprint import Parts
from aoti_build.artifact.manifest import FileRecord, Manifest


@dataclass(frozen=True)
class StoredObject:
    """A file that can be removed by itself: an object, whose name is its digest, or a GPU kernel.

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

    def put(self, manifest: Manifest, directory: Path) -> None:
        """Keep the artifact in `directory`. Where the store cannot be written to, nothing is kept
        and nothing is raised."""
        ...

    def get(self, file: FileRecord, destination: Path) -> bool:
        """`get_all` of one file."""
        ...

    def get_all(self, wanted: Mapping[Path, FileRecord], *, to_publish: bool = False) -> bool:
        """Copy files to their destinations, each checked against its digest on the way.

        Returns False, and leaves none of them, if one is absent or corrupted. With `to_publish` the
        copies will be synced to the disk soon. Raises OSError if there is no space for a copy.
        """
        ...

    def has(self, manifest: Manifest) -> bool:
        """Whether the files of an artifact are there. Their bytes are checked by `get`."""
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
        """Artifacts with the spec, config, toolchain and environment of `parts`, whatever their
        sources, newest first."""
        ...

    def manifests(self) -> Iterator[Manifest]:
        """All artifacts, in no order."""
        ...

    def lock(self, graph_key: str, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """Held while a graph is compiled, so that it is compiled once. `on_wait` is called some
        five times a second while another process holds the lock; what it raises ends the wait.

        Raises OSError where the store cannot be written to.
        """
        ...

    def kernels(self, parts: Parts) -> Path:
        """The directory of GPU kernels and autotuning results for the toolchain and environment in
        `parts`; see `aoti_build.store.kernels`."""
        ...

    def share_weights(self, package: Path) -> int:
        """Let a package on the disk share blocks with a stored one that has the same weights.
        Returns the number of bytes that are shared."""
        ...

    def register(self, artifacts: Path) -> None:
        """Remember that the artifacts in `artifacts` use this store, so that `gc` keeps theirs."""
        ...

    def roots(self) -> Iterator[Path]:
        """The registered directories that still exist."""
        ...

    def list_objects(self) -> Iterator[StoredObject]:
        """All objects and GPU kernels, in no order."""
        ...

    def remove(self, objects: Iterable[StoredObject]) -> None:
        """Remove objects, and the records that lead to objects which are not there."""
        ...
