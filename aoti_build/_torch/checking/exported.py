"""Exports a model as a program that is right at every declared size, and proves it before anything
is compiled.

There are three ways to export. The first that passes the proof is used:

- *plain*: the tracer assumes that every dynamic size is 2 or more, as it does by default. The
  program is still right at 1 for nearly every model, because most operations do the same there.
- *oblivious*: the tracer makes no such assumption (`backed_size_oblivious`). If the model does ask
  whether a size is 1, the tracer adds a guard, which then excludes sizes.
- *own symbols*: as before, but each size is a symbol of its own (`ExportSizes`) and none is one of
  torch's Dims. Questions of the model about sizes are then assertions in the graph, which are
  evaluated for all declared sizes (`lift_assertions`).

The proof: the program runs at the sizes that the tracer excluded, and must leave what eager leaves.
The reference cases show the same of the compiled code later.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from aoti_build._torch.checking.difference import rms_of
from aoti_build._torch.checking.eager import (
    SEED,
    Observed,
    Subject,
    observe,
)
from aoti_build._torch.checking.eager_failure import eager_failure
from aoti_build._torch.checking.reference import points
from aoti_build._torch.checking.reference_data import Plain
from aoti_build._torch.checking.state import restored_state
from aoti_build._torch.program.assertions import lift_assertions
from aoti_build._torch.program.axes import Axes
from aoti_build._torch.program.export import export
from aoti_build._torch.program.inputs import Call, Sizes
from aoti_build._torch.program.ranges import check_ranges, named_symbols, output_shapes
from aoti_build.errors import BuildError
from aoti_build.models_file.project import Dim


class _Way(NamedTuple):
    """A way to export."""

    oblivious: bool
    own_symbols: bool


# In the order in which they are tried.
_WAYS = (
    _Way(oblivious=False, own_symbols=False),
    _Way(oblivious=True, own_symbols=False),
    _Way(oblivious=True, own_symbols=True),
)
# The largest RMSE, relative to the RMS of eager's values, at which two outputs count as equal. The
# program runs the operations that eager runs, so they hardly differ.
_SAME = 1e-2


@dataclass(frozen=True)
class Exported:
    """The program, the `special` sizes that are verified in addition to the usual ones, and whether
    the tracer assumed nothing about sizes (`oblivious`)."""

    program: ExportedProgram
    special: tuple[Sizes, ...]
    oblivious: bool

    def tracing(self) -> contextlib.AbstractContextManager[None]:
        """The setting of the tracer that must hold when the compile traces the program again."""
        return _tracing(self.oblivious)


@contextlib.contextmanager
def _tracing(oblivious: bool) -> Iterator[None]:
    from torch.fx.experimental import _config

    setting: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if oblivious:
        setting = _config.patch(backed_size_oblivious=True)
    with setting:
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
    not. `where` has positions in models.yaml for messages, by "inputs" and ``dims.NAME``.

    Raises: BuildError: torch cannot export the model, or not for all of the sizes. Then the message
        names the size, and the position is that of its dim.
    """
    first_error: BuildError | None = None
    for way in _WAYS:
        try:
            with _tracing(way.oblivious):
                program = export(
                    subject.module,
                    example,
                    dims,
                    axes,
                    where["inputs"],
                    strict=strict,
                    own_symbols=way.own_symbols,
                )
                check_ranges(
                    program,
                    dims,
                    axes,
                    where,
                    from_two=not way.oblivious,
                )
                symbols = named_symbols(program, axes)
                special = lift_assertions(program, dims, symbols, where)
                proof = _Proof(
                    program=program,
                    subject=subject,
                    dims=dims,
                    axes=axes,
                    special=special,
                    symbols=symbols,
                )
                proof.check(where)
                return Exported(program, tuple(special), way.oblivious)
        except BuildError as error:
            # The error of the plain export is the easiest to understand.
            if first_error is None:
                first_error = error
        if not dims:
            break  # there is no size about which the tracer could assume anything
    assert first_error is not None
    raise first_error


@dataclass(frozen=True)
class _Proof:
    """Runs the exported program at the sizes that the tracer excluded: those at which some axis is
    1 long, and the `special` ones. `symbols` gives torch's symbols in terms of the dims."""

    program: ExportedProgram
    subject: Subject
    dims: tuple[Dim, ...]
    axes: list[Axes]
    special: Sequence[Sizes]
    symbols: Mapping[Any, Any]

    def check(self, where: Mapping[str, str]) -> None:
        """Raise `BuildError` if the program leaves something else than eager at one of them."""
        named_sizes = points(self.dims, self.special)
        excluded = {}
        for name, sizes in named_sizes.items():
            if self._is_excluded(sizes):
                excluded[name] = sizes
        if not excluded:
            return
        runnable = self.program.module()
        example_sizes = named_sizes["example"]
        example = self._observe(self.subject.module, example_sizes, "example")
        shapes = _ExportedShapes(
            self.program,
            self.symbols,
            example,
            example_sizes,
        )
        for name, sizes in excluded.items():
            expected = self._observe(self.subject.module, sizes, name)
            try:
                actual = self._observe(runnable, sizes, name)
                why = shapes.difference(expected, sizes) or _difference(expected, actual)
            except BuildError as error:
                why = f"the exported program fails there: {error.cause}"
            if why:
                raise _refusal(sizes, self.dims, why, where)

    def _is_excluded(self, sizes: Sizes) -> bool:
        for size_by_axis in self.axes:
            for size in size_by_axis.values():
                if size.at(sizes) == 1:
                    return True
        return any(special.items() <= sizes.items() for special in self.special)

    def _observe(
        self,
        module: Any,
        sizes: Sizes,
        name: str,
    ) -> list[Observed]:
        """What the model or the program leaves after a call at `sizes`. Raises `BuildError` if it
        fails."""
        call = self.subject.call(sizes, SEED)
        with restored_state(module):
            try:
                return observe(module, call, self.subject.writes)
            except Exception as error:  # of the user's code
                raise eager_failure(name, call, error) from error


class _ExportedShapes:
    """The shapes of outputs by the export, which compiled code will have.

    Outputs whose shape is wrong already for the example are not looked at: torch 2.11 gives the
    states of an LSTM one axis too many.
    """

    def __init__(
        self,
        program: ExportedProgram,
        symbols: Mapping[Any, Any],
        example: list[Observed],
        sizes: Sizes,
    ) -> None:
        self.program = program
        self.symbols = symbols
        self.reliable: set[int] = set()
        shapes = output_shapes(program, symbols, sizes)
        for index, (value, shape) in enumerate(zip(example, shapes, strict=False)):
            if _shape(value) == shape:
                self.reliable.add(index)

    def difference(
        self,
        expected: list[Observed],
        sizes: Sizes,
    ) -> str | None:
        """How eager's outputs at these sizes differ in shape; None if they do not."""
        shapes = output_shapes(self.program, self.symbols, sizes)
        for index, (value, shape) in enumerate(zip(expected, shapes, strict=False)):
            if index in self.reliable and _shape(value) != shape:
                return _other_shape(index, _shape(value), shape)
        return None


def _shape(value: Observed) -> list[int] | None:
    if not isinstance(value, Tensor):
        return None
    return list(value.shape)


def _difference(expected: list[Observed], actual: list[Observed]) -> str | None:
    """How the program's outputs differ from eager's; None if they do not."""
    if len(expected) != len(actual):
        return f"there are {len(expected)} outputs there, and {len(actual)} by the export"
    for index, (eager, program) in enumerate(zip(expected, actual, strict=True)):
        if not isinstance(eager, Tensor) or not isinstance(program, Tensor):
            if eager != program:
                eager_text = _text(eager)
                program_text = _text(program)
                return f"output {index} is {eager_text} there, and {program_text} by the export"
            continue
        if eager.shape != program.shape:
            return _other_shape(index, _shape(eager), _shape(program))
        if _relative_rmse(eager, program) > _SAME:
            return f"the values of output {index} differ there"
    return None


def _other_shape(
    index: int,
    eager: list[int] | None,
    program: list[int] | None,
) -> str:
    return f"output {index} has the shape {eager} there, and {program} by the export"


def _text(value: Observed) -> str:
    if isinstance(value, Plain):
        return value.text
    if value is None:
        return "nothing"
    return "a tensor"


def _relative_rmse(eager: Tensor, program: Tensor) -> float:
    """The RMSE relative to the RMS of eager's values. Positions at which one of the two is not
    finite do not count: the reference cases check those."""
    dtype = torch.complex128 if eager.is_complex() else torch.float64
    expected = eager.to(dtype)
    actual = program.to(dtype)
    finite = torch.isfinite(expected) & torch.isfinite(actual)
    error = rms_of((expected - actual)[finite])
    if not error:
        return 0.0
    scale = rms_of(expected[finite])
    if not scale:
        return math.inf
    return error / scale


def _refusal(
    sizes: Sizes,
    dims: tuple[Dim, ...],
    why: str,
    where: Mapping[str, str],
) -> BuildError:
    """The error for a program that is wrong at these sizes."""
    name = dims[0].name
    hint = "the model does something of its own at this size: take it out of the range"
    ones = [dim.name for dim in dims if sizes[dim.name] == 1]
    if ones:
        name = ones[0]
        hint = (
            f"declare `min: 2` for {name}, and give {name} 1 a model of its own in models.yaml,"
            " with the number 1 in its shapes; or let the model treat 1 as other sizes"
        )
    size_list = ", ".join(f"{dim} {size}" for dim, size in sizes.items())
    return BuildError(
        f"no single export serves all declared sizes of {name}",
        where=where.get(f"dims.{name}", where["inputs"]),
        cause=f"with {size_list}: {why}",
        hint=hint,
    )
