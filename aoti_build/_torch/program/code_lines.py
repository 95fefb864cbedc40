"""Lines of the user's code, for errors that name them.

The traceback of an error in a model has mostly frames of torch and of this package. The log has
all of them. The error itself names the last lines that the user wrote.
"""

from __future__ import annotations

import linecache
import os
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch

_PACKAGE = str(Path(__file__).parents[2]) + os.sep
_TORCH = str(Path(torch.__file__).parent) + os.sep
_PYTHON = os.path.dirname(os.__file__) + os.sep
# A worker starts in the root of the project. The user's code may change the directory later.
_ROOT = os.getcwd() + os.sep
_MAX_LINES_OF_CODE = 3
_MAX_MESSAGE_LINES = 6


@dataclass(frozen=True)
class CodeLine:
    """A line of code outside torch."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        position = f"{_short_path(self.file)}:{self.line}"
        if self.function != "<module>":
            position += f" in {self.function}"
        code = linecache.getline(self.file, self.line).strip()
        return f"{position}: {code}" if code else position


def described(error: BaseException) -> str:
    """The type and message of an error, and below them the last lines of code that led to it, the
    innermost first."""
    last = traceback.format_exception_only(type(error), error)[-1].strip()
    lines = last.splitlines()[:_MAX_MESSAGE_LINES]
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        # The parser raises it, so no frame has the line.
        lines.append(f"at {CodeLine(error.filename, error.lineno, '<module>')}")
    words = ["at", *["from"] * _MAX_LINES_OF_CODE]
    for word, line in zip(words, code_lines(error), strict=False):
        lines.append(f"{word} {line}")
    return "\n".join(lines)


def code_lines(error: BaseException) -> list[CodeLine]:
    """The last lines of the user's code that led to the error, the innermost first.

    If a library raised it that the user's code called, its innermost line comes before them.
    """
    lines = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        if _is_models(frame):
            lines.append(CodeLine(frame.f_code.co_filename, line, frame.f_code.co_name))
    lines.reverse()
    own = [line for line in lines if not _is_installed(line.file)]
    if not own:
        return lines[:_MAX_LINES_OF_CODE]
    innermost = [] if lines[0] is own[0] else [lines[0]]
    return innermost + own[:_MAX_LINES_OF_CODE]


def line_of(error: BaseException) -> CodeLine | None:
    """The innermost line outside torch that raised the error."""
    return next(iter(code_lines(error)), None)


def calling_line(frame: FrameType | None) -> CodeLine | None:
    """The nearest caller outside torch."""
    while frame is not None:
        if _is_models(frame):
            return CodeLine(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return None


def _is_models(frame: FrameType) -> bool:
    """Whether code is the model's or its library's, and not torch's, this package's or Python's."""
    file = frame.f_code.co_filename
    # Code that torch.fx makes has a file name that begins with "<".
    if file.startswith((_TORCH, _PACKAGE, "<")):
        return False
    # Installed libraries are below Python's own directory, in site-packages or dist-packages.
    return not file.startswith(_PYTHON) or _is_installed(file)


def _is_installed(file: str) -> bool:
    return "-packages" + os.sep in file


def with_line(text: str, error: Exception) -> str:
    """The text, and below it the line of code that raised the error."""
    line = line_of(error)
    return f"{text}\nat {line}" if line else text


def listed(lines: Iterable[CodeLine]) -> str:
    """The first few lines of code, each on a line of its own."""
    return "".join(f"\nat {line}" for line in list(lines)[:_MAX_LINES_OF_CODE])


def _short_path(file: str) -> str:
    """The path in the project, or below the directory that the file was imported from."""
    if file.startswith(_ROOT) and not _is_installed(file):
        return file.removeprefix(_ROOT)
    directories = []
    for entry in sys.path:
        if entry and file.startswith(entry.rstrip(os.sep) + os.sep):
            directories.append(entry)
    if not directories:
        return file
    return os.path.relpath(file, max(directories, key=len))
