"""Tells from the call stack whether the project's code asked for something."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from functools import cache

from aoti_build._torch.discovery.paths import IsProject

_STDLIB = os.path.dirname(os.__file__) + os.sep
_METADATA = os.path.join(_STDLIB, "importlib", "metadata", "")
_THIS_DIRECTORY = os.path.dirname(__file__)
# The modules of this package that run between the code that asks and the look at the stack.
_RECORDING_MODULES = (
    "audit_events.py",
    "callers.py",
    "patches.py",
    "recorder.py",
)
_RECORDING_FILES = {os.path.join(_THIS_DIRECTORY, name) for name in _RECORDING_MODULES}
# Any code reads a variable through these files. Other modules of the standard library read
# variables for purposes of their own.
_ENVIRONMENT_FILES: frozenset[str | None] = frozenset(
    {
        os.__file__,
        sys.modules["_collections_abc"].__file__,
        os.path.expandvars.__code__.co_filename,
        threading.__file__,
        os.path.join(_STDLIB, "concurrent", "futures", "thread.py"),
        os.path.join(_STDLIB, "multiprocessing", "pool.py"),
    }
)


class Callers:
    """Answers for the current thread."""

    def __init__(self, is_project: IsProject) -> None:
        self._is_project = is_project
        self._is_project_file: dict[str, bool] = {}

    def project_asks(self) -> bool:
        """Whether the innermost code outside the standard library is the project's."""
        return self._project_asks_through(_is_standard_library)

    def project_asks_for_variable(self) -> bool:
        """Whether the innermost code outside `os.environ`, its helpers and pools is the project's.

        The rest of the standard library reads variables on its own account.
        """
        return self._project_asks_through(_ENVIRONMENT_FILES.__contains__)

    def _project_asks_through(self, is_skipped: Callable[[str], bool]) -> bool:
        frame = sys._getframe(1)
        while frame is not None:
            filename = frame.f_code.co_filename
            # Such as <string> or <frozen importlib._bootstrap>.
            has_no_file = filename.startswith("<")
            is_recording = filename in _RECORDING_FILES
            if not (has_no_file or is_recording or is_skipped(filename)):
                return self._is_cached_project_file(filename)
            frame = frame.f_back  # type: ignore[assignment]
        # A thread that runs nothing else, as those of a pool, works for the project.
        return True

    def _is_cached_project_file(self, filename: str) -> bool:
        if filename not in self._is_project_file:
            real_path = os.path.realpath(filename)
            self._is_project_file[filename] = self._is_project(real_path)
        return self._is_project_file[filename]


def calling_file() -> str:
    """The file of the code that called into this package's recording modules."""
    frame = sys._getframe(1)
    filename = frame.f_code.co_filename
    while filename in _RECORDING_FILES and frame.f_back is not None:
        frame = frame.f_back
        filename = frame.f_code.co_filename
    return filename


def is_import_system(filename: str) -> bool:
    return filename.startswith("<frozen importlib")


def is_metadata_library(filename: str) -> bool:
    return filename.startswith(_METADATA)


@cache
def _is_standard_library(filename: str) -> bool:
    return filename.startswith(_STDLIB) and "site-packages" not in filename
