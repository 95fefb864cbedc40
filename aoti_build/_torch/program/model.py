"""From models.yaml's ``source`` to an initialised nn.Module.

Every failure here is the user's to mend, so each is a `UsageError` with the place in models.yaml.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import traceback
import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from aoti_build._torch.program.quantised import in_eval_mode, subclassed
from aoti_build._torch.program.refusals import refuse_scripted
from aoti_build.errors import UsageError
from aoti_build.models_file.project import Source


def load_callable(source: Source, root: Path, where: str) -> Callable[..., Any]:
    """The callable that `source` names. Raises `UsageError` with the import's own last line if it
    cannot be had."""
    try:
        module = (
            _import_file(root / source.path)
            if source.path
            else importlib.import_module(source.module or "")
        )
    except (Exception, SystemExit) as error:
        hint = "import it with plain Python to see the whole traceback; the log has it too"
        raise _unimportable(source.path or source.module, error, where, hint) from error
    found: Any = module
    for name in source.attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise UsageError(
                f"{source.path or source.module} has no {source.attribute!r}",
                where=where,
                hint=_near(name, [n for n in dir(found) if not n.startswith("_")]),
            ) from None
    if not callable(found):
        raise UsageError(
            f"{source} is not callable but {type(found).__name__}",
            where=where,
            hint="name a function that returns the module, or an nn.Module class",
        )
    return found  # type: ignore[no-any-return]


def import_declared(names: tuple[str, ...], where: str) -> None:
    """Import the modules that models.yaml lists. Raises `UsageError` for one that does not
    import."""
    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            hint = (
                "`imports` names modules, as `import` does, found from the directory of models.yaml"
            )
            raise _unimportable(name, error, where, hint) from error


def _unimportable(name: str | None, error: BaseException, where: str, hint: str) -> UsageError:
    return UsageError(f"{name} does not import", where=where, cause=_last_line(error), hint=hint)


def make_module(
    factory: Callable[..., Any], kwargs: Mapping[str, Any], seed: int, where: str
) -> torch.nn.Module:
    """Call the factory under `seed`; the result is in eval mode, on the CPU, and needs no
    gradients."""
    torch.manual_seed(seed)
    try:
        module = factory(**kwargs)
    except (Exception, SystemExit) as error:
        if download := _download_failure(error):
            raise UsageError(
                "the pretrained weights could not be downloaded",
                where=where,
                cause=download,
                hint=(
                    "give a file (`weights: path.safetensors`), or random weights from the seed"
                    " (`weights: null` in kwargs), or put the download into torch.hub's cache"
                    " directory"
                ),
            ) from error
        raise UsageError("the factory raised", where=where, cause=_last_line(error)) from error
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"the factory returned {type(module).__name__}, not an nn.Module", where=where
        )
    refuse_scripted(module, where)
    return in_eval_mode(module).requires_grad_(False)


def cast(module: torch.nn.Module, dtype: str | None, where: str) -> torch.nn.Module:
    """The module in the floating point type that models.yaml names, as `module.to(dtype)` makes it;
    as it is if it names none."""
    if dtype is None:
        return module
    if weights := subclassed(module):
        raise UsageError(
            f"`dtype` cannot cast {weights[0]}, which is a"
            f" {type(_at(module, weights[0])).__name__}",
            where=where,
            hint="cast the model in its factory, before it is quantised, and remove `dtype`",
        )
    return module.to(getattr(torch, dtype))


def _at(module: torch.nn.Module, name: str) -> Any:
    return dict([*module.named_parameters(), *module.named_buffers()])[name]


def _import_file(path: Path) -> ModuleType:
    """Import a file the way running it would: its directory is on sys.path, so that its neighbours
    import."""
    directory = str(path.parent)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    name = path.stem if path.stem not in sys.modules else f"aoti_build_source_{path.stem}"
    if (loaded := sys.modules.get(name)) is not None and loaded.__file__ == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _download_failure(error: BaseException) -> str | None:
    """What the network said, if a download anywhere in the chain of causes is what failed."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, urllib.error.URLError | ConnectionError | TimeoutError):
            return _last_line(seen)
        seen = seen.__cause__ or seen.__context__
    return None


def _last_line(error: BaseException) -> str:
    return traceback.format_exception_only(type(error), error)[-1].strip()


def _near(name: str, known: list[str]) -> str | None:
    import difflib

    near = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {json.dumps(near)[1:-1]}?" if near else None
