"""Importing what an artifact needs: modules that register its operators with torch, and its types
with pytree.

The manifest names them (`requires.imports`). They are names of modules in this process's own path;
nothing is imported from a place that an artifact names, and nothing at all where everything is
registered already. After the import each operator and type is looked for, so that a module of the
same name that does something else is an error and no crash.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from aoti_build.errors import ArtifactError

Imports = Sequence[Mapping[str, Any]]


def import_registered(imports: Imports, target: str | None = None, *, allowed: bool = True) -> None:
    """Import the modules of a manifest that this process needs. With `allowed` off none is
    imported.

    Raises `ArtifactError`, which names module, operators and types, if something is still missing.
    """
    # Before the first import: one module may define an operator that another one gives its kernel.
    wanted = [
        entry for entry in imports if _missing(entry) or not (entry["operators"] or entry["types"])
    ]
    for entry in wanted if allowed else ():
        _import(entry, target)
    for entry in imports:
        if entry["module"] in sys.modules:
            for name in entry["types"]:
                _name_tuple(entry["module"], name)
    for entry in imports:
        if missing := _missing(entry):
            is_here = entry["module"] in sys.modules
            not_here = f"imports=False, and nothing has imported {entry['module']}"
            why = f"{entry['module']} is imported and does not register it" if is_here else not_here
            raise _lacks(entry, missing, target, why)


def _import(entry: Mapping[str, Any], target: str | None) -> None:
    try:
        importlib.import_module(entry["module"])
    except (
        Exception,
        SystemExit,
    ) as error:  # code of somebody's own, which raises whatever it likes
        said = traceback.format_exception_only(type(error), error)[-1].strip()
        raise _lacks(
            entry, _missing(entry), target, f"{entry['module']} does not import: {said}"
        ) from error


def _lacks(
    entry: Mapping[str, Any], missing: Iterable[str], target: str | None, cause: str
) -> ArtifactError:
    module = entry["module"]
    wanted = ", ".join(missing)
    return ArtifactError(
        f"{wanted or module} is not here, which the artifact needs",
        target=target,
        cause=cause,
        hint=f"install what has the module {module}, or put its directory on PYTHONPATH"
        + ("; or import whatever else registers it before the load" if wanted else ""),
    )


def _missing(entry: Mapping[str, Any]) -> list[str]:
    """Of what a module registers, what is not registered in this process."""
    operators = [f"the operator {name}" for name in entry["operators"] if not _has_operator(name)]
    return operators + [f"the type {name}" for name in entry["types"] if not _has_type(name)]


def _has_operator(name: str) -> bool:
    namespace, _, rest = name.partition("::")
    return hasattr(getattr(torch.ops, namespace), rest.partition(".")[0])


def _has_type(name: str) -> bool:
    known = getattr(pytree, "SERIALIZED_TYPE_TO_PYTHON_TYPE", None)
    return known is None or name in known


def _name_tuple(module: str, name: str) -> None:
    """Let pytree find a named tuple: torch knows all of them, and gives none the name that a
    package has."""
    if _has_type(name):
        return
    kind: Any = sys.modules[module]
    for part in name.removeprefix(f"{module}.").split("."):
        kind = getattr(kind, part, None)
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        register_named_tuple(kind)


def register_named_tuple(kind: type) -> None:
    """No-op where it has a name already, and where torch has no such function."""
    register = getattr(pytree, "_register_namedtuple", None)
    if register is not None and kind not in getattr(pytree, "SUPPORTED_SERIALIZED_TYPES", {}):
        register(kind, serialized_type_name=f"{kind.__module__}.{kind.__qualname__}")
