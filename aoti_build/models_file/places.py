"""Which directories a project consists of."""

from __future__ import annotations

from dataclasses import dataclass
from os.path import normpath
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Where the parts of a project are.

    Attributes:
        root: the directory that all paths are relative to, from the directory of models.yaml on; or
            absolute, if an option of the command line named it.
        python_path: the directories that modules are imported from, relative to the root.
        artifacts: the directory of artifacts, relative to the root; or absolute, as `root`.
        history: the directory of the history of benchmarks, as `artifacts`. None if none is kept.
    """

    root: str = "."
    python_path: tuple[str, ...] = (".",)
    artifacts: str = "artifacts"
    history: str | None = None


def shown_file(file: Path) -> str:
    """A file as errors show it: its path from the current directory on, which editors and CI logs
    make a link of; its name if it does not lie below that directory."""
    current = Path.cwd()
    return file.relative_to(current).as_posix() if file.is_relative_to(current) else file.name


def root_of(file: Path, layout: Layout) -> Path:
    """The root of the project that `file` describes."""
    if layout.root == ".":
        return file.parent
    # As the user wrote it: `..` leads to the parent in the path, also if that is a link.
    return Path(normpath(file.parent / layout.root))
