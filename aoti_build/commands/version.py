"""`version`: the release of aoti_build, and that of the installed torch, which is not imported."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from aoti_build import __version__
from aoti_build.commands.conclusion import head
from aoti_build.common.json_object import JsonObject
from aoti_build.host import distributions


@dataclass(frozen=True)
class VersionReport:
    """Versions. `torch` is None if it is not installed."""

    torch: str | None
    python: str

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/version", 1),
            "torch": self.torch,
            "python": self.python,
        }

    def lines(self) -> list[str]:
        torch = f"torch {self.torch} installed" if self.torch else "torch not installed"
        return [f"aoti_build {__version__}, {torch}"]


def version() -> VersionReport:
    return VersionReport(distributions.version_of("torch"), platform.python_version())
