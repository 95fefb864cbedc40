"""Reads the values of a parsed document that have no problem so far, and collects problems.

After a problem the parser continues with stand-in values, to report all problems at once. The
stand-ins never leave the parser, because it raises an error if there is any problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from aoti_build.errors import Problem, with_task_names
from aoti_build.models_file import rules
from aoti_build.models_file.agreements import Complaints
from aoti_build.models_file.parsing.field_types import YamlMapping
from aoti_build.models_file.parsing.yaml_document import Document, FieldPath
from aoti_build.models_file.wording import quoted

MappingT = TypeVar("MappingT", bound=YamlMapping)
ResultT = TypeVar("ResultT")


class BrokenPaths:
    """A set of paths to invalid values. A query takes a time that depends on the depth only."""

    def __init__(self, paths: Iterable[FieldPath]) -> None:
        self._paths: set[FieldPath] = set()
        self._parents: set[FieldPath] = set()  # every path above a broken one
        for path in paths:
            self.add(path)

    def add(self, path: FieldPath) -> None:
        self._paths.add(path)
        for length in range(len(path)):
            self._parents.add(path[:length])

    def include(self, path: FieldPath) -> bool:
        """Return whether `path`, or a path above it, is broken."""
        return any(path[:length] in self._paths for length in range(len(path) + 1))

    def are_below(self, path: FieldPath) -> bool:
        """Return whether a path below `path` is broken."""
        return path in self._parents


class DocumentReader:
    """Reads one document.

    `problems` grows while the parser works. `broken` has the paths of values that are invalid, and
    that the parser therefore does not look at again.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.data = document.root.data
        self.problems = list(document.problems)
        self.broken = BrokenPaths(document.broken)

    def add(self, path: FieldPath, message: str, *, at_key: bool = False) -> None:
        """Add a problem at the value of `path`, or at its key."""
        node = self.document.at(path)
        position = node.key if at_key else node.value
        text = with_task_names(message)
        self.problems.append(Problem(position.line, position.column, text))

    def add_complaints(self, path: FieldPath, complaints: Complaints) -> None:
        """Add a problem for each complaint about a field of the mapping at `path`."""
        for field, message in complaints:
            self.add((*path, field), message)

    def is_sound(self, path: FieldPath) -> bool:
        """Return whether neither `path` nor a value above it is invalid."""
        return not self.broken.include(path)

    def is_sound_throughout(self, path: FieldPath) -> bool:
        """Return whether neither `path` nor a value above or below it is invalid."""
        return self.is_sound(path) and not self.broken.are_below(path)

    def get(self, path: FieldPath, default: Any = None) -> Any:
        """Return the data at `path`, or `default` if it is absent or any part of it is invalid."""
        if self.broken.are_below(path):
            return default
        return self.get_collection(path, default)

    def get_collection(self, path: FieldPath, default: Any = None) -> Any:
        """Return the data at `path`, or `default` if it is absent or invalid.

        Unlike with `get`, entries of the data may be invalid.
        """
        if not self.is_sound(path):
            return default
        data = self.data
        for part in path:
            if isinstance(data, dict) and part not in data:
                return default
            data = data[part]
        return data

    def keys(self, path: FieldPath) -> list[str]:
        """Return the keys of the mapping at `path`, which may have invalid values."""
        return list(self.get_collection(path, {}))

    def read(self, mapping_type: type[MappingT], path: FieldPath) -> MappingT | None:
        """Return the mapping at `path` as its type, or None if it is absent or invalid."""
        data = self.get(path)
        if data is None:
            return None
        return mapping_type.model_validate(data)

    def read_text(self, path: FieldPath, rule: Callable[[str], ResultT]) -> ResultT | None:
        """Return the result of `rule` for the text at `path`.

        Return None if the text is absent or invalid, or if the rule refuses it.
        """
        text = self.get(path)
        if text is None:
            return None
        try:
            return rule(text)
        except rules.RefusedError as error:
            self.add(path, str(error))
            return None

    def read_json(self, path: FieldPath) -> dict[str, Any]:
        """Return a mapping with free content. It is recorded as JSON, so it must be finite."""
        data: dict[str, Any] = self.get(path, {})
        self.check_finite(data, path)
        return data

    def check_finite(self, data: Any, path: FieldPath) -> None:
        """Add a problem for each nan and infinity in the data at `path`."""
        for bad_path in rules.not_finite(data, path):
            message = (
                "nan and inf are not allowed here, because the value is recorded as JSON; write a"
                " finite number"
            )
            self.add(bad_path, message)

    def check_repeats(self, path: FieldPath, names: Sequence[object]) -> None:
        """Add a problem for each name that the list at `path` contains a second time."""
        earlier_names: set[str] = set()
        for index, name in enumerate(names):
            if not isinstance(name, str):
                continue  # its type is reported already
            if name in earlier_names:
                self.add((*path, index), f"{quoted(name)} is listed twice; remove one")
            earlier_names.add(name)
