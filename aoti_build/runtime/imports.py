"""Imports the modules that register an artifact's operators with torch and its types with pytree.

The manifest names them (`requires.imports`). They are imported by name from this process's own
`sys.path`, never from a path in an artifact, and only if something is not registered yet. Each
operator and type is looked up after the import. So another module of the same name causes an error
instead of a crash.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from aoti_build.errors import ArtifactError

ModuleEntry = Mapping[str, Any]
Imports = Sequence[ModuleEntry]


def import_registered(
    imports: Imports,
    target: str | None = None,
    *,
    allowed: bool = True,
) -> None:
    """Import the modules of a manifest that this process needs; none unless `allowed`.

    Raises `ArtifactError` if an operator or type is still missing. It names them and the module.
    """
    # Selected before the first import: one module may define an operator whose kernel another
    # module brings, and then both are needed.
    needed = [entry for entry in imports if _is_needed(entry)]
    if allowed:
        for entry in needed:
            _import(entry, target)
    for entry in imports:
        if entry["module"] in sys.modules:
            for name in entry["types"]:
                _register_if_named_tuple(entry["module"], name)
    for entry in imports:
        missing = _missing(entry)
        if missing:
            cause = _absence(entry["module"])
            raise _missing_error(entry, missing, target, cause)


def _is_needed(entry: ModuleEntry) -> bool:
    registers_something = entry["operators"] or entry["types"]
    return not registers_something or bool(_missing(entry))


def _import(entry: ModuleEntry, target: str | None) -> None:
    module = entry["module"]
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        last_line = traceback.format_exception_only(type(error), error)[-1].strip()
        cause = f"{module} does not import: {last_line}"
        missing = _missing(entry)
        raise _missing_error(entry, missing, target, cause) from error


def _absence(module: str) -> str:
    """Why something that a module registers is missing, although no import failed."""
    if module in sys.modules:
        return f"{module} is imported and does not register it"
    return f"imports=False, and nothing has imported {module}"


def _missing_error(
    entry: ModuleEntry,
    missing: Sequence[str],
    target: str | None,
    cause: str,
) -> ArtifactError:
    module = entry["module"]
    message = f"the artifact needs the module {module}, which cannot be imported"
    hint = f"install what has the module {module}, or put its directory on PYTHONPATH"
    if missing:
        message = f"the artifact needs {', '.join(missing)}, not registered in this process"
        hint += "; or import another module that registers it before the load"
    return ArtifactError(
        message,
        target=target,
        cause=cause,
        hint=hint,
    )


def _missing(entry: ModuleEntry) -> list[str]:
    """The operators and types of a module that are not registered in this process."""
    missing = []
    for name in entry["operators"]:
        if not _has_operator(name):
            missing.append(f"the operator {name}")
    for name in entry["types"]:
        if not _has_type(name):
            missing.append(f"the type {name}")
    return missing


def _has_operator(name: str) -> bool:
    namespace, _, qualified_name = name.partition("::")
    operator = qualified_name.partition(".")[0]  # without its overload
    return hasattr(getattr(torch.ops, namespace), operator)


def _has_type(name: str) -> bool:
    registered = getattr(pytree, "SERIALIZED_TYPE_TO_PYTHON_TYPE", None)
    if registered is None:  # a private table of torch: without it the load itself shows
        return True
    return name in registered


def _register_if_named_tuple(module: str, name: str) -> None:
    """Register a named tuple with pytree under the name that a package uses.

    torch knows every named tuple, but gives none a serialized name by itself.
    """
    if _has_type(name):
        return
    kind: Any = sys.modules[module]
    for part in name.removeprefix(f"{module}.").split("."):
        kind = getattr(kind, part, None)
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        register_named_tuple(kind)


def register_named_tuple(kind: type) -> None:
    """Give a named tuple its serialized name, unless it has one or torch has no such function."""
    register = getattr(pytree, "_register_namedtuple", None)
    if register is None:
        return
    if kind not in getattr(pytree, "SUPPORTED_SERIALIZED_TYPES", {}):
        register(kind, serialized_type_name=f"{kind.__module__}.{kind.__qualname__}")
