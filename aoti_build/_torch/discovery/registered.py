"""Which modules register operators with torch and types with pytree, seen while user code is
imported.

A package only names them: who loads it must have imported the same modules. A registration belongs
to the module whose body was being run, the innermost one, however many helpers lie between; so
importing that module again, in another process, registers again. What a function registers that is
called later belongs to nobody's import.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from aoti_build.errors import BuildError

_OWN = "aoti_build._torch."
# Kernels that no compiled package runs: it makes no gradients, casts nothing by itself, and traces
# nothing.
_NEVER_RUN = ("Meta", "Autograd", "Autocast", "Functionalize", "ADInplaceOrView", "Python")


def operator_names() -> frozenset[str]:
    """Every operator that is registered, without the names of overloads."""
    return frozenset(name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names())


@dataclass
class Registrations:
    """Watches from its creation on. `operators` and `types` say for each name which modules
    registered it; None among them stands for a call that no import makes."""

    operators: dict[str, list[str | None]] = field(default_factory=dict)
    types: dict[type, str | None] = field(default_factory=dict)
    # Registered before, by torch itself.
    known: frozenset[str] = field(default_factory=operator_names)

    def __post_init__(self) -> None:
        _before(torch.library.Library, "define", self._on_define)
        _before(torch.library.Library, "impl", self._on_impl)
        _around_loading(self._on_load)
        # What register_pytree_node, both register_dataclass and libraries with an older torch in
        # mind come to.
        _before(pytree, "_private_register_pytree_node", self._on_type)

    def _on_define(self, library: Any, schema: str, *_: Any, **__: Any) -> None:
        self._note(_qualified(library.ns, schema.partition("(")[0]), registering_module())

    def _on_impl(
        self, library: Any, operator: Any, *rest: Any, dispatch_key: str = "", **_: Any
    ) -> None:
        key = rest[1] if len(rest) > 1 else dispatch_key
        if str(key or library.dispatch_key).startswith(_NEVER_RUN):
            return
        name = operator.name() if hasattr(operator, "name") else str(operator)
        self._note(_qualified(library.ns, name), registering_module())

    def _on_load(self, new: frozenset[str]) -> None:
        for name in new:
            self._note(name, registering_module())

    def _on_type(self, kind: type, *_: Any, **__: Any) -> None:
        self.types.setdefault(kind, registering_module())

    def _note(self, name: str, module: str | None) -> None:
        modules = self.operators.setdefault(name.partition(".")[0], [])
        if module not in modules:
            modules.append(module)

    def refuse_unimportable(self, targets: Iterable[Any], where: str) -> None:
        """Raise `BuildError` if one of the operators is registered by no import: nothing that loads
        the package could have it."""
        for target in targets:
            name = (
                target.name().partition(".")[0] if isinstance(target, torch._ops.OpOverload) else ""
            )
            if name not in self.known and self.operators.get(name) == [None]:
                raise BuildError(
                    f"the operator {name} is registered by a function that the model's source"
                    " calls",
                    where=where,
                    cause="whoever loads the artifact imports modules and calls no such function",
                    hint="register it at the top level of a module",
                )

    def modules_of(self, operator: str) -> list[str | None]:
        """The modules to import for an operator such as ``torchvision::nms``; none for one of
        torch's own."""
        name = operator.partition(".")[0]
        if found := self.operators.get(name):
            return found
        if name in self.known:
            return []
        extension = next(
            (module for module, path in extension_modules() if holds(path, name)), None
        )
        return [extension or name.partition("::")[0]]

    def module_of_type(self, kind: type) -> str | None:
        """The module to import for a type; where it was registered before this began, or in a way
        that is not seen, the one that defines it."""
        return self.types.get(kind, kind.__module__)


def registering_module() -> str | None:
    """The module whose body is being run, the innermost one; None if what runs was called by this
    worker itself."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith(_OWN) and name != __name__:
            return None
        if frame.f_code.co_name == "<module>":
            return None if name == "__main__" else str(name)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def extension_modules() -> Iterator[tuple[str, Path]]:
    """Imported modules of native code that are not torch's, each with its file."""
    own = str(Path(torch.__file__).parent)
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if (
            isinstance(path, str)
            and path.endswith(tuple(EXTENSION_SUFFIXES))
            and not path.startswith(own)
        ):
            yield name, Path(path)


def libraries_with(operators: Iterable[str]) -> list[Path]:
    """Shared libraries in this process that seem to register any of `operators`: those that have
    its names."""
    loaded = [Path(path) for path in getattr(torch.ops, "loaded_libraries", ())]
    candidates = dict.fromkeys([*loaded, *(path for _, path in extension_modules())])
    names = [operator.partition(".")[0] for operator in operators]
    return [path for path in candidates if any(holds(path, name) for name in names)]


def holds(path: Path, operator: str) -> bool:
    """Whether a library has both parts of an operator's name in it: the namespace as a whole text
    of C, the rest as one or at the head of a schema."""
    namespace, _, name = (part.encode() for part in operator.partition("::"))
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            parts = ((namespace + b"\0",), (name + b"(", name + b"\0"))
            return all(any(content.find(form) >= 0 for form in forms) for forms in parts)
    except (OSError, ValueError):  # ValueError: an empty file
        return False


def _qualified(namespace: str, name: str) -> str:
    return name if "::" in name else f"{namespace}::{name}"


def _before(owner: Any, name: str, note: Callable[..., None]) -> None:
    """Let `note` see every call of a function, with its arguments. A torch that has no such
    function is left alone."""
    original = getattr(owner, name, None)
    if original is None:
        return

    @wraps(original)
    def noted(*args: Any, **kwargs: Any) -> Any:
        note(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(owner, name, noted)


def _around_loading(note: Callable[[frozenset[str]], None]) -> None:
    """Let `note` see what each library brings that torch.ops.load_library loads."""
    owner = type(torch.ops)
    original = owner.load_library

    @wraps(original)
    def noted(self: Any, path: Any) -> Any:
        before = operator_names()
        try:
            return original(self, path)
        finally:
            note(operator_names() - before)

    owner.load_library = noted  # type: ignore[method-assign]


def needed_imports(
    registrations: Registrations,
    operators: Iterable[str],
    types: Mapping[str, type],
    declared: Iterable[str],
) -> list[dict[str, Any]]:
    """The modules that whoever loads the package imports, in order, each with the `operators` and
    `types` that it registers: those that models.yaml names, whatever they register, then those that
    were found."""
    found: dict[str, dict[str, list[str]]] = {
        name: {"operators": [], "types": []} for name in declared
    }

    def add(module: str | None, kind: str, name: str) -> None:
        if module is not None:
            found.setdefault(module, {"operators": [], "types": []})[kind].append(name)

    for operator in sorted(operators):
        for module in registrations.modules_of(operator):
            add(module, "operators", operator)
    for name, one in sorted(types.items()):
        add(registrations.module_of_type(one) or one.__module__, "types", name)
    return [{"module": module, **names} for module, names in found.items()]
