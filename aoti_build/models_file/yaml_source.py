"""models.yaml as text -> plain data, with the line and column of every key and value.

PyYAML's parser does the syntax; what its events mean is decided here, because PyYAML itself reads
YAML 1.1 (``1e-3`` is a text, ``on`` is true, ``010`` is eight) and lets the last of two equal keys
win in silence. Scalars follow the core schema of YAML 1.2, and what a models.yaml has no use for is
refused: tags of one's own, merge keys, cycles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from aoti_build.errors import Problem, SpecError
from aoti_build.models_file.project import Position
from aoti_build.models_file.wording import did_you_mean, found, nearest, shown

Where = tuple[str | int, ...]

MAX_DEPTH = 64
# More values than any file of models has; aliases of aliases reach it within a few lines.
MAX_VALUES = 100_000
MAX_NUMBER_LENGTH = 100

TAG = "tag:yaml.org,2002:"
NULL = re.compile(r"null|Null|NULL|~|")
BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
CORE = {"null": NULL, "bool": BOOL, "int": INT, "float": FLOAT}
UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

HINT_EMPTY = "write `edition: 1` and a `models:` mapping; README.md shows a small one"


@dataclass
class Document:
    """A parsed file: `data` and where its parts stand. `broken` are places whose data is only a
    stand-in."""

    data: Any = None
    keys: dict[Where, Position] = field(default_factory=dict)
    values: dict[Where, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[Where] = field(default_factory=set)

    def key(self, path: Where) -> Position:
        """Where the key (or list item) `path` stands; that of the nearest enclosing key for a path
        that is absent."""
        while path and path not in self.keys:
            path = path[:-1]
        return self.keys.get(path, Position(1, 1))

    def value(self, path: Where) -> Position:
        """Where the value of `path` starts."""
        return self.values.get(path) or self.key(path)

    def place(self, path: Where) -> Position:
        """Where a reader looks for `path`: its value if that starts on the key's own line, else its
        key."""
        key, value = self.key(path), self.value(path)
        return value if value.line == key.line else key


def parse(content: str | bytes, file: str) -> Document:
    """The data of a YAML file. Raises SpecError if it is no YAML; other problems come with the
    document."""
    text = _text(content, file)
    builder = _Builder(text)
    try:
        document = builder.document()
    except yaml.MarkedYAMLError as error:
        raise SpecError(file, [*builder.result.problems, _syntax_problem(error, text)]) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML's scanner in Python lets out what chr() says of an impossible escape, without its
        # place.
        raise SpecError(file, [Problem(1, 1, f"not valid YAML: {error}")]) from None
    except _StopError as stop:
        raise SpecError(file, [*builder.result.problems, stop.problem]) from None
    if document is None:
        raise SpecError(file, [Problem(1, 1, f"{file} is empty")], hint=HINT_EMPTY)
    return document


class _StopError(Exception):
    """Carries the one problem that ends the parse."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


def _text(content: str | bytes, file: str) -> str:
    text = content if isinstance(content, str) else _decoded(content, file)
    text = text.removeprefix("\ufeff")
    if match := UNPRINTABLE.search(text):
        words = f"the character U+{ord(match[0]):04X} is not allowed in YAML"
        raise SpecError(file, [_problem_at(text, match.start(), words)])
    return text


def _decoded(content: bytes, file: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        words = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise SpecError(file, [_problem_at(before, len(before), words)]) from None


def _problem_at(text: str, index: int, words: str) -> Problem:
    before = re.split(r"\r\n|\r|\n", text[:index].removeprefix("\ufeff"))
    return Problem(len(before), len(before[-1]) + 1, words)


@dataclass(frozen=True)
class _Anchor:
    """A value that aliases may repeat: its data, and the slice of the builder's `order` that lists
    its places."""

    data: Any
    path: Where
    start: int
    end: int


class _Builder:
    """Makes a Document of parser events. PyYAML's composer would do, were it not for unbounded
    depth and aliases."""

    def __init__(self, text: str) -> None:
        self.result = Document()
        self.events: Iterator[yaml.Event] = yaml.parse(
            text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
        self.anchors: dict[str, _Anchor | None] = {}  # None: still being built
        self.order: list[Where] = []

    def document(self) -> Document | None:
        """The one document of the stream; None if there is none, or nothing in it."""
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        self.result.data = self._value(next(self.events), ())
        next(self.events)  # the end of the document
        following = next(self.events)
        if isinstance(following, yaml.DocumentStartEvent):
            self._refuse(
                following,
                "a second document starts here; one file holds one document, so remove this '---'",
            )
        empty = self.result.data is None and not self.result.problems
        return None if empty else self.result

    def _refuse(self, event: yaml.Event, text: str, broken: Where | None = None) -> None:
        place = _position(event)
        self.result.problems.append(Problem(place.line, place.column, text))
        if broken is not None:
            self.result.broken.add(broken)

    def _stop(self, event: yaml.Event, text: str) -> _StopError:
        place = _position(event)
        return _StopError(Problem(place.line, place.column, text))

    def _value(self, event: yaml.Event, path: Where) -> Any:
        if len(path) > MAX_DEPTH:
            raise self._stop(event, f"nested deeper than {MAX_DEPTH} levels")
        start = len(self.order)
        self._record(path, event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self.anchors[anchor] = None
        data = self._node(event, path)
        if anchor is not None:
            self.anchors[anchor] = _Anchor(data, path, start, len(self.order))
        return data

    def _record(self, path: Where, event: yaml.Event) -> None:
        position = _position(event)
        self.result.keys.setdefault(path, position)
        # A value that is not there has no place of its own: its key stands for it.
        absent = isinstance(event, yaml.ScalarEvent) and _ends_at_once(event)
        self.result.values[path] = self.result.keys[path] if absent else position
        self.order.append(path)

    def _node(self, event: yaml.Event, path: Where) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        assert isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)), event
        kind = "map" if isinstance(event, yaml.MappingStartEvent) else "seq"
        if event.tag not in (None, "!", TAG + kind):
            self._refuse(event, _bad_tag(event.tag), path)
        return self._mapping(path) if kind == "map" else self._sequence(path)

    def _sequence(self, path: Where) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items))))
        return items

    def _mapping(self, path: Where) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        aside = (*path, -1)  # where refused entries are read to: no path of real data
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            name = self._key(event, path, aside)
            if name is not None and name in entries:
                first = self.result.keys[(*path, name)]
                self._refuse(
                    event, f"duplicate key {shown(name)}; it stands at line {first.line} already"
                )
                name = None
            child = aside if name is None else (*path, name)
            self.result.keys[child] = _position(event)
            data = self._value(next(self.events), child)
            if name is not None:
                entries[name] = data
        return entries

    def _key(self, event: yaml.Event, path: Where, aside: Where) -> str | None:
        """The name that a key event gives, or None if it is refused."""
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
            text = (
                "merge keys (<<) are not part of YAML 1.2; write the keys out, or use an alias for"
                " a whole value"
            )
            self._refuse(event, text, path)  # the keys that it would bring are not missed
            self._value(event, aside)
            return None
        problems = len(self.result.problems)
        key = self._value(event, aside)
        if isinstance(key, str):
            return key
        if len(self.result.problems) == problems:
            advice = (
                "; put it in quotes"
                if not isinstance(key, (list, dict)) and key is not None
                else ""
            )
            self._refuse(event, f"a key must be a text, not {found(key)}{advice}")
        return None

    def _alias(self, event: yaml.AliasEvent, path: Where) -> Any:
        name = str(event.anchor)
        anchor = self.anchors.get(name)
        if anchor is None:
            near = did_you_mean(nearest(name, self.anchors))
            inside = f"the alias *{name} stands inside the value that it repeats"
            absent = f"the alias *{name} has no anchor &{name} before it{near}"
            self._refuse(event, inside if name in self.anchors else absent, path)
            return None
        if len(self.order) + anchor.end - anchor.start > MAX_VALUES:
            raise self._stop(
                event, f"the aliases up to here expand to more than {MAX_VALUES} values"
            )
        for inner in self.order[anchor.start + 1 : anchor.end]:
            copy = (*path, *inner[len(anchor.path) :])
            if len(copy) > MAX_DEPTH:
                raise self._stop(event, f"nested deeper than {MAX_DEPTH} levels")
            self.result.keys[copy] = self.result.keys[inner]
            self.result.values[copy] = self.result.values[inner]
            self.order.append(copy)
        return anchor.data

    def _scalar(self, event: yaml.ScalarEvent, path: Where) -> Any:
        text = event.value
        if re.search("[\ud800-\udfff]", text):
            self._refuse(event, "a surrogate escape is no character", path)
            return ""
        if event.tag and event.tag != "!":
            return self._tagged(event, event.tag, path)
        if event.tag == "!" or not event.implicit[0]:
            return text
        if (INT.fullmatch(text) or FLOAT.fullmatch(text)) and len(text) > MAX_NUMBER_LENGTH:
            self._refuse(
                event, f"a number of {len(text)} digits; put it in quotes if it is a text", path
            )
            return text
        return resolve_plain(text)

    def _tagged(self, event: yaml.ScalarEvent, tag: str, path: Where) -> Any:
        """An explicit core tag says what the text is, quoted or not."""
        text, kind = event.value, tag.removeprefix(TAG)
        if kind == "str" and tag != kind:
            return text
        pattern = CORE.get(kind) if tag != kind else None
        if pattern is None:
            self._refuse(event, _bad_tag(tag), path)
        elif len(text) > MAX_NUMBER_LENGTH or not pattern.fullmatch(text):
            self._refuse(event, f"{shown(text)} is no value of the tag !!{kind}", path)
        else:
            return float(resolve_plain(text)) if kind == "float" else resolve_plain(text)
        return text


def resolve_plain(text: str) -> Any:
    """What an unquoted scalar means in YAML 1.2's core schema."""
    if NULL.fullmatch(text):
        return None
    if BOOL.fullmatch(text):
        return text[0] in "tT"
    if INT.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)
    if FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _position(event: yaml.Event) -> Position:
    mark = event.start_mark
    assert mark is not None, event
    return Position(mark.line + 1, mark.column + 1)


def _ends_at_once(event: yaml.Event) -> bool:
    start, end = event.start_mark, event.end_mark
    return (
        start is not None
        and end is not None
        and (start.line, start.column) == (end.line, end.column)
    )


def _bad_tag(tag: str) -> str:
    name = "!!" + tag.removeprefix(TAG) if tag.startswith(TAG) else tag
    return f"the tag {shown(name)} means nothing here; remove it"


# What PyYAML's two scanners say (a part of it), and what it means to somebody who writes the file.
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
)
INDENT = ("did not find expected", "expected <block end>", "expected '<document start>'")


def _syntax_problem(error: yaml.MarkedYAMLError, text: str) -> Problem:
    mark, said = error.problem_mark or error.context_mark, error.problem or "unreadable"
    assert mark is not None, error
    lines = re.split(r"\r\n|[\r\n\x85\u2028\u2029]", text)
    line = lines[mark.line] if mark.line < len(lines) else ""
    tab = _tab_in_indent(line, mark.column)
    if tab is not None or "tab character" in said:
        words = "a tab; YAML forbids tabs for indentation, so use spaces"
        return Problem(mark.line + 1, (mark.column if tab is None else tab) + 1, words)
    opened = f"line {error.context_mark.line + 1}" if error.context_mark else "a line above"
    character = line[mark.column : mark.column + 1]
    if "unexpected end of stream" in said and error.context_mark:
        mark = error.context_mark
    for part, words in SYNTAX:
        if part in said:
            return Problem(
                mark.line + 1, mark.column + 1, words.format(opened=opened, character=character)
            )
    words = f"not valid YAML: {said}"
    if said.startswith(INDENT):
        words = "this line does not fit the indentation of the lines above it"
    return Problem(mark.line + 1, mark.column + 1, words)


def _tab_in_indent(line: str, column: int) -> int | None:
    """The column of a tab in the line's indentation or just at the place of the error."""
    indent = len(line) - len(line.lstrip())
    tab = line.find("\t", 0, indent)
    if tab < 0 and line[column : column + 1] == "\t":
        return column
    return tab if tab >= 0 else None
