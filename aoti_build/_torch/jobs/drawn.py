"""Inputs made as the build makes them, from the shapes or the callable in models.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from aoti_build._torch.data.read import fit
from aoti_build._torch.program.inputs import Sizes, from_callable, from_shapes
from aoti_build._torch.program.model import load_callable
from aoti_build.messages import Signature
from aoti_build.models_file.project import Model, Source


@dataclass(frozen=True)
class Draw:
    """Makes flat inputs. `where` is the position of `inputs` in models.yaml, for errors."""

    model: Model
    root: Path
    where: str

    def __call__(self, sizes: Sizes, seed: int, signature: Signature, name: str) -> list[Tensor]:
        """The tensors in the order of the artifact's signature.

        `name` says in errors which inputs these are. Raises `UsageError` if they do not fit.
        """
        inputs = self.model.inputs
        if isinstance(inputs, Source):
            function = load_callable(inputs, self.root, self.where)
            make = from_callable(function, self.where, self.model.memory_format)
        else:
            make = from_shapes(inputs)
        call = make(sizes, seed)
        only_names = not call.args
        only_tensors = all(isinstance(value, Tensor) for value in call.kwargs.values())
        if only_names and only_tensors:
            return fit(dict(call.kwargs), signature, name)
        return fit(call.tensors(), signature, name)
