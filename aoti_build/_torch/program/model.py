"""A model as models.yaml describes it, from its callable to the module that is called.

The user can correct every failure here, so each is a `UsageError` with its position in models.yaml.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from aoti_build._torch.program.method import with_method
from aoti_build._torch.program.quantised import in_eval_mode, subclassed, unwrap_subclasses
from aoti_build._torch.program.refusals import refuse_scripted
from aoti_build._torch.program.searched import missing_module_hint
from aoti_build._torch.program.structure import with_plain_outputs
from aoti_build._torch.program.user_errors import (
    factory_error,
    import_error,
    is_module_already,
    no_such_attribute,
    uninitialised,
)
from aoti_build._torch.program.weights.load import load_weights
from aoti_build.errors import UsageError
from aoti_build.models_file.project import Model, Source


def assemble(
    model: Model,
    source: Source,
    kwargs: Mapping[str, Any],
    dtype: str | None,
    root: Path,
    where: Mapping[str, str],
) -> torch.nn.Module:
    """The module that `source` makes of `kwargs`, on the CPU.

    It has the seed, weights, method and outputs of `model`, and is cast to `dtype`. `where` is the
    position of each key in models.yaml. Raises `UsageError`.
    """
    factory = load_callable(source, root, where["source"])
    module = make_module(factory, kwargs, model.seed, where["kwargs"])
    if model.weights is not None:
        # Without `dtype`, nobody said that the weights may lose precision.
        may_round = dtype is not None
        load_weights(module, model.weights, root, where["weights"], may_round=may_round)
    module = cast(module, dtype, where["dtype"])
    # Before a method replaces forward: unwrapped weights become properties of the model's class,
    # and a module with a method has another class.
    module = unwrap_subclasses(module)
    if model.method is not None:
        module = with_method(module, model.method, where["method"])
    if model.outputs == "dict":
        with_plain_outputs(module)
    return module


def load_callable(source: Source, root: Path, where: str) -> Callable[..., Any]:
    """The callable that `source` names.

    Raises:
        UsageError: It cannot be imported. The cause has the lines of code that failed.
    """
    try:
        if source.path:
            module = _import_file(root / source.path)
        else:
            module = importlib.import_module(source.module or "")
    except (Exception, SystemExit) as error:
        hint = "install it in this environment, or correct the name; the log has the traceback"
        hint = missing_module_hint(error, root) or hint
        raise import_error(source.path or source.module, error, where, hint) from error
    value = _attribute(module, source, where)
    if isinstance(value, torch.nn.Module):
        raise is_module_already(str(source), value, where)
    if not callable(value):
        raise UsageError(
            f"{source} is not callable, its type is {type(value).__name__}",
            where=where,
            hint="name a function that returns the module, or an nn.Module class",
        )
    return value  # type: ignore[no-any-return]


def _attribute(module: ModuleType, source: Source, where: str) -> Any:
    """The value of a dotted attribute of an imported module."""
    value: Any = module
    for name in source.attribute.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            owner = source.path or source.module or ""
            raise no_such_attribute(owner, name, value, where) from None
    return value


def import_declared(names: tuple[str, ...], where: str) -> None:
    """Import the modules that models.yaml lists. Raises `UsageError` for one that does not
    import."""
    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            hint = "`imports` names modules, as `import` does, found from `python_path` on"
            hint = missing_module_hint(error, Path.cwd()) or hint
            raise import_error(name, error, where, hint) from error


def make_module(
    factory: Callable[..., Any],
    kwargs: Mapping[str, Any],
    seed: int,
    where: str,
) -> torch.nn.Module:
    """Call the factory under `seed`; the result is in eval mode, on the CPU, and needs no
    gradients."""
    torch.manual_seed(seed)
    try:
        module = factory(**kwargs)
    except (Exception, SystemExit) as error:
        raise factory_error(factory, kwargs, error, where) from error
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"the factory returned {type(module).__name__}, not an nn.Module",
            where=where,
            hint="return the module itself; `source` names the callable that makes it",
        )
    refuse_scripted(module, where)
    named_values = [*module.named_parameters(), *module.named_buffers()]
    lazy_names = [name for name, value in named_values if is_lazy(value)]
    if lazy_names:
        raise uninitialised(lazy_names, where)
    return in_eval_mode(module).requires_grad_(False)


def cast(module: torch.nn.Module, dtype: str | None, where: str) -> torch.nn.Module:
    """The module in the floating point dtype that models.yaml names, as `module.to(dtype)` makes
    it; unchanged if it names none."""
    if dtype is None:
        return module
    names = subclassed(module)
    if names:
        values = dict([*module.named_parameters(), *module.named_buffers()])
        kind = type(values[names[0]]).__name__
        raise UsageError(
            f"`dtype` cannot cast {names[0]}, which is a {kind}",
            where=where,
            hint="cast the model in its factory, before it is quantised, and remove `dtype`",
        )
    return module.to(getattr(torch, dtype))


def _import_file(path: Path) -> ModuleType:
    """Import a file as Python would run it: with its directory on sys.path, for imports of the
    files next to it."""
    directory = str(path.parent)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    # A library may have the file's name. The second name is for that.
    for name in (path.stem, f"aoti_build_source_{path.stem}"):
        imported = sys.modules.get(name)
        if imported is None:
            return _import_as(name, path)
        if getattr(imported, "__file__", None) == str(path):
            return imported
    return _import_as(name, path)


def _import_as(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Before it runs: dataclasses and pickles look their module up by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module
