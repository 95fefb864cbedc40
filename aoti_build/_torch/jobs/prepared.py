"""Makes a model ready to be called: imported, built, with its weights and an example call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.export import ExportedProgram

from aoti_build._torch.checking.eager import SEED, Subject
from aoti_build._torch.checking.exported import Exported, exported
from aoti_build._torch.program.axes import Axes, declared_axes, infer_axes, require_axes
from aoti_build._torch.program.export import whole_ranges
from aoti_build._torch.program.inputs import Call, Make, from_callable, from_shapes
from aoti_build._torch.program.memory_formats import convert_weights, refuse_without_effect
from aoti_build._torch.program.model import assemble, import_declared, load_callable
from aoti_build._torch.program.quantised import is_quantised
from aoti_build._torch.program.signature import input_names
from aoti_build._torch.program.writes import Writes, computed_of
from aoti_build.errors import BuildError
from aoti_build.messages import Signature
from aoti_build.models_file.project import Dim, Model, Source


@dataclass(frozen=True)
class Prepared:
    """A model ready to be called on its device, with its example call."""

    module: torch.nn.Module
    make: Make
    example: Call
    axes: list[Axes]
    device: str
    dims: tuple[Dim, ...] = ()
    strict: bool = False

    def subject(
        self, described: Signature | None = None, program: ExportedProgram | None = None
    ) -> Subject:
        """The model as the checks use it.

        `described` is its artifact's signature, and `program` its exported program. Only quantised
        models need a program. It is exported again if it is not passed.
        """
        if described is None:
            return Subject(self.module, self.make, self.device)
        if not is_quantised(self.module):
            program = None
        elif program is None:
            program = self._program()
        return Subject(
            self.module,
            self.make,
            self.device,
            Writes.of_signature(described),
            described.get("special", ()),
            computed_of(described),
            program,
        )

    def exported(self, where: Mapping[str, str]) -> Exported:
        """The model's program. Raises `BuildError`."""
        return exported(
            self.subject(),
            self.example,
            self.dims,
            self.axes,
            where,
            strict=self.strict,
        )

    def _program(self) -> ExportedProgram | None:
        """The model's program. None if it cannot be exported now; then there is no float64
        reference."""
        nowhere = {"inputs": "", **{f"dims.{dim.name}": "" for dim in self.dims}}
        try:
            with whole_ranges():
                return self.exported(nowhere).program
        except BuildError:
            return None


def prepare(model: Model, device: str, root: Path, where: Mapping[str, str]) -> Prepared:
    """Import and build the model, load its weights, make its example inputs, and move all to the
    device. Raises `UsageError`."""
    import_declared(model.imports, where["imports"])
    module = assemble(model, model.source, model.kwargs, model.dtype, root, where)
    weights = 0
    if model.memory_format is not None:
        weights = convert_weights(module, model.memory_format)
    if isinstance(model.inputs, Source):
        make, axes = _called_inputs(model, model.inputs, module, root, where["inputs"])
    else:
        make = from_shapes(model.inputs)
        axes = declared_axes(model.inputs)
    example = make({dim.name: dim.example for dim in model.dims}, SEED)
    if model.memory_format is not None:
        refuse_without_effect(model, weights, example.tensors(), where["memory_format"])
    return Prepared(
        module=module.to(device),
        make=make,
        example=example.to(device),
        axes=axes,
        device=device,
        dims=model.dims,
        strict=model.strict,
    )


def _called_inputs(
    model: Model, source: Source, module: torch.nn.Module, root: Path, where: str
) -> tuple[Make, list[Axes]]:
    """A function that makes calls with the user's callable, and the axes in them that follow
    dims."""
    dims = model.dims
    make = from_callable(load_callable(source, root, where), where, model.memory_format)
    example_sizes = {dim.name: dim.example for dim in dims}
    example = make(example_sizes, SEED)

    def leaf_name(index: int) -> str:
        return input_names(module, example)[index]

    axes = infer_axes(make, dims, where, leaf_name)
    checked_make = require_axes(make, axes, example, where, leaf_name)
    return checked_make, axes
