"""The sizes that follow dims in torch.export's terms, and its symbols in terms of the dims.

torch.export takes ``a * Dim + b`` for sizes that follow one dim, and wants them so: two independent
Dims that a model relates are refused. Each dim has one root, of which its sizes are made:

- the dim itself, or the number of its steps (`multiple_of`), where that is 2 or more at the least.
  A root that is the size of no axis is taken to be at least 2 whatever its declared minimum (seen
  in 2.14: ``8 * Dim(min=1)`` has the range 16..);
- else the size of an axis, the least one that follows the dim.

A size that follows two dims, or is no multiple of the root, gets a symbol of its own, and an
assertion that it is what was declared, which is compiled into the artifact. So does every size if
asked for: torch solves what a model asks of a Dim for the sizes where it holds, and gives up where
it cannot, even if all declared sizes fulfil it (the halves of ``torch.cat([x, y]).chunk(2)`` ask
for ``(3*s - 1)//s == 2``; seen in 2.14). Of a symbol it only notes the question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import Dim as ExportDim
from torch.utils import _pytree as pytree

from aoti_build._torch.program.axes import Axes
from aoti_build._torch.program.inputs import Call
from aoti_build.common.sizes import Size, solution_order
from aoti_build.models_file.project import Dim


def ranges(dims: tuple[Dim, ...]) -> dict[str, tuple[int, int]]:
    """The ends of each dim by its name."""
    return {dim.name: (dim.min, dim.max) for dim in dims}


@dataclass(frozen=True)
class _Root:
    """torch's Dim, of which the sizes of a dim are made: it is ``slope * n + offset`` where the dim
    is ``step * n``."""

    made: Any
    step: int
    slope: int = 1
    offset: int = 0

    @classmethod
    def of(cls, dim: Dim, sizes: Iterable[Size]) -> _Root | None:
        """The root for a dim that these sizes follow; None where a symbol of its own serves each of
        them."""
        step = dim.multiple_of
        if dim.min >= 2 * step:
            name = dim.name if step == 1 else f"_{dim.name}"
            return cls(ExportDim(name, min=dim.min // step, max=dim.max // step), step)
        rising = [(*_in_steps(size, step), size) for size in sizes if size.terms[0].factor > 0]
        if not rising:
            return None
        slope, offset, size = min(rising, key=lambda found: found[:2])
        low, high = size.bounds({dim.name: (dim.min, dim.max)})
        name = dim.name if size.plain else f"_{dim.name}"
        return cls(ExportDim(name, min=low, max=high), step, slope, offset)

    def derived(self, size: Size) -> Any:
        """Torch's Dim for a size of this dim alone; None if it is no multiple of the root."""
        slope, offset = _in_steps(size, self.step)
        factor, left = divmod(slope, self.slope)
        if left or factor < 1:
            return None
        shift = offset - factor * self.offset
        made = self.made if factor == 1 else factor * self.made
        if shift > 0:
            return made + shift
        return made - -shift if shift else made


def _in_steps(size: Size, step: int) -> tuple[int, int]:
    """Slope and offset of a size of one dim, in that dim's steps."""
    (term,) = size.terms
    return term.factor * step // term.divisor, size.constant


class ExportSizes:
    """How the sizes of a call that follow dims are exported: as torch's Dims, or each with a symbol
    of its `own`."""

    def __init__(self, dims: tuple[Dim, ...], axes: list[Axes], *, own: bool = False) -> None:
        self.dims = {dim.name: dim for dim in dims}
        self.axes = axes
        self._made: dict[Size, Any] = {}
        self._asserted: set[Size] = set()  # those with a symbol of their own
        sizes = dict.fromkeys(size for found in axes for size in found.values())
        single = [size for size in sizes if len(size.terms) == 1]
        roots = {
            dim.name: _Root.of(dim, [size for size in single if size.names[0] == dim.name])
            for dim in dims
        }
        for size in sizes:
            root = roots[size.names[0]] if len(size.terms) == 1 and not own else None
            made = root and root.derived(size)
            if made is None:
                low, high = size.bounds(ranges(dims))
                made = ExportDim.AUTO(min=low, max=high)
                self._asserted.add(size)
            self._made[size] = made

    def shapes(self) -> list[dict[int, Any] | None]:
        """For each leaf of the call {axis: what torch.export takes}, or None."""
        return [
            {axis: self._made[size] for axis, size in found.items()} or None for found in self.axes
        ]

    @contextmanager
    def asserted(self, module: torch.nn.Module, call: Call) -> Iterator[None]:
        """Exports of `module` inside assert, of each size with a symbol of its own, that it is what
        was declared."""
        if not self._asserted:
            yield
            return

        def before(_: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
            self._assert(pytree.tree_leaves((args, {name: kwargs[name] for name in call.kwargs})))

        handle = module.register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _assert(self, leaves: list[Any]) -> None:
        places = [
            (leaf, axis, size)
            for leaf, found in enumerate(self.axes)
            for axis, size in found.items()
        ]
        values: dict[str, Any] = {}
        for index, tells in solution_order([size for _, _, size in places]):
            leaf, axis, size = places[index]
            given = leaves[leaf].shape[axis]
            if tells is None:
                if size in self._asserted:
                    torch._check(given == size.at(values))
                continue
            term = next(term for term in size.terms if term.name == tells)
            scaled = (given - size.at({**values, tells: 0})) * term.divisor
            values[tells] = scaled // term.factor
            if size in self._asserted:
                dim = self.dims[tells]
                torch._check(values[tells] >= dim.min)
                torch._check(values[tells] <= dim.max)
                if abs(term.factor) > 1:
                    torch._check(scaled % term.factor == 0)


def names_of_symbols(values: list[Any], axes: list[Axes]) -> dict[Any, Any]:
    """Torch's anonymous symbols in terms of the dims: s17 -> batch, or seq/8 for 8 * s9; `values`
    are what the inputs were traced as."""
    places = [
        (value.shape[axis].node.expr, size)
        for value, found in zip(values, axes, strict=True)
        for axis, size in found.items()
    ]
    # The shortest spelling of each symbol.
    places.sort(key=lambda place: (not place[0].is_symbol, place[1].plain is None))
    names: dict[Any, Any] = {}
    for expression, size in places:
        unknown = expression.free_symbols - names.keys()
        if len(unknown) == 1:
            (symbol,) = unknown
            slope = expression.coeff(symbol)
            names[symbol] = (
                expression_of(size) - (expression - slope * symbol).subs(names)
            ) / slope
    return names


def expression_of(size: Size) -> Any:
    """A size as sympy's expression of the dims."""
    import sympy

    terms = (sympy.Rational(term.factor, term.divisor) * _symbol(term.name) for term in size.terms)
    return sum(terms, sympy.Integer(size.constant))


def _symbol(name: str) -> Any:
    import sympy

    return sympy.Symbol(name, integer=True, positive=True)


def spelt(expression: Any) -> str:
    """An expression of the dims: as a size is spelt where it is affine, else in torch's words."""
    import sympy

    factors: dict[str, tuple[int, int]] = {}
    constant = 0
    for term, factor in sympy.expand(expression).as_coefficients_dict().items():
        if term == 1 and factor.is_Integer:
            constant = int(factor)
        elif term.is_Symbol and factor.is_Rational:
            factors[term.name] = int(factor.p), int(factor.q)
        else:
            return str(expression)
    return str(Size.of(factors, constant))
