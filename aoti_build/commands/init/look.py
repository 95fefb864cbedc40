"""Looks for models in a repository: reads the source, and imports nothing.

A candidate is a factory function or a class of modules. Its input is guessed from the first layer
with a known size.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias

from aoti_build.common.python_files import python_files

_MOST_FILES = 2000
_LARGEST_FILE = 1 << 20  # bytes
_SKIPPED_DIRECTORIES = frozenset({"artifacts", "build", "dist", "docs", "site-packages"})
_TESTS = re.compile(r"tests?|(test|conftest|setup|tasks|noxfile)(_.*)?\.py|.*_test\.py")
_FACTORY_NAME = re.compile(r"(build|create|get|load|make)(_.*)?|(.*_)?model")
# Names of files that say nothing about the model in them.
_GENERAL_NAMES = frozenset({"__init__", "arch", "main", "model", "models", "module", "net", "nets"})
Function: TypeAlias = ast.FunctionDef


class Tensor(NamedTuple):
    """An example input. `high` is the end of the range of integers."""

    shape: tuple[int | str, ...]
    dtype: str = "float32"
    high: int | None = None


UNKNOWN_TENSOR = Tensor((1, 8))


@dataclass(frozen=True)
class Candidate:
    """A callable that seems to make a model.

    Attributes:
        source: how models.yaml names it.
        name: a name for the model.
        place: its file, relative to the root, and the line.
        tensor: what the first layer seems to take; None if no layer tells.
        required: parameters without a default.
        in_src: whether the module is below ``src/``.
        rank: candidates with a lower one are more likely.
    """

    source: str
    name: str
    place: str
    tensor: Tensor | None
    required: tuple[str, ...]
    in_src: bool
    rank: tuple[int, ...]


def find_candidates(root: Path) -> tuple[Candidate, ...]:
    """The candidates below `root`, the most likely first."""
    has_src = (root / "src").is_dir() and not (root / "src" / "__init__.py").exists()
    found: list[Candidate] = []
    for path in _python_files(root):
        module = _parsed(path)
        if module is not None:
            found += _File(root, path, module, has_src).candidates()
    return tuple(sorted(found, key=lambda candidate: (candidate.rank, candidate.source)))


def _python_files(root: Path) -> Iterator[Path]:
    def is_skipped(path: Path) -> bool:
        is_test = _TESTS.fullmatch(path.name) is not None
        return is_test or path.name in _SKIPPED_DIRECTORIES

    return islice(python_files(root, is_skipped), _MOST_FILES)


def _parsed(path: Path) -> ast.Module | None:
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_FILE:
            return None
        return ast.parse(path.read_bytes())
    # A file for another Python, or none at all.
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class _File:
    """One parsed file."""

    def __init__(self, root: Path, path: Path, module: ast.Module, has_src: bool) -> None:
        self._path = path.relative_to(root)
        self._root = root
        self._module = module
        self._in_src = has_src and self._path.parts[0] == "src"
        self._classes = _module_classes(module)
        # Classes that other code of the file calls are parts of models, or made by a factory.
        self._called = set()
        for statement in module.body:
            for node in ast.walk(statement):
                if isinstance(node, ast.Call):
                    name = _dotted(node.func)
                    if name != getattr(statement, "name", None):
                        self._called.add(name)

    def candidates(self) -> Iterator[Candidate]:
        for statement in self._module.body:
            if isinstance(statement, ast.ClassDef) and statement.name in self._classes:
                if not statement.name.startswith("_"):
                    yield self._of_class(statement)
            elif isinstance(statement, Function) and self._makes_module(statement):
                yield self._of_function(statement)

    def _of_class(self, statement: ast.ClassDef) -> Candidate:
        required = _required(_initializer(statement), skipped=1)
        rank = (len(required) > 0, statement.name in self._called, 1, 0)
        return self._candidate(statement, required, rank)

    def _of_function(self, statement: Function) -> Candidate:
        required = _required(statement)
        rank = (len(required) > 0, False, 0, statement.name != "build")
        return self._candidate(statement, required, rank)

    def _candidate(
        self,
        statement: ast.ClassDef | Function,
        required: tuple[str, ...],
        rank: Sequence[int],
    ) -> Candidate:
        return Candidate(
            source=f"{self._location()}:{statement.name}",
            name=self._name(statement),
            place=f"{self._path.as_posix()}:{statement.lineno}",
            tensor=self._input_of(statement, set()),
            required=required,
            in_src=self._in_src,
            rank=tuple(map(int, rank)),
        )

    def _input_of(self, node: ast.AST, seen: set[str]) -> Tensor | None:
        """The guessed input of a function or a class, or else of the classes that it calls."""
        tensor = first_input(node)
        for name in _called_names(node):
            if tensor is None and name in self._classes and name not in seen:
                seen.add(name)
                tensor = self._input_of(self._classes[name], seen)
        return tensor

    def _location(self) -> str:
        """The module if it can be imported, else the path."""
        parts = list(self._path.with_suffix("").parts)
        if self._in_src:
            parts = parts[1:]
        if parts[-1] == "__init__":
            parts = parts[:-1]
        packages = [self._root.joinpath(*self._path.parts[: i + 1]) for i in range(len(parts) - 1)]
        is_package = self._in_src or all((path / "__init__.py").exists() for path in packages)
        if parts and is_package and all(part.isidentifier() for part in parts):
            return ".".join(parts)
        return self._path.as_posix()

    def _name(self, statement: ast.ClassDef | Function) -> str:
        if isinstance(statement, ast.ClassDef):
            return statement.name.lower()
        stem = self._path.stem
        if stem not in _GENERAL_NAMES:
            return stem
        parent = self._path.parent.name
        return parent if parent not in ("", "src") else "model"

    def _makes_module(self, statement: Function) -> bool:
        if statement.name.startswith("_"):
            return False
        annotation = _dotted(statement.returns) if statement.returns is not None else ""
        if annotation:
            return annotation in self._classes or _is_module_class(annotation)
        makers = set(_called_names(statement))
        returned = makers & {*self._classes, "nn.Sequential", "torch.nn.Sequential"}
        return bool(returned) and _FACTORY_NAME.fullmatch(statement.name) is not None


def first_input(node: ast.AST) -> Tensor | None:
    """What the first layer with a known size takes, in the order of the source."""
    defaults = {}
    calls = []
    for inner in ast.walk(node):
        if isinstance(inner, Function):
            defaults.update(_defaults(inner))
        elif isinstance(inner, ast.Call) and inner.args:
            calls.append(inner)
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        size = call.args[0]
        number = defaults.get(size.id) if isinstance(size, ast.Name) else _integer(size)
        layer = _dotted(call.func).rpartition(".")[2]
        if number is None:
            continue
        if layer == "Linear":
            return Tensor((1, number))
        if layer == "Embedding":
            return Tensor((1, 16), "int64", number)
        if layer in ("Conv1d", "Conv2d", "Conv3d"):
            edges = {"Conv1d": (128,), "Conv2d": (224, 224), "Conv3d": (16, 112, 112)}
            return Tensor((1, number, *edges[layer]))
    return None


def _module_classes(module: ast.Module) -> dict[str, ast.ClassDef]:
    """The classes of a file that are modules, by name, in the order of the file."""
    classes: dict[str, ast.ClassDef] = {}
    for statement in module.body:
        if isinstance(statement, ast.ClassDef):
            bases = [_dotted(base) for base in statement.bases]
            if any(base in classes or _is_module_class(base) for base in bases):
                classes[statement.name] = statement
    return classes


def _is_module_class(name: str) -> bool:
    return name in ("Module", "nn.Module", "torch.nn.Module", "nn.Sequential", "LightningModule")


def _called_names(node: ast.AST) -> list[str]:
    calls = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    return [_dotted(call.func) for call in calls]


def _initializer(statement: ast.ClassDef) -> Function | None:
    for inner in statement.body:
        if isinstance(inner, Function) and inner.name == "__init__":
            return inner
    return None


def _required(function: Function | None, skipped: int = 0) -> tuple[str, ...]:
    """The names of parameters without a default, after the first `skipped` ones."""
    if function is None:
        return ()
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    without = len(positional) - len(arguments.defaults)
    names = [argument.arg for argument in positional[:without]][skipped:]
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is None:
            names.append(argument.arg)
    return tuple(names)


def _defaults(function: Function) -> dict[str, int]:
    """The integers among the default values, by parameter."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    values: dict[str, int] = {}
    pairs = list(zip(reversed(positional), reversed(arguments.defaults), strict=False))
    for argument, default in pairs:
        number = _integer(default)
        if number is not None:
            values[argument.arg] = number
    return values


def _integer(node: ast.AST) -> int | None:
    if isinstance(node, ast.Constant) and type(node.value) is int and 0 < node.value < 1 << 31:
        return node.value
    return None


def _dotted(node: ast.AST) -> str:
    """``a.b.c`` of an expression of names; empty for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        parent = _dotted(node.value)
        return f"{parent}.{node.attr}" if parent else ""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value  # an annotation in quotes
    return ""
