"""Parses the text of models.yaml into plain data, with the line and column of each key and value.

PyYAML's parser reads the syntax. This module composes its events to data instead of PyYAML's own
composer, which cannot report all problems at once. That composer stops at the first unknown alias
and at a repeated anchor, does not record the position of aliases, and returns nothing if a syntax
error follows. Merge keys and cycles are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import yaml

from aoti_build.errors import Problem, SpecError
from aoti_build.models_file.parsing.yaml_scalars import (
    SURROGATE,
    TAG_PREFIX,
    scalar_value,
    unsupported_tag,
)
from aoti_build.models_file.parsing.yaml_syntax import decoded, refuse_conflict, syntax_problem
from aoti_build.models_file.project import Position
from aoti_build.models_file.rules import RefusedError
from aoti_build.models_file.wording import SMALL_EXAMPLE, did_you_mean, in_words, nearest, quoted

# The keys and indices that lead from the root to a value.
FieldPath: TypeAlias = tuple[str | int, ...]

MAX_DEPTH = 64
# No real file has so many values, but a few lines with aliases of aliases expand to more.
MAX_VALUES = 100_000


@dataclass
class Node:
    """A value of the file, with its positions and its parts by key or index."""

    data: Any
    # PyYAML's marks of the key (or list item) and of the value. They are converted on demand,
    # because a Position is slow to make and most are never needed.
    key_mark: Any
    value_mark: Any
    parts: dict[str | int, Node] = field(default_factory=dict)

    @property
    def key(self) -> Position:
        """The position of the key, or of the list item."""
        return _position(self.key_mark)

    @property
    def value(self) -> Position:
        """The position of the value."""
        return _position(self.value_mark)

    @property
    def position(self) -> Position:
        """The position where a reader looks: the value if it begins on the key's line, else the
        key."""
        return self.value if self.value.line == self.key.line else self.key


@dataclass
class Document:
    """A parsed file. The data at each path in `broken` only stands in for an invalid value."""

    root: Node
    problems: list[Problem]
    broken: set[FieldPath]

    def at(self, path: FieldPath) -> Node:
        """Return the node at `path`. For an absent one, return None at the nearest key above it."""
        node = self.root
        for part in path:
            if part not in node.parts:
                return Node(None, node.key_mark, node.key_mark)
            node = node.parts[part]
        return node


def parse(content: str | bytes, file: str) -> Document:
    """Return the data of a YAML file, with the problems that did not stop the parser.

    Raises:
        SpecError: the file is not valid YAML, is empty, or has a merge conflict.
    """
    text = decoded(content, file)
    refuse_conflict(text, file)
    composer = _Composer(text, file)
    try:
        root = composer.document()
    # PyYAML's parser in Python lets errors of chr() for an impossible escape pass through.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        problems = [*composer.problems, syntax_problem(error, text)]
        raise SpecError(file, problems) from None
    if root is None or (root.data is None and not composer.problems):
        hint = f"write `version: 1` and a `models:` mapping:\n{SMALL_EXAMPLE}"
        raise SpecError(file, [Problem(1, 1, f"{file} is empty")], hint=hint)
    return Document(root, composer.problems, composer.broken)


def _position(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1)


class _Composer:
    """Composes the events of PyYAML's parser to nodes, and collects problems."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        # The parser in C is missing if PyYAML was built without libyaml.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self.events: Iterator[Any] = yaml.parse(text, Loader=loader)
        self.problems: list[Problem] = []
        self.broken: set[FieldPath] = set()
        self.anchors: dict[str, Node | None] = {}  # None: its value is not complete yet
        self.value_count = 0  # of values and keys, with aliases expanded

    def document(self) -> Node | None:
        """Return the value of the only document, or None if there is no document."""
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        root = self._node(next(self.events), ())
        next(self.events)  # the end of the document
        event = next(self.events)
        if isinstance(event, yaml.DocumentStartEvent):
            message = "a second document starts here, but a file can have only one; remove this"
            self._add_problem(event, f"{message} '---'")
        return root

    def _add_problem(self, event: Any, message: str, broken: FieldPath | None = None) -> None:
        """Add a problem at `event`. `broken` is the path of the value that it makes unusable."""
        mark = event.start_mark
        self.problems.append(Problem(mark.line + 1, mark.column + 1, message))
        if broken is not None:
            self.broken.add(broken)

    def _stop(self, event: Any, message: str) -> NoReturn:
        self._add_problem(event, message)
        raise SpecError(self.file, self.problems)

    def _node(self, event: Any, path: FieldPath, key_mark: Any = None) -> Node:
        """Compose the value that starts with `event`.

        `key_mark` is the position of its key. The default is the position of the value.
        """
        self._check_depth(event, len(path))
        self.value_count += 1
        start_mark = event.start_mark
        is_empty = event.end_mark.index == start_mark.index
        node = Node(None, key_mark or start_mark, start_mark)
        if isinstance(event, yaml.AliasEvent):
            self._fill_from_anchor(node, event, path)
            return node
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node.data = self._scalar(event, path)
            if is_empty:  # as in `key:`, where the key shows the user where to write the value
                node.value_mark = node.key_mark
        elif isinstance(event, yaml.SequenceStartEvent):
            self._fill_list(node, event, path)
        else:
            self._fill_mapping(node, event, path)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _check_depth(self, event: Any, depth: int) -> None:
        if depth > MAX_DEPTH:
            self._stop(event, f"values are nested deeper than {MAX_DEPTH} levels")

    def _scalar(self, event: Any, path: FieldPath) -> Any:
        tag = event.tag
        if tag is None and not event.implicit[0]:  # the scalar is in quotes
            tag = "!"
        try:
            return scalar_value(event.value, tag)
        except RefusedError as error:
            self._add_problem(event, str(error), path)
            return SURROGATE.sub("", event.value)

    def _check_collection_tag(self, event: Any, name: str, path: FieldPath) -> None:
        if event.tag not in (None, "!", TAG_PREFIX + name):
            self._add_problem(event, unsupported_tag(event.tag), path)

    def _fill_list(self, node: Node, event: Any, path: FieldPath) -> None:
        self._check_collection_tag(event, "seq", path)
        for index, item_event in enumerate(self._events_until(yaml.SequenceEndEvent)):
            node.parts[index] = self._node(item_event, (*path, index))
        node.data = [part.data for part in node.parts.values()]

    def _fill_mapping(self, node: Node, event: Any, path: FieldPath) -> None:
        self._check_collection_tag(event, "map", path)
        for key_event in self._events_until(yaml.MappingEndEvent):
            key_mark = key_event.start_mark
            name = self._key_name(key_event, path, node.parts)
            value_event = next(self.events)
            if name is None:
                # The value must be read, but it belongs to no path.
                self._node(value_event, (*path, -1), key_mark)
            else:
                node.parts[name] = self._node(value_event, (*path, name), key_mark)
        node.data = {name: part.data for name, part in node.parts.items()}

    def _events_until(self, end: type) -> Iterator[Any]:
        """Yield the event that starts each item. The caller must consume the rest of the item."""
        event = next(self.events)
        while not isinstance(event, end):
            yield event
            event = next(self.events)

    def _key_name(self, event: Any, path: FieldPath, entries: dict[str | int, Node]) -> str | None:
        """Return the name of the key that starts with `event`, or None if the key is invalid.

        `entries` are the earlier entries of the same mapping.
        """
        problem_count = len(self.problems)
        name = self._node(event, (*path, -1)).data
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
            message = (
                "merge keys (<<) are not part of YAML 1.2; write the keys out, or use an alias for"
                " an entire value"
            )
            # The mapping is broken, so that the keys which the merge would add are not reported as
            # missing.
            self._add_problem(event, message, path)
        elif isinstance(name, str):
            if name not in entries:
                return name
            line = entries[name].key.line
            message = f"duplicate key {quoted(name)}; line {line} already has it, so remove one"
            self._add_problem(event, message)
        elif len(self.problems) == problem_count:  # else the key has a problem already
            advice = "; put it in quotes" if isinstance(name, (bool, int, float)) else ""
            self._add_problem(event, f"a key must be a string, not {in_words(name)}{advice}")
        return None

    def _fill_from_anchor(self, node: Node, event: Any, path: FieldPath) -> None:
        """Give the node of an alias the data of its anchor."""
        name = event.anchor
        anchored = self.anchors.get(name)
        if anchored is not None:
            node.data = anchored.data
            node.parts = anchored.parts
            self._count_values(node, event, len(path))
        elif name in self.anchors:
            message = f"the alias *{name} is inside the value of its anchor &{name}; remove it"
            self._add_problem(event, message, path)
        else:
            suggestion = did_you_mean(nearest(name, self.anchors))
            message = f"the alias *{name} has no anchor &{name} before it{suggestion}"
            self._add_problem(event, message, path)

    def _count_values(self, node: Node, event: Any, depth: int) -> None:
        """Count the values below an alias again, because later code visits them again."""
        self._check_depth(event, depth)
        if self.value_count > MAX_VALUES:
            message = f"the aliases up to here expand to more than {MAX_VALUES} values"
            self._stop(event, f"{message}; use fewer aliases")
        for part in node.parts.values():
            self.value_count += 1
            self._count_values(part, event, depth + 1)
