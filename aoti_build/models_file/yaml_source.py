"""models.yaml as text -> plain data, with the line and column of every key and value.

PyYAML's parser does the syntax; its events are composed here. PyYAML's own composer does not do: it
stops at the first unknown alias and at an anchor that is used again, forgets where an alias stands,
and loses all that it has read when a syntax error follows. Merge keys and cycles are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from aoti_build.errors import Problem, SpecError
from aoti_build.models_file.project import Position
from aoti_build.models_file.rules import RefusedError
from aoti_build.models_file.wording import SMALL_EXAMPLE, did_you_mean, in_words, nearest, shown
from aoti_build.models_file.yaml_scalars import SURROGATE, TAG, bad_tag, scalar_value
from aoti_build.models_file.yaml_syntax import decoded, syntax_problem

Where = tuple[str | int, ...]

MAX_DEPTH = 64
# More values than any file of models has; aliases of aliases reach it within a few lines.
MAX_VALUES = 100_000


@dataclass
class Node:
    """A value of the file: its data, where its key (or list item) and the value itself start, and
    its parts by key or index."""

    data: Any
    key_mark: Any  # PyYAML's marks; a Position takes time, and few are asked for
    value_mark: Any
    parts: dict[str | int, Node] = field(default_factory=dict)

    @property
    def key(self) -> Position:
        return Position(self.key_mark.line + 1, self.key_mark.column + 1)

    @property
    def value(self) -> Position:
        return Position(self.value_mark.line + 1, self.value_mark.column + 1)

    @property
    def seen(self) -> Position:
        """Where a reader looks for it: at the value if that starts on the key's line, else at the
        key."""
        return self.value if self.value.line == self.key.line else self.key


@dataclass
class Document:
    """A parsed file. `broken` are the paths of values whose data is only a stand-in."""

    root: Node
    problems: list[Problem]
    broken: set[Where]

    def at(self, path: Where) -> Node:
        """The value at `path`; for a path that is absent, nothing at the nearest enclosing key."""
        node = self.root
        for part in path:
            if part not in node.parts:
                return Node(None, node.key_mark, node.key_mark)
            node = node.parts[part]
        return node


def parse(content: str | bytes, file: str) -> Document:
    """The data of a YAML file. Raises SpecError if it is no YAML; other problems come with the
    document."""
    text = decoded(content, file)
    composer = _Composer(text, file)
    problems = composer.problems
    try:
        root = composer.document()
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The scanner in Python passes on what chr() says of an impossible escape.
        raise SpecError(file, [*problems, syntax_problem(error, text)]) from None
    if root is None or (root.data is None and not problems):
        hint = f"write `version: 1` and a `models:` mapping:\n{SMALL_EXAMPLE}"
        raise SpecError(file, [Problem(1, 1, f"{file} is empty")], hint=hint)
    return Document(root, problems, composer.broken)


class _Composer:
    """Makes nodes of parser events; `problems` and `broken` grow as it goes."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self.events: Iterator[Any] = yaml.parse(text, Loader=loader)
        self.problems: list[Problem] = []
        self.broken: set[Where] = set()
        self.anchors: dict[str, Node | None] = {}  # None: still being composed
        self.count = 0  # of the values and keys so far, with aliases written out

    def document(self) -> Node | None:
        """The value of the one document; None if there is none."""
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        root = self._node(next(self.events), ())
        next(self.events)  # the end of the document
        if isinstance(event := next(self.events), yaml.DocumentStartEvent):
            text = "a second document starts here; one file holds one document"
            self._refuse(event, f"{text}, so remove this '---'")
        return root

    def _refuse(self, event: Any, text: str, broken: Where | None = None) -> None:
        mark = event.start_mark
        self.problems.append(Problem(mark.line + 1, mark.column + 1, text))
        if broken is not None:
            self.broken.add(broken)

    def _stop(self, event: Any, text: str) -> NoReturn:
        self._refuse(event, text)
        raise SpecError(self.file, self.problems)

    def _node(self, event: Any, path: Where, key_mark: Any = None) -> Node:
        """The value that starts with `event`; `key_mark` is where its key stands, if it has one."""
        self._check_depth(event, len(path))
        self.count += 1
        start, end = event.start_mark, event.end_mark
        node = Node(None, key_mark or start, start)
        if isinstance(event, yaml.AliasEvent):
            self._repeat(event, path, node)
            return node
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node.data = self._scalar(event, path)
            if end.index == start.index:  # a value that is absent stands at its key
                node.value_mark = node.key_mark
        else:
            self._fill(event, path, node)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _check_depth(self, event: Any, depth: int) -> None:
        if depth > MAX_DEPTH:
            self._stop(event, f"nested deeper than {MAX_DEPTH} levels")

    def _scalar(self, event: Any, path: Where) -> Any:
        tag = event.tag or (None if event.implicit[0] else "!")
        try:
            return scalar_value(event.value, tag)
        except RefusedError as refusal:
            self._refuse(event, str(refusal), path)
            return SURROGATE.sub("", event.value)

    def _fill(self, event: Any, path: Where, node: Node) -> None:
        """Read the entries of a list or mapping."""
        is_list = isinstance(event, yaml.SequenceStartEvent)
        if event.tag not in (None, "!", TAG + ("seq" if is_list else "map")):
            self._refuse(event, bad_tag(event.tag), path)
        if is_list:
            while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
                index = len(node.parts)
                node.parts[index] = self._node(event, (*path, index))
            node.data = [part.data for part in node.parts.values()]
            return
        aside = (*path, -1)  # the path of keys and refused entries: no path of real data
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            name, mark = self._name(event, path, node.parts), event.start_mark
            if name is None:
                self._node(next(self.events), aside, mark)
            else:
                node.parts[name] = self._node(next(self.events), (*path, name), mark)
        node.data = {name: part.data for name, part in node.parts.items()}

    def _name(self, event: Any, path: Where, entries: dict[str | int, Node]) -> str | None:
        """The name that the key at `event` gives to an entry; None if the key is refused."""
        problems = len(self.problems)
        name = self._node(event, (*path, -1)).data
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
            advice = "write the keys out, or use an alias for a whole value"
            # The keys that it would bring are not missed.
            self._refuse(event, f"merge keys (<<) are not part of YAML 1.2; {advice}", path)
        elif isinstance(name, str):
            if name not in entries:
                return name
            line = entries[name].key.line
            self._refuse(event, f"duplicate key {shown(name)}; it stands at line {line} already")
        elif len(self.problems) == problems:
            quotes = "; put it in quotes" if isinstance(name, (bool, int, float)) else ""
            self._refuse(event, f"a key must be a text, not {in_words(name)}{quotes}")
        return None

    def _repeat(self, event: Any, path: Where, node: Node) -> None:
        """Let the node of an alias hold what its anchor does."""
        anchor = event.anchor
        if repeated := self.anchors.get(anchor):
            node.data, node.parts = repeated.data, repeated.parts
            self._count_parts(event, len(path), node)
        elif anchor in self.anchors:
            text = f"the alias *{anchor} stands inside the value that it repeats"
            self._refuse(event, text, path)
        else:
            near = did_you_mean(nearest(anchor, self.anchors))
            text = f"the alias *{anchor} has no anchor &{anchor} before it{near}"
            self._refuse(event, text, path)

    def _count_parts(self, event: Any, depth: int, node: Node) -> None:
        """Count the values in the node of an alias once more: that is how many its readers see."""
        self._check_depth(event, depth)
        if self.count > MAX_VALUES:
            self._stop(event, f"the aliases up to here expand to more than {MAX_VALUES} values")
        for part in node.parts.values():
            self.count += 1
            self._count_parts(event, depth + 1, part)
