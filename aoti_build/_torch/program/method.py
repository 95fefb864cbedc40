"""A method of a model in the place of its forward."""

from __future__ import annotations

from typing import Any

import torch

from aoti_build.errors import UsageError
from aoti_build.models_file.wording import did_you_mean, nearest

# The attributes of nn.Module that hold its state (torch/nn/modules/module.py).
_STATE = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")


class _Method(torch.nn.Module):
    """A module whose forward is a method of `model`, with that method's own signature.

    Its state is the model's, under the model's own names. Both share one table of parameters, one
    of buffers and one of submodules, so a value that is put into one (a float64 copy, a traced
    value) is in the other as well. The model itself is not a submodule. It keeps its forward, which
    the method may call.
    """

    def __init__(self, model: torch.nn.Module, method: Any) -> None:
        super().__init__()
        for name in _STATE:
            # nn.Module's own __setattr__ would register the tables' entries.
            self.__dict__[name] = getattr(model, name)
        self.training = model.training
        self.forward = method


def with_method(model: torch.nn.Module, name: str, where: str) -> torch.nn.Module:
    """`model`, called by its method `name`. Raises `UsageError` if it has none."""
    method = getattr(model, name, None)
    if callable(method) and not isinstance(method, torch.nn.Module):
        return _Method(model, method)
    problem = "is not a method" if hasattr(model, name) else "is missing"
    methods = _public_methods(type(model))
    listed = ", ".join(methods) or "none"
    raise UsageError(
        f"the method {name!r} {problem} in {type(model).__name__}",
        where=where,
        hint=f"its own methods: {listed}{did_you_mean(nearest(name, [*methods, 'forward']))}",
    )


def _public_methods(kind: type[torch.nn.Module]) -> list[str]:
    """The public attributes of a class that nn.Module does not have."""
    inherited = dir(torch.nn.Module)
    methods = []
    for name in dir(kind):
        if not name.startswith("_") and name not in inherited:
            methods.append(name)
    return methods
