"""What a file says that is no YAML: its place, and words for somebody who writes models.yaml."""

from __future__ import annotations

import re

from aoti_build.errors import Problem, SpecError

UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

INDENT = "this line does not fit the indentation of the lines above it"
# A part of what PyYAML's two parsers say, and what it means; the first that fits is taken.
SYNTAX = (
    ("unexpected end of stream", "this quote is never closed"),
    (
        "mapping values are not allowed",
        "a ':' where no key can be; quote a text that contains ': ', or mend the indent",
    ),
    ("unknown escape", "an unknown \\ escape in double quotes; write \\\\, or use single quotes"),
    ("could not find expected ':'", "a key without its ':'"),
    ("',' or ']'", "the '[' of {opened} is not closed, or a ',' is missing before here"),
    ("',' or '}'", "the '{{' of {opened} is not closed, or a ',' is missing before here"),
    ("cannot start any token", "a text cannot start with {character!r}; put it in quotes"),
    ("expected node content", "a value is missing before here"),
    ("expected the node content", "a value is missing before here"),
    ("incompatible YAML document", "only YAML 1 can be read"),
    ("undefined tag handle", "tags of one's own mean nothing here; remove it"),
    ("expected key", INDENT),
    ("expected '-' indicator", INDENT),
    ("expected <block end>", INDENT),
    ("<document start>", INDENT),
)


def decoded(content: str | bytes, file: str) -> str:
    """The text of a file, without a byte order mark. Raises SpecError for what no YAML may have."""
    text = content if isinstance(content, str) else content.decode("utf-8", "surrogateescape")
    text = text.removeprefix("\ufeff")
    if match := UNPRINTABLE.search(text):
        code = ord(match[0])
        words = f"the character U+{code:04X} is not allowed in YAML"
        if isinstance(content, bytes) and 0xDC80 <= code <= 0xDCFF:  # what stands for a bad byte
            words = f"byte 0x{code - 0xDC00:02x} is not UTF-8; save the file as UTF-8"
        lines = re.split(r"\r\n|\r|\n", text[: match.start()])
        raise SpecError(file, [Problem(len(lines), len(lines[-1]) + 1, words)])
    return text


def syntax_problem(error: Exception, text: str) -> Problem:
    """What PyYAML's `error` about `text` means."""
    context, message = getattr(error, "context_mark", None), getattr(error, "problem", None) or ""
    mark = getattr(error, "problem_mark", None) or context
    if mark is None:
        return Problem(1, 1, f"not valid YAML: {error}")
    lines = re.split(r"\r\n|[\r\n\x85\u2028\u2029]", text)
    line = lines[mark.line] if mark.line < len(lines) else ""
    tab = line.find("\t", 0, len(line) - len(line.lstrip()))
    if tab >= 0 or line.startswith("\t", mark.column) or "tab character" in message:
        words = "a tab; YAML forbids tabs for indentation, so use spaces"
        return Problem(mark.line + 1, (mark.column if tab < 0 else tab) + 1, words)
    words = next((words for part, words in SYNTAX if part in message), "not valid YAML: {message}")
    words = words.format(
        opened=f"line {context.line + 1}" if context else "a line above",
        character=line[mark.column : mark.column + 1],
        message=message,
    )
    if context and "unexpected end of stream" in message:
        mark = context
    return Problem(mark.line + 1, mark.column + 1, words)
