"""Records which modules register operators with torch and types with pytree while user code is
imported.

A package only names operators and types, so a process that loads it must have imported these
modules. A registration belongs to the innermost module whose body was running, whatever helpers
the body called. Another process that imports the module thus registers again. No import repeats
what a function registers that is called later.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import wraps
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from aoti_build.errors import BuildError

_WORKER_PACKAGE = "aoti_build._torch."
# A package runs no kernels of these dispatch keys: it makes no gradients, casts nothing by itself,
# and traces nothing.
_NEVER_RUN = (
    "Meta",
    "Autograd",
    "Autocast",
    "Functionalize",
    "ADInplaceOrView",
    "Python",
)


def operator_names() -> frozenset[str]:
    """The names of all registered operators, without those of overloads."""
    names = torch._C._dispatch_get_all_op_names()
    return frozenset(map(_without_overload, names))


@dataclass
class Registrations:
    """Records from its creation on, until this process ends.

    Attributes:
        operators: for each operator the modules that registered it or one of its kernels. None
            among them stands for a call outside all imports.
        types: for each type the module that registered it.
        initial_operators: the operators that were registered before, by torch itself.
    """

    operators: dict[str, list[str | None]] = field(default_factory=dict)
    types: dict[type, str | None] = field(default_factory=dict)
    initial_operators: frozenset[str] = field(default_factory=operator_names)

    def __post_init__(self) -> None:
        library = torch.library.Library
        _call_before(library, "define", self._on_define)
        _call_before(library, "impl", self._on_impl)
        _call_after_loading(self._on_load)
        # register_pytree_node, both functions register_dataclass, and libraries that support an
        # older torch all call this one.
        _call_before(pytree, "_private_register_pytree_node", self._on_type)

    def refuse_unimportable(self, targets: Iterable[Any], where: str) -> None:
        """Raise `BuildError` if no import registers one of the operators among `targets`."""
        for target in targets:
            if not isinstance(target, torch._ops.OpOverload):
                continue
            name = _without_overload(target.name())
            if name in self.initial_operators:
                continue
            modules = self.operators.get(name)
            if modules != [None]:
                continue
            raise BuildError(
                f"the operator {name} is registered by a function that the model's source calls",
                where=where,
                cause="a process that loads the artifact imports modules and calls no function",
                hint="register it at the top level of a module",
            )

    def modules_of(self, operator: str) -> list[str | None]:
        """The modules to import for an operator such as ``torchvision::nms``.

        torch's own operators need none.
        """
        name = _without_overload(operator)
        if name in self.operators:
            return self.operators[name]
        if name in self.initial_operators:
            return []
        for extension in extension_modules():
            if contains_operator(extension.file, name):
                return [extension.name]
        # The best guess. The process of the check tries it.
        namespace = name.partition("::")[0]
        return [namespace]

    def module_of_type(self, registered_type: type) -> str | None:
        """The module to import for a type; by default the one that defines it.

        The default is for types that were registered before this object existed, or natively.
        """
        return self.types.get(registered_type, registered_type.__module__)

    def _on_define(
        self,
        library: Any,
        schema: str,
        *_: Any,
        **__: Any,
    ) -> None:
        name = schema.partition("(")[0]
        self._add_operator(_qualified(library.ns, name))

    def _on_impl(
        self,
        library: Any,
        operator: Any,
        *rest: Any,
        dispatch_key: str = "",
        **_: Any,
    ) -> None:
        if len(rest) > 1:
            dispatch_key = rest[1]
        key = str(dispatch_key or library.dispatch_key)
        if key.startswith(_NEVER_RUN):
            return
        # It is an overload, or the name of one.
        name = operator.name() if hasattr(operator, "name") else str(operator)
        self._add_operator(_qualified(library.ns, name))

    def _on_load(self, names: frozenset[str]) -> None:
        for name in names:
            self._add_operator(name)

    def _on_type(self, registered_type: type, *_: Any, **__: Any) -> None:
        self.types.setdefault(registered_type, registering_module())

    def _add_operator(self, name: str) -> None:
        module = registering_module()
        modules = self.operators.setdefault(_without_overload(name), [])
        if module not in modules:
            modules.append(module)


def registering_module() -> str | None:
    """The innermost module whose body is running; None if this worker called the running code."""
    frame = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith(_WORKER_PACKAGE) and name != __name__:
            return None
        if frame.f_code.co_name == "<module>":
            return None if name == "__main__" else name
        frame = frame.f_back  # type: ignore[assignment]
    return None


class ExtensionModule(NamedTuple):
    """An imported module of native code."""

    name: str
    file: Path


def extension_modules() -> Iterator[ExtensionModule]:
    """The imported modules of native code, without torch's."""
    suffixes = tuple(EXTENSION_SUFFIXES)
    torch_directory = str(Path(torch.__file__).parent)
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if not isinstance(path, str) or not path.endswith(suffixes):
            continue
        if not path.startswith(torch_directory):
            yield ExtensionModule(name, Path(path))


def libraries_with(operators: Iterable[str]) -> list[Path]:
    """Shared libraries of this process that seem to register one of `operators`.

    These are the libraries that contain its names.
    """
    candidates: dict[Path, None] = {}
    for loaded in getattr(torch.ops, "loaded_libraries", ()):
        candidates[Path(loaded)] = None
    for extension in extension_modules():
        candidates[extension.file] = None
    names = [_without_overload(operator) for operator in operators]
    libraries = []
    for candidate in candidates:
        if any(contains_operator(candidate, name) for name in names):
            libraries.append(candidate)
    return libraries


def contains_operator(library: Path, operator: str) -> bool:
    """Whether a file contains both parts of an operator's name.

    The namespace is a complete C string. The name is one as well, or begins a schema.
    """
    namespace, _, name = operator.encode().partition(b"::")
    try:
        with (
            library.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            if content.find(namespace + b"\0") < 0:
                return False
            in_schema = content.find(name + b"(") >= 0
            return in_schema or content.find(name + b"\0") >= 0
    except (OSError, ValueError):
        # mmap raises ValueError for an empty file.
        return False


def _without_overload(operator: str) -> str:
    return operator.partition(".")[0]


def _qualified(namespace: str, name: str) -> str:
    return name if "::" in name else f"{namespace}::{name}"


def _call_before(owner: Any, name: str, note: Callable[..., None]) -> None:
    """Patch a function so that `note` gets the arguments of every call.

    Does nothing for a torch that has no such function.
    """
    original = getattr(owner, name, None)
    if original is None:
        return

    @wraps(original)
    def patched(*args: Any, **kwargs: Any) -> Any:
        note(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(owner, name, patched)


def _call_after_loading(note: Callable[[frozenset[str]], None]) -> None:
    """Patch torch.ops.load_library so that `note` gets the operators that a library registers."""
    owner = type(torch.ops)
    original = owner.load_library

    @wraps(original)
    def patched(self: Any, path: Any) -> Any:
        before = operator_names()
        try:
            return original(self, path)
        finally:
            note(operator_names() - before)

    owner.load_library = patched  # type: ignore[method-assign]


@dataclass
class _Import:
    """A module to import, and what it registers."""

    module: str
    operators: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)


def needed_imports(
    registrations: Registrations,
    operators: Iterable[str],
    types: Mapping[str, type],
    declared: Iterable[str],
) -> list[dict[str, Any]]:
    """The modules to import before a load, in order, with the `operators` and `types` of each.

    The modules that models.yaml declares come first, whatever they register. `types` are given by
    the names that the package has for them.
    """
    imports: dict[str, _Import] = {}

    def import_of(module: str) -> _Import:
        return imports.setdefault(module, _Import(module))

    for module in declared:
        import_of(module)
    for operator in sorted(operators):
        for origin in registrations.modules_of(operator):
            if origin is not None:
                import_of(origin).operators.append(operator)
    for name in sorted(types):
        registered_type = types[name]
        origin = registrations.module_of_type(registered_type)
        if origin is None:
            origin = registered_type.__module__
        import_of(origin).types.append(name)
    return [asdict(needed) for needed in imports.values()]
