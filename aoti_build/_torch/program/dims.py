"""The sizes that follow dims in torch.export's terms, and its symbols in terms of the dims.

torch.export takes ``a * Dim + b`` for sizes that follow one dim, and requires that form: it refuses
two independent Dims that a model relates. Each dim has one root, of which its sizes are made:

- the dim itself, or the number of its steps (`multiple_of`), where that is at least 2. For a root
  that is the size of no axis, torch takes the minimum to be at least 2, whatever is declared
  (``8 * Dim(min=1)`` has the range 16.. in torch 2.14);
- otherwise the size of an axis, the smallest one that follows the dim.

A size that follows two dims, or is not a multiple of the root, gets a symbol of its own and an
assertion that it is what was declared. The assertion is compiled into the artifact.

On request every size gets a symbol of its own. For a Dim, torch solves the model's conditions for
the sizes where they hold, and gives up where it cannot, even if they hold for all declared sizes.
The halves of ``torch.cat([x, y]).chunk(2)`` have such a condition: ``(3*s - 1)//s == 2`` (torch
2.14). For a symbol torch only records the condition.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.export import Dim as ExportDim
from torch.utils import _pytree as pytree

from aoti_build._torch.program.axes import Axes
from aoti_build._torch.program.inputs import Call
from aoti_build.common.sizes import Size, Term, solution_order
from aoti_build.models_file.project import Dim

# torch's symbols (of sympy) -> expressions of the dims. sympy is imported where it is used, because
# most jobs do not need it.
SymbolNames: TypeAlias = Mapping[Any, Any]


def ranges(dims: tuple[Dim, ...]) -> dict[str, tuple[int, int]]:
    """The minimum and the maximum of each dim, by its name."""
    return {dim.name: (dim.min, dim.max) for dim in dims}


class _Line(NamedTuple):
    """``slope * n + offset``, where n is the number of a dim's steps."""

    slope: int
    offset: int


@dataclass(frozen=True)
class _Root:
    """torch's Dim of which the sizes of one dim are made.

    It is `line` at n where the dim is ``step * n``.
    """

    export_dim: Any
    step: int
    line: _Line

    @classmethod
    def of(cls, dim: Dim, sizes: Iterable[Size]) -> _Root | None:
        """The root for a dim that these sizes follow; None if each of them needs a symbol of its
        own."""
        step = dim.multiple_of
        if dim.min >= 2 * step:
            name = dim.name if step == 1 else f"_{dim.name}"
            export_dim = ExportDim(name, min=dim.min // step, max=dim.max // step)
            return cls(export_dim, step, _Line(1, 0))
        smallest: Size | None = None
        smallest_line: _Line | None = None
        for size in sizes:
            line = _line_of(size, step)
            # torch's derived Dims only rise (`_DerivedDim` in torch/export/dynamic_shapes.py).
            if line.slope > 0 and (smallest_line is None or line < smallest_line):
                smallest, smallest_line = size, line
        if smallest is None or smallest_line is None:
            return None
        low, high = smallest.bounds({dim.name: (dim.min, dim.max)})
        name = dim.name if smallest.plain else f"_{dim.name}"
        return cls(ExportDim(name, min=low, max=high), step, smallest_line)

    def derived(self, size: Size) -> Any:
        """Torch's Dim for a size of this dim alone; None if it is not a multiple of the root."""
        line = _line_of(size, self.step)
        factor, remainder = divmod(line.slope, self.line.slope)
        if remainder or factor < 1:
            return None
        shift = line.offset - factor * self.line.offset
        # ``1 * Dim`` and ``Dim + 0`` would be derived Dims, which torch tells from the root.
        derived = self.export_dim if factor == 1 else factor * self.export_dim
        return derived + shift if shift else derived


def _line_of(size: Size, step: int) -> _Line:
    """A size of one dim, in that dim's steps."""
    (term,) = size.terms
    return _Line(term.factor * step // term.divisor, size.constant)


class ExportSizes:
    """How the sizes of a call that follow dims are exported: as torch's Dims, or each with a symbol
    of its own (all of them with `own_symbols`)."""

    def __init__(
        self,
        dims: tuple[Dim, ...],
        axes: list[Axes],
        *,
        own_symbols: bool = False,
    ) -> None:
        self.dims = {dim.name: dim for dim in dims}
        self.axes = axes
        self._exported: dict[Size, Any] = {}  # torch's Dim for each size
        self._asserted: set[Size] = set()  # those with a symbol of their own
        sizes = _distinct_sizes(axes)
        roots = {} if own_symbols else _roots(dims, sizes)
        for size in sizes:
            root = None
            if len(size.terms) == 1:
                root = roots.get(size.names[0])
            export_dim = root.derived(size) if root else None
            if export_dim is None:
                low, high = size.bounds(ranges(dims))
                export_dim = ExportDim.AUTO(min=low, max=high)
                self._asserted.add(size)
            self._exported[size] = export_dim

    def shapes(self) -> list[dict[int, Any] | None]:
        """For each leaf of the call {axis: torch's Dim}; None for a leaf that is constant."""
        shapes: list[dict[int, Any] | None] = []
        for leaf_axes in self.axes:
            shape = {axis: self._exported[size] for axis, size in leaf_axes.items()}
            shapes.append(shape or None)
        return shapes

    @contextmanager
    def asserted(self, module: torch.nn.Module, call: Call) -> Iterator[None]:
        """Exports of `module` inside assert, of each size with a symbol of its own, that it is what
        was declared."""
        if not self._asserted:
            yield
            return

        def before_forward(_: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
            # In the order of the call: forward's parameters may have another one.
            ordered = {name: kwargs[name] for name in call.kwargs}
            self._assert_declared(pytree.tree_leaves((args, ordered)))

        handle = module.register_forward_pre_hook(before_forward, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _assert_declared(self, leaves: list[Any]) -> None:
        sizes: list[Size] = []
        positions: list[tuple[int, int]] = []  # leaf and axis of each size
        for leaf, leaf_axes in enumerate(self.axes):
            for axis, size in leaf_axes.items():
                sizes.append(size)
                positions.append((leaf, axis))
        values: dict[str, Any] = {}
        for index, dim_name in solution_order(sizes):
            size = sizes[index]
            leaf, axis = positions[index]
            traced = leaves[leaf].shape[axis]
            if dim_name is not None:
                self._solve(size, traced, dim_name, values)
            elif size in self._asserted:
                torch._check(traced == size.at(values))

    def _solve(self, size: Size, traced: Any, dim_name: str, values: dict[str, Any]) -> None:
        """Add the value of a dim for which `size` is `traced`, and assert that it is possible."""
        term = _term_of(size, dim_name)
        rest = size.at({**values, dim_name: 0})
        scaled = (traced - rest) * term.divisor
        value = scaled // term.factor
        values[dim_name] = value
        if size in self._asserted:
            dim = self.dims[dim_name]
            torch._check(value >= dim.min)
            torch._check(value <= dim.max)
            if abs(term.factor) > 1:
                torch._check(scaled % term.factor == 0)


def _distinct_sizes(axes: list[Axes]) -> list[Size]:
    """Each size once, in the order of the call."""
    sizes: dict[Size, None] = {}
    for leaf_axes in axes:
        sizes.update(dict.fromkeys(leaf_axes.values()))
    return list(sizes)


def _roots(dims: tuple[Dim, ...], sizes: list[Size]) -> dict[str, _Root | None]:
    roots = {}
    for dim in dims:
        following = [size for size in sizes if size.names == (dim.name,)]
        roots[dim.name] = _Root.of(dim, following)
    return roots


def _term_of(size: Size, dim_name: str) -> Term:
    return next(term for term in size.terms if term.name == dim_name)


class _Equation(NamedTuple):
    """A size as it was traced (sympy's expression of torch's symbols), and as it is declared."""

    traced: Any
    declared: Size


def names_of_symbols(values: list[Any], axes: list[Axes]) -> SymbolNames:
    """Torch's anonymous symbols in terms of the dims: s17 -> batch, or s9 -> seq/8 for 8 * s9.

    `values` are the traced values of the inputs.
    """
    equations = []
    for value, value_axes in zip(values, axes, strict=True):
        for axis, size in value_axes.items():
            equations.append(_Equation(value.shape[axis].node.expr, size))
    # A symbol alone and a dim alone first: they give the shortest spelling of each symbol.
    equations.sort(key=_complexity)
    names: dict[Any, Any] = {}
    for traced, declared in equations:
        unknown = traced.free_symbols - names.keys()
        if len(unknown) != 1:
            continue
        (symbol,) = unknown
        slope = traced.coeff(symbol)
        rest = (traced - slope * symbol).subs(names)
        names[symbol] = (expression_of(declared) - rest) / slope
    return names


def _complexity(equation: _Equation) -> tuple[bool, bool]:
    return (not equation.traced.is_symbol, equation.declared.plain is None)


def expression_of(size: Size) -> Any:
    """A size as sympy's expression of the dims."""
    import sympy

    total = sympy.Integer(size.constant)
    for term in size.terms:
        dim = sympy.Symbol(term.name, integer=True, positive=True)
        total += sympy.Rational(term.factor, term.divisor) * dim
    return total


def spelling_of(expression: Any) -> str:
    """An expression of the dims as models.yaml spells sizes; in sympy's spelling if it is not
    affine."""
    import sympy

    factors: dict[str, tuple[int, int]] = {}
    constant = 0
    coefficients = sympy.expand(expression).as_coefficients_dict()
    for term, factor in coefficients.items():
        if term == 1 and factor.is_Integer:
            constant = int(factor)
        elif term.is_Symbol and factor.is_Rational:
            factors[term.name] = int(factor.p), int(factor.q)
        else:
            return str(expression)
    return str(Size.of(factors, constant))
