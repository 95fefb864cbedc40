"""Proof that an exported program has exactly the declared sizes, and its sizes as numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.export import ExportedProgram

from aoti_build._torch.program.axes import Axes
from aoti_build._torch.program.dims import (
    SymbolNames,
    expression_of,
    names_of_symbols,
    ranges,
    spelling_of,
)
from aoti_build._torch.program.values import input_values, output_values
from aoti_build.common.sizes import Size
from aoti_build.errors import BuildError
from aoti_build.models_file.project import Dim


class Range(NamedTuple):
    """The smallest and the largest size, both possible."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"


class _DynamicSize(NamedTuple):
    """A size of an input that follows dims: as models.yaml declares it, and as it was traced."""

    declared: Size
    traced: int | torch.SymInt

    @property
    def label(self) -> str:
        kind = "dim" if self.declared.plain else "size"
        return f"{kind} {self.declared}"


def check_ranges(
    program: ExportedProgram,
    dims: tuple[Dim, ...],
    axes: list[Axes],
    where: Mapping[str, str],
    *,
    from_two: bool,
) -> None:
    """Refuse a program that has not exactly the declared sizes. torch.export may narrow them
    without an error.

    With `from_two` the tracer took every size to be 2 or more, as it does by default. That is no
    bound of the program: it still says 1 where 1 is declared (torch 2.11 and 2.14). The caller must
    show that the program is right there.

    Raises:
        BuildError: A declared size became a constant, got another range or follows other dims. The
            error has the position of the dim from `where`.
    """
    sizes = list(_dynamic_sizes(program, axes))
    limits = ranges(dims)
    for size in sizes:
        declared = Range(*size.declared.bounds(limits))
        _check_range(program, size, declared, where, from_two)
    symbols = named_symbols(program, axes)
    for size in sizes:
        _check_relation(size, symbols, where)


def _dynamic_sizes(program: ExportedProgram, axes: list[Axes]) -> Iterator[_DynamicSize]:
    for value, value_axes in zip(input_values(program), axes, strict=True):
        for axis, declared in value_axes.items():
            yield _DynamicSize(declared, value.shape[axis])


def _check_range(
    program: ExportedProgram,
    size: _DynamicSize,
    declared: Range,
    where: Mapping[str, str],
    from_two: bool,
) -> None:
    if not isinstance(size.traced, torch.SymInt):
        raise BuildError(
            f"the {size.label} became the constant {size.traced} in the export",
            where=_position(size.declared, where),
            hint="something in the model fixes this size: write it as a number, or choose another"
            " example",
        )
    exported = _exported_range(program, size.traced, from_two)
    if exported != declared:
        raise BuildError(
            f"the {size.label} is declared {declared}, but the exported model allows {exported}",
            where=_position(size.declared, where),
            hint="declare the range that the model allows",
        )


def _check_relation(size: _DynamicSize, symbols: SymbolNames, where: Mapping[str, str]) -> None:
    exported = _expression(size.traced).subs(symbols)
    difference = exported - expression_of(size.declared)
    if difference.expand() != 0:
        raise BuildError(
            f"the {size.label} became {spelling_of(exported)} in the export",
            where=_position(size.declared, where),
            hint="something in the model ties these sizes: declare them as the model relates them",
        )


def _position(size: Size, where: Mapping[str, str]) -> str:
    """The position in models.yaml of a size: that of its dim if it is one."""
    return where[f"dims.{size}" if size.plain else "inputs"]


def _exported_range(program: ExportedProgram, size: torch.SymInt, from_two: bool) -> Range:
    """The sizes that compiled code will take to be possible.

    The program has ranges (`range_constraints`), and so has the tracer (`var_to_range`), from which
    inductor generates code and input checks. The two can differ, and the narrower one counts.
    """
    from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

    expression = size.node.expr
    tracer = size.node.shape_env
    assumed = dict(tracer.var_to_range) if tracer else {}
    if from_two:
        for symbol in expression.free_symbols & set(assumed):
            constraint = program.range_constraints.get(symbol)
            if constraint is None:
                continue
            # The 2 of torch/fx/experimental/symbolic_shapes.py (`specialize_zero_one`).
            if constraint.lower < 2 and assumed[symbol].lower == 2:
                assumed[symbol] = ValueRanges(constraint.lower, assumed[symbol].upper)
    by_program = bound_sympy(expression, program.range_constraints)
    by_tracer = bound_sympy(expression, assumed)
    return Range(
        max(int(by_program.lower), int(by_tracer.lower)),
        min(int(by_program.upper), int(by_tracer.upper)),
    )


def named_symbols(program: ExportedProgram, axes: list[Axes]) -> SymbolNames:
    """Torch's symbols for the sizes of the inputs, in terms of the dims."""
    return names_of_symbols(input_values(program), axes)


def output_shapes(
    program: ExportedProgram,
    symbols: SymbolNames,
    sizes: Mapping[str, int],
) -> list[list[int] | None]:
    """The shape that the export gives each output at these sizes of the dims; None for an output
    that is not a tensor, and for a shape that depends on data."""
    return [_shape_at(value, symbols, sizes) for value in output_values(program)]


def _shape_at(value: Any, symbols: SymbolNames, sizes: Mapping[str, int]) -> list[int] | None:
    if not isinstance(value, torch.Tensor):
        return None
    shape = []
    for size in value.shape:
        expression = _expression(size)
        if not isinstance(expression, int) and not expression.free_symbols <= set(symbols):
            return None
        shape.append(_size_at(expression, symbols, sizes))
    return shape


def _size_at(expression: Any, symbols: SymbolNames, sizes: Mapping[str, int]) -> int:
    """The value of an expression of torch's symbols at these sizes of the dims."""
    if isinstance(expression, int):
        return expression
    by_dims = expression.subs(symbols)
    return int(by_dims.subs({symbol: sizes[str(symbol)] for symbol in by_dims.free_symbols}))


def _expression(size: int | torch.SymInt) -> Any:
    """Sympy's expression for a size of a traced tensor; a number for one that is constant."""
    return size.node.expr if isinstance(size, torch.SymInt) else size


def declared_minimums(
    program: ExportedProgram,
    dims: tuple[Dim, ...],
    axes: list[Axes],
) -> dict[str, int]:
    """The declared minimum of each of torch's symbols that stands alone for an axis, by the
    symbol's name."""
    limits = ranges(dims)
    minimums = {}
    for size in _dynamic_sizes(program, axes):
        expression = _expression(size.traced)
        if expression.is_symbol:
            minimum, _ = size.declared.bounds(limits)
            minimums[str(expression)] = minimum
    return minimums
