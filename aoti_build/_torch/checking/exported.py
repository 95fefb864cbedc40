"""A model as an exported program that is right at every declared size, shown before anything is
compiled.

Three ways lead there, and the first that passes the proof is taken:

- *plain*: the tracer takes every dynamic size to be 2 or more, as it does by default. The code is
  nevertheless right at 1 for nearly every model, since most operations do the same there.
- *oblivious*: the tracer makes no such assumption (`backed_size_oblivious`). Where a model does ask
  whether a size is 1, a guard comes of it, which then excludes sizes.
- *own*: as before, but no size is one of torch's Dims, each is a symbol of its own (`ExportSizes`).
  What the model asks of sizes then stands in the graph as an assertion, which is evaluated for all
  declared sizes (`lift_assertions`).

The proof: the program runs at the sizes that the tracer assumed away, and must leave what eager
leaves. The reference cases show the same of the compiled code later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.export import ExportedProgram

from aoti_build._torch.checking.eager import SEED, Subject, eager_failure, observe
from aoti_build._torch.checking.reference import points
from aoti_build._torch.checking.reference_data import Plain
from aoti_build._torch.checking.state import kept_state
from aoti_build._torch.program.assertions import lift_assertions
from aoti_build._torch.program.axes import Axes
from aoti_build._torch.program.export import export
from aoti_build._torch.program.inputs import Call, Sizes
from aoti_build._torch.program.ranges import check_ranges, named_symbols, output_shapes
from aoti_build.errors import BuildError
from aoti_build.models_file.project import Dim

Observed: TypeAlias = Tensor | Plain | None

# The program runs the operations that eager runs, so they hardly differ.
_SAME = 1e-2


@dataclass(frozen=True)
class Exported:
    """The program, the sizes that are verified beside the usual ones, and whether the tracer
    assumed nothing."""

    program: ExportedProgram
    special: tuple[Sizes, ...]
    oblivious: bool

    def tracing(self) -> contextlib.AbstractContextManager[None]:
        """What holds while the program is traced again, in the compile."""
        return _tracing(self.oblivious)


@contextlib.contextmanager
def _tracing(oblivious: bool) -> Iterator[None]:
    from torch.fx.experimental import _config

    with _config.patch(backed_size_oblivious=True) if oblivious else contextlib.nullcontext():
        yield


def exported(
    subject: Subject,
    example: Call,
    dims: tuple[Dim, ...],
    axes: list[Axes],
    where: Mapping[str, str],
    *,
    strict: bool = False,
) -> Exported:
    """The exported program of the model for every declared size, in torch.export's `strict` mode or
    not.

    Raises: BuildError: torch cannot export the model, or not for all of the sizes. Then the message
        says which size, and the place is that of its dim.
    """
    refused: BuildError | None = None
    for oblivious, own in ((False, False), (True, False), (True, True)):
        try:
            with _tracing(oblivious):
                program = export(
                    subject.module,
                    example,
                    dims,
                    axes,
                    where["inputs"],
                    strict=strict,
                    own_symbols=own,
                )
                return _for_all_sizes(program, subject, dims, axes, where, oblivious)
        except BuildError as error:
            refused = refused or error
        if not dims:
            break  # no size that anything could be assumed of
    assert refused is not None
    raise refused


def _for_all_sizes(
    program: ExportedProgram,
    subject: Subject,
    dims: tuple[Dim, ...],
    axes: list[Axes],
    where: Mapping[str, str],
    oblivious: bool,
) -> Exported:
    check_ranges(program, dims, axes, where, from_two=not oblivious)
    named = named_symbols(program, axes)
    special = lift_assertions(program, dims, named, where)
    _prove(program, subject, dims, axes, special, named, where)
    return Exported(program, tuple(special), oblivious)


def _prove(
    program: ExportedProgram,
    subject: Subject,
    dims: tuple[Dim, ...],
    axes: list[Axes],
    special: Sequence[Sizes],
    named: Mapping[Any, Any],
    where: Mapping[str, str],
) -> None:
    """Run the program where some size is 1 and at the `special` sizes. Raises `BuildError` if it
    leaves something else than eager."""
    every = points(dims, special)
    proved = {
        name: sizes
        for name, sizes in every.items()
        if _has_one(axes, sizes) or any(one.items() <= sizes.items() for one in special)
    }
    if not proved:
        return
    runs = program.module()
    told = _Shapes(
        program,
        named,
        _observed(subject.module, subject, every["example"], "example"),
        every["example"],
    )
    for name, sizes in proved.items():
        wanted = _observed(subject.module, subject, sizes, name)
        try:
            got = _observed(runs, subject, sizes, name)
            why = told.misfit(wanted, sizes) or _difference(wanted, got)
        except BuildError as error:
            why = f"the exported program fails there: {error.cause}"
        if why:
            raise _refusal(sizes, dims, why, where)


def _has_one(axes: list[Axes], sizes: Sizes) -> bool:
    """Whether some axis is 1 long at these sizes of the dims."""
    return any(size.at(sizes) == 1 for found in axes for size in found.values())


def _observed(module: Any, subject: Subject, sizes: Sizes, name: str) -> list[Observed]:
    call = subject.make(sizes, SEED).to(subject.device)
    with kept_state(module):
        try:
            return observe(module, call, subject.writes)
        except Exception as error:  # the user's model
            raise eager_failure(name, call, error) from error


class _Shapes:
    """The shapes of outputs as the export tells them, which compiled code will have.

    Only of outputs that it tells rightly for the example: torch 2.11 gives the states of an LSTM an
    axis too many.
    """

    def __init__(
        self,
        program: ExportedProgram,
        named: Mapping[Any, Any],
        example: list[Observed],
        sizes: Sizes,
    ) -> None:
        self.program, self.named = program, named
        told = output_shapes(program, named, sizes)
        self.right = {
            index
            for index, (value, shape) in enumerate(zip(example, told, strict=False))
            if _shape(value) == shape
        }

    def misfit(self, wanted: list[Observed], sizes: Sizes) -> str | None:
        """How eager's outputs at these sizes differ in shape; None if they do not."""
        told = output_shapes(self.program, self.named, sizes)
        for index, (value, shape) in enumerate(zip(wanted, told, strict=False)):
            if index in self.right and _shape(value) != shape:
                return (
                    f"output {index} has the shape {_shape(value)} there, and {shape} by the export"
                )
        return None


def _shape(value: Observed) -> list[int] | None:
    return list(value.shape) if isinstance(value, Tensor) else None


def _said(value: Observed) -> str:
    if isinstance(value, Plain):
        return value.text
    return "nothing" if value is None else "a tensor"


def _difference(wanted: list[Observed], got: list[Observed]) -> str | None:
    """How the program's outputs differ from eager's; None if they do not."""
    if len(wanted) != len(got):
        return f"there are {len(wanted)} outputs there, and {len(got)} by the export"
    for index, (one, other) in enumerate(zip(wanted, got, strict=True)):
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            if one != other:
                return f"output {index} is {_said(one)} there, and {_said(other)} by the export"
            continue
        if one.shape != other.shape:
            return (
                f"output {index} has the shape {list(one.shape)} there, and {list(other.shape)} by"
                " the export"
            )
        if _apart(one, other) > _SAME:
            return f"the values of output {index} differ there"
    return None


def _apart(one: Tensor, other: Tensor) -> float:
    """The root mean square of the difference, relative to that of the values. Places where one of
    the two is not finite do not count: what becomes of them is for the reference cases."""
    dtype = torch.complex128 if one.is_complex() else torch.float64
    wide, candidate = one.to(dtype), other.to(dtype)
    finite = torch.isfinite(wide) & torch.isfinite(candidate)
    error = (wide - candidate)[finite].abs().square().mean().sqrt()
    scale = wide[finite].abs().square().mean().sqrt()
    if not finite.any() or not error:
        return 0.0
    return float(error / scale) if scale else float("inf")


def _refusal(sizes: Sizes, dims: tuple[Dim, ...], why: str, where: Mapping[str, str]) -> BuildError:
    ones = [dim.name for dim in dims if sizes[dim.name] == 1]
    name = ones[0] if ones else dims[0].name
    shown = ", ".join(f"{dim} {size}" for dim, size in sizes.items())
    hint = "the model does something of its own at this size: take it out of the range"
    if ones:
        hint = (
            f"declare `min: 2` for {name}, and give {name} 1 a model of its own in models.yaml,"
            " with the number 1 in its shapes; or let the model treat 1 as other sizes"
        )
    return BuildError(
        f"no single export serves all declared sizes of {name}",
        where=where.get(f"dims.{name}", where["inputs"]),
        cause=f"with {shown}: {why}",
        hint=hint,
    )
