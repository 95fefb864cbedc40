"""Errors of the user's code outside of a model's forward: while it is imported, while it makes the
module or the inputs. Each has the user's own line and a next step for its kind."""

from __future__ import annotations

import inspect
import os
import re
import urllib.error
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from aoti_build._torch.program.code_lines import code_lines, described
from aoti_build.errors import UsageError
from aoti_build.models_file.wording import did_you_mean, nearest

_MAX_NAMES = 12
_MAX_SIGNATURE = 160
# torch's messages about a GPU that is missing or unfit (torch/cuda, torch/serialization.py)
_ABOUT_GPU = re.compile(
    r"NVIDIA driver|No CUDA GPUs|not compiled with CUDA|no CUDA-capable device|on a CUDA device"
    r"|CUDA driver|CUDA error|HIP"
)


def import_error(name: str | None, error: BaseException, where: str, hint: str) -> UsageError:
    """The error for a module that does not import. `hint` is for a module that is not there."""
    if isinstance(error, SyntaxError):
        hint = "correct this line"
    elif _absent_file(error):
        hint = _about_absent_file()
    elif not isinstance(error, ImportError):
        hint = (
            "correct this line; it runs when the file is imported, so what only one model needs"
            " belongs into its callable"
        )
    return UsageError(f"{name} does not import", where=where, cause=described(error), hint=hint)


def no_such_attribute(source: str, name: str, owner: Any, where: str) -> UsageError:
    """The error for a name that an imported module does not have."""
    names = [entry for entry in dir(owner) if not entry.startswith("_")]
    matches = nearest(name, names, 3)
    hint = None
    if not matches:
        own = [entry for entry in names if _is_defined_in(owner, getattr(owner, entry, None))]
        shown = ", ".join(own[:_MAX_NAMES]) or "nothing that can be called"
        hint = f"it defines {shown}{', and more' if len(own) > _MAX_NAMES else ''}"
    suggestion = did_you_mean(matches)
    return UsageError(
        f"{source} has no {name!r}{suggestion}", where=where, hint=hint or "correct `source`"
    )


def _is_defined_in(owner: Any, value: Any) -> bool:
    return callable(value) and getattr(value, "__module__", None) == getattr(
        owner, "__name__", None
    )


def is_module_already(source: str, value: torch.nn.Module, where: str) -> UsageError:
    """The error for a source that is a module, where a callable that makes one is meant."""
    kind = type(value).__name__
    return UsageError(
        f"{source} is a module already, of the class {kind}; `source` names what makes one",
        where=where,
        hint=f"name the class {kind}, or a function that returns the module",
    )


def factory_error(
    factory: Callable[..., Any],
    kwargs: Mapping[str, Any],
    error: BaseException,
    where: str,
) -> UsageError:
    """The error for a callable that raised when it was called with `kwargs`."""
    if _download_failure(error) is not None:
        return UsageError(
            "the pretrained weights could not be downloaded",
            where=where,
            cause=described(_download_failure(error) or error),
            hint="give a file (`weights: path.safetensors`), or random weights from the seed"
            " (`weights: null` in kwargs), or put the download into torch.hub's cache directory",
        )
    hint = "correct this line; the log has the whole traceback"
    if refuses_arguments(error):
        hint = _kwargs_hint(factory, kwargs)
    elif isinstance(error, SystemExit):
        hint = (
            "return the module here, and do not end the process; a worker has no command line to"
            " parse, so take such values as parameters, which `kwargs` sets"
        )
    elif _absent_file(error):
        hint = _about_absent_file()
    elif is_about_gpu(error):
        hint = (
            "make the module on the CPU: aoti_build moves it to the device of each target. Remove"
            " `.cuda()` and `device=` here, and use map_location='cpu' to read files"
        )
    return UsageError("the factory raised", where=where, cause=described(error), hint=hint)


def uninitialised(names: Collection[str], where: str) -> UsageError:
    """The error for a module whose lazy layers have parameters without a shape."""
    shown = ", ".join(list(names)[:_MAX_NAMES])
    return UsageError(
        f"the module has lazy parameters that no call has given a shape: {shown}",
        where=where,
        hint="call the module once with an example before the callable returns it, or replace the"
        " lazy layers by those with sizes",
    )


def _absent_file(error: BaseException) -> bool:
    """Whether a file with a relative path was looked for in vain."""
    name = error.filename if isinstance(error, FileNotFoundError) else None
    return isinstance(name, str) and not os.path.isabs(name)


def _about_absent_file() -> str:
    return (
        f"relative paths begin at {os.getcwd()}, where the code of models runs; correct the path,"
        " or set `root` in models.yaml"
    )


def refuses_arguments(error: BaseException) -> bool:
    """Whether a callable did not take the arguments, so that none of its code has run."""
    return isinstance(error, TypeError) and not code_lines(error)


def is_about_gpu(error: BaseException) -> bool:
    """Whether torch complains that a GPU is missing or cannot be used."""
    return isinstance(error, RuntimeError | AssertionError) and bool(_ABOUT_GPU.search(str(error)))


def signature_text(function: Callable[..., Any]) -> str:
    """``build(labels, width=3)``, without annotations; empty if Python does not know it."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of a function in C
        return ""
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    text = str(inspect.Signature(plain))
    if len(text) > _MAX_SIGNATURE:
        text = text[:_MAX_SIGNATURE] + "...)"
    return getattr(function, "__name__", type(function).__name__) + text


def _kwargs_hint(factory: Callable[..., Any], kwargs: Mapping[str, Any]) -> str:
    signature = signature_text(factory)
    if not signature:
        return "write the arguments that it takes under `kwargs`"
    parameters = inspect.signature(factory).parameters
    sentences = []
    missing = [name for name, parameter in parameters.items() if _is_required(parameter, kwargs)]
    if missing:
        entries = ", ".join(f"{name}: ..." for name in missing)
        sentences.append(f"add them to `kwargs: {{{entries}}}`")
    for name in kwargs:
        if name not in parameters:
            sentences.append(f"remove {name!r} from `kwargs`{_suggestion(name, parameters)}")
    sentences.append(f"the callable is {signature}")
    return "; ".join(sentences)


def _is_required(parameter: inspect.Parameter, kwargs: Mapping[str, Any]) -> bool:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    has_no_default = parameter.default is inspect.Parameter.empty
    return has_no_default and parameter.kind not in variadic and parameter.name not in kwargs


def _suggestion(name: str, options: Collection[str]) -> str:
    return did_you_mean(nearest(name, options))


def _download_failure(error: BaseException) -> BaseException | None:
    """The network error in the chain of causes; None if there is none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, urllib.error.URLError | ConnectionError | TimeoutError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
