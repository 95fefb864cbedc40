"""A method of a model in the place of its forward."""

from __future__ import annotations

from typing import Any

import torch

from aoti_build.errors import UsageError
from aoti_build.models_file.wording import did_you_mean, nearest


class _Method(torch.nn.Module):
    """A module whose forward is a method of `model`, with that method's own signature.

    Its state is the model's, under the model's own names: both have one table of parameters, one of
    buffers and one of submodules, so that whatever is put into one (a float64 copy, traced values)
    is in the other. The model itself is no submodule. It keeps its forward, which the method may
    call.
    """

    def __init__(self, model: torch.nn.Module, method: Any) -> None:
        super().__init__()
        tables = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")
        self.__dict__.update({name: getattr(model, name) for name in tables})
        self.training = model.training
        self.forward = method


def with_method(model: torch.nn.Module, name: str, where: str) -> torch.nn.Module:
    """`model`, called by its method `name`. Raises `UsageError` if it has none."""
    method = getattr(model, name, None)
    if callable(method) and not isinstance(method, torch.nn.Module):
        return _Method(model, method)
    what = "is no method" if hasattr(model, name) else "is missing"
    methods = [
        other
        for other in dir(type(model))
        if not other.startswith("_") and other not in dir(torch.nn.Module)
    ]
    raise UsageError(
        f"the method {name!r} {what} in {type(model).__name__}",
        where=where,
        hint=(
            f"its own methods: {', '.join(methods) or 'none'}{did_you_mean(nearest(name, methods))}"
        ),
    )
