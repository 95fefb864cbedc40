"""What the reports of pushes and pulls have in common: a release in a registry."""

from __future__ import annotations

from dataclasses import dataclass

from aoti_build.artifact.bundle.record import ReleaseRecord
from aoti_build.commands.conclusion import code_of
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import AotiBuildError
from aoti_build.registry.reference import Reference


@dataclass(frozen=True)
class StoredRelease:
    """A release that is in a registry.

    Attributes:
        reference: where it is, as the user named it.
        digest: of its manifest, with ``sha256:``.
        record: of the release.
        files: how many files it has.
        size: the bytes of all.
    """

    reference: Reference
    digest: str
    record: ReleaseRecord
    files: int
    size: int

    @property
    def error(self) -> AotiBuildError | None:
        """None: a push or a pull that fails raises an error."""
        return None

    @property
    def exit_code(self) -> int:
        return code_of(self.error)

    def facts(self) -> JsonObject:
        """The JSON of it, without the head of a document."""
        return {
            "reference": str(self.reference),
            "digest": self.digest,
            "pinned": str(self.reference.pinned(self.digest)),
            "version": self.record.version,
            "files": self.files,
            "size": self.size,
        }
