"""A bundle whose directory was opened once.

Another directory may get the bundle's name while it is read. All reads go through the descriptor of
the directory that was opened, so they see the same bundle.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.errors import AotiBuildError, ArtifactError, UsageError

ASK_AGAIN = "get the release again from where it was published"


@dataclass(frozen=True)
class OpenBundle:
    """An open directory. `path` is how the caller named it, and `opened` leads into it.

    Whatever has the name `path` now, `opened` leads into the directory that was opened.
    """

    path: Path
    opened: Path

    def read(self, name: str) -> bytes:
        """All bytes of a file of the bundle. Raises `ArtifactError`."""
        try:
            return read_bytes(self.opened / name, RECORD_LIMIT)
        except OSError as error:
            raise ArtifactError(
                f"{name!r} of the release cannot be read",
                where=str(self.path),
                cause=error.strerror or str(error),
                hint=ASK_AGAIN,
            ) from error

    def shown(self, text: str) -> str:
        """The text with the path of the caller in place of the opened one."""
        # A longer number is that of another descriptor.
        return re.sub(rf"{re.escape(str(self.opened))}(?![0-9])", lambda _: str(self.path), text)

    @contextlib.contextmanager
    def shown_in_errors(self) -> Iterator[None]:
        """Let errors of the block name the bundle as the caller does."""
        try:
            yield
        except AotiBuildError as error:
            error.message = self.shown(error.message)
            error.where = self.shown(error.where) if error.where else None
            error.cause = self.shown(error.cause) if error.cause else None
            error.hint = self.shown(error.hint) if error.hint else None
            raise


@contextlib.contextmanager
def open_bundle(path: Path) -> Iterator[OpenBundle]:
    """Open the directory of a bundle. Raises `UsageError` if there is none.

    Raises `ArtifactError` if it cannot be opened.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(
            "there is no release here",
            where=str(path),
            cause=error.strerror,
            hint="name the directory of the release, which has release.json;"
            " unpack an archive first",
        ) from error
    except OSError as error:
        raise ArtifactError(
            "the release cannot be read",
            where=str(path),
            cause=error.strerror,
            hint="check its permissions",
        ) from error
    try:
        yield OpenBundle(path, Path(f"/proc/self/fd/{descriptor}"))
    finally:
        os.close(descriptor)


def refuse_imports_from(release: Path) -> None:
    """Raise `UsageError` if this process imports modules from the release.

    ``python -m`` and ``python -c`` do, if they are started there. Its own ``cryptography.py`` would
    then verify its signature.
    """
    place = os.path.realpath(release)
    for entry in sys.path:
        directory = os.path.realpath(entry or os.curdir)
        if directory == place or directory.startswith(f"{place}{os.sep}"):
            raise UsageError(
                "Python imports modules from the release",
                where=str(release),
                cause=f"{directory} is on its import path",
                hint="start the process in another directory, and keep the release out of"
                " PYTHONPATH",
            )
