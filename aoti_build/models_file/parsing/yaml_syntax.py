"""Messages for a file that is not valid YAML, in words for a user who edits models.yaml."""

from __future__ import annotations

import re
from typing import Any

from aoti_build.errors import Problem, SpecError

# The characters that YAML does not allow (`c-printable`, section 5.1 of its specification).
UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Line breaks as PyYAML counts them in its marks.
_PYYAML_LINE_BREAK = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
# The lines that git writes around the two sides of a conflict, with the name of a side. In a valid
# models.yaml no line begins like this.
_CONFLICT_MARKER = re.compile(r"(<{7}|\|{7}|={7}|>{7})( .*)?")
_CONFLICT = (
    "a merge conflict of git that is not resolved; keep one side, and remove the lines that begin"
    " with <<<<<<<, ======= and >>>>>>>"
)

UNCLOSED_QUOTE = "unexpected end of stream"
MISPLACED_COLON = (
    "a ':' is not allowed here; put a string that contains ': ' in quotes, or correct the"
    " indentation"
)
INDENTATION = "the indentation of this line does not match the lines above it; align it with them"
# A part of a message of PyYAML's two parsers, and the message for the user. The first match counts.
MESSAGES = (
    (UNCLOSED_QUOTE, "this quote is never closed; add the closing quote"),
    ("mapping values are not allowed", MISPLACED_COLON),
    ("unknown escape", "an unknown \\ escape in double quotes; write \\\\, or use single quotes"),
    ("could not find expected ':'", "this key has no ':'; add it"),
    ("',' or ']'", "the '[' of {opening_line} is not closed, or a ',' is missing before here"),
    ("',' or '}'", "the '{{' of {opening_line} is not closed, or a ',' is missing before here"),
    ("cannot start any token", "a string cannot start with {character!r}; put it in quotes"),
    ("expected node content", "a value is missing before here"),
    ("expected the node content", "a value is missing before here"),
    ("incompatible YAML document", "only YAML 1.x is supported; correct the %YAML line"),
    ("undefined tag handle", "custom tags are not supported; remove this tag"),
    ("expected key", INDENTATION),
    ("expected '-' indicator", INDENTATION),
    ("expected <block end>", INDENTATION),
    ("<document start>", INDENTATION),
)


def decoded(content: str | bytes, file: str) -> str:
    """Return the text of a file without a byte order mark.

    Raises:
        SpecError: the file is not UTF-8, or has a character that YAML does not allow.
    """
    # A byte that is not UTF-8 becomes a surrogate, which UNPRINTABLE matches.
    text = content if isinstance(content, str) else content.decode("utf-8", "surrogateescape")
    text = text.removeprefix("\ufeff")
    match = UNPRINTABLE.search(text)
    if match is None:
        return text
    code = ord(match[0])
    is_undecodable_byte = isinstance(content, bytes) and 0xDC80 <= code <= 0xDCFF
    if is_undecodable_byte:
        message = f"byte 0x{code - 0xDC00:02x} is not UTF-8; save the file as UTF-8"
    else:
        message = f"the character U+{code:04X} is not allowed in YAML; remove it"
    lines = _LINE_BREAK.split(text[: match.start()])
    raise SpecError(file, [Problem(len(lines), len(lines[-1]) + 1, message)])


def refuse_conflict(text: str, file: str) -> None:
    """Raise SpecError if the file has a conflict of a merge that nobody has resolved.

    The file may be valid YAML all the same, in which the markers are parts of values. Each conflict
    is one problem, at the first of its markers.
    """
    problems = []
    is_in_conflict = False
    for number, line in enumerate(_LINE_BREAK.split(text), start=1):
        marker = _CONFLICT_MARKER.fullmatch(line)
        if marker is None:
            continue
        if marker[1] == "<<<<<<<" or not is_in_conflict:
            problems.append(Problem(number, 1, _CONFLICT))
        is_in_conflict = marker[1] != ">>>>>>>"
    if problems:
        raise SpecError(file, problems)


def syntax_problem(error: Exception, text: str) -> Problem:
    """Return the problem for an `error` that PyYAML raised while it parsed `text`."""
    # PyYAML marks where the error is, and where the surrounding construct begins (its context).
    context_mark = getattr(error, "context_mark", None)
    mark = getattr(error, "problem_mark", None) or context_mark
    reason = getattr(error, "problem", None) or ""
    if mark is None:
        return Problem(1, 1, f"the file is not valid YAML: {error}")
    line = _line_at(mark, text)
    tab_column = _column_of_tab(line, mark, reason)
    if tab_column is not None:
        message = "a tab; YAML forbids tabs for indentation, so use spaces"
        return Problem(mark.line + 1, tab_column + 1, message)
    template = _message_template(reason)
    message = template.format(
        opening_line=f"line {context_mark.line + 1}" if context_mark else "a line above",
        character=line[mark.column : mark.column + 1],
        reason=reason,
    )
    # The end of the file, where the error is, does not help to find an open quote.
    if context_mark and UNCLOSED_QUOTE in reason:
        mark = context_mark
    return Problem(mark.line + 1, mark.column + 1, message)


def _line_at(mark: Any, text: str) -> str:
    lines = _PYYAML_LINE_BREAK.split(text)
    return lines[mark.line] if mark.line < len(lines) else ""


def _column_of_tab(line: str, mark: Any, reason: str) -> int | None:
    """Return the 0-based column of the tab that causes an error, or None if no tab does."""
    indentation = line[: len(line) - len(line.lstrip())]
    column = indentation.find("\t")
    if column >= 0:
        return column
    if line.startswith("\t", mark.column) or "tab character" in reason:
        return int(mark.column)
    return None


def _message_template(reason: str) -> str:
    for part, template in MESSAGES:
        if part in reason:
            return template
    return "the file is not valid YAML: {reason}"
