"""The names of a state dict as the model has them: after `prefix`, wrappers' marks and `rename`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from aoti_build._torch.program.weights.model_state import ModelState, State
from aoti_build._torch.program.weights.source import WeightsSource
from aoti_build.models_file.weights import renamed

# DataParallel and DistributedDataParallel hold the model as their attribute `module`
# (torch/nn/parallel/), and torch.compile as `_orig_mod` (torch/_dynamo/eval_frame.py).
_PARALLEL = "module."
_COMPILED = "_orig_mod."
REMOVED_PREFIXES = (_PARALLEL, _COMPILED)
_PREFIXES_SHOWN = 8


def state_by_model_names(
    state: State,
    source: WeightsSource,
    model: ModelState,
) -> dict[str, Any]:
    """The values of a file's state dict under the model's names.

    Raises:
        UsageError: No name begins with `prefix`, or two names become the same one.
    """
    names = _without_prefix(state, source)
    names = _without_wrapper_marks(names, model)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for file_name, name in names.items():
        model_name = renamed(name, source.weights.rename)
        if model_name in values:
            raise source.error(
                "has two tensors for one name of the model",
                cause=f"{origins[model_name]} and {file_name} both become {model_name}",
            )
        values[model_name] = state[file_name]
        origins[model_name] = file_name
    return values


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _without_prefix(state: State, source: WeightsSource) -> dict[str, str]:
    """The file's names that begin with `prefix`, each with the rest of it."""
    prefix = source.weights.prefix or ""
    names = {name: name[len(prefix) :] for name in state if name.startswith(prefix)}
    if names:
        return names
    if state:
        first_parts = sorted({name.partition(".")[0] + "." for name in state})
        cause = f"they begin with {', '.join(first_parts[:_PREFIXES_SHOWN])}"
    else:
        cause = "it has no tensors"
    raise source.error(f"has no name that begins with {prefix!r}", cause=cause)


def _without_wrapper_marks(names: Mapping[str, str], model: ModelState) -> dict[str, str]:
    """The names without what a wrapper of the model put into all of them.

    A mark stays where the model has names with it.
    """
    cleaned = dict(names)
    if not any(_COMPILED in name for name in model.state):
        for file_name, name in names.items():
            cleaned[file_name] = _without_compiled(name)
    if any(name.startswith(_PARALLEL) for name in model.state):
        return cleaned
    # After the mark of torch.compile is gone, which may stand in front of the other one.
    if all(name.startswith(_PARALLEL) for name in cleaned.values()):
        for file_name, name in cleaned.items():
            cleaned[file_name] = name.removeprefix(_PARALLEL)
    return cleaned


def _without_compiled(name: str) -> str:
    # Submodules are compiled as well, so the mark may stand anywhere in a name.
    mark = _COMPILED.removesuffix(".")
    return ".".join(part for part in name.split(".") if part != mark)
