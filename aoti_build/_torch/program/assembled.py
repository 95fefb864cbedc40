"""A model as models.yaml describes it, from its callable to the module that is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from aoti_build._torch.program.method import with_method
from aoti_build._torch.program.model import cast, load_callable, make_module
from aoti_build._torch.program.quantised import taken_apart
from aoti_build._torch.program.structure import with_plain_outputs
from aoti_build._torch.program.weights.load import load_weights
from aoti_build.models_file.project import Model, Source


def assembled(
    model: Model,
    source: Source,
    kwargs: Mapping[str, Any],
    dtype: str | None,
    root: Path,
    where: Mapping[str, str],
) -> nn.Module:
    """What `source` makes of `kwargs`, with the seed, weights, method and outputs of `model`, cast
    to `dtype`; on the CPU. `where` is the place of each key in models.yaml. Raises `UsageError`."""
    factory = load_callable(source, root, where["source"])
    module = make_module(factory, kwargs, model.seed, where["kwargs"])
    if model.weights is not None:
        load_weights(module, model.weights, root, where["weights"])
    # Before a method gets the place of forward: parametrized weights are properties of the model
    # itself.
    module = taken_apart(cast(module, dtype, where["dtype"]))
    if model.method is not None:
        module = with_method(module, model.method, where["method"])
    if model.outputs == "dict":
        with_plain_outputs(module)
    return module
