"""Assertions of an exported program that exclude declared sizes, and which of them can be lifted.

While torch.export traces a model with symbols for its sizes, it often has to know whether a size is
1, or whether two sizes are equal. It decides by the example, and excludes the sizes of the opposite
answer by an assertion such as ``Ne(s27, 12)`` in the graph. Often both answers lead to the same
operations, for instance where `y[:, :n] = x` covers all of `y` for one n. Then the assertion is the
only obstacle, and it is lifted here. The caller must show that the program is right at the sizes
that a lifted assertion excluded.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.export import ExportedProgram

from aoti_build._torch.program.dims import SymbolNames
from aoti_build.errors import BuildError
from aoti_build.models_file.project import Dim

# Combinations of sizes that are evaluated for one assertion.
_MAX_COMBINATIONS = 5_000
# Excluded sizes that become reference cases.
_MAX_SPECIAL = 4

# The sizes of some dims, by their names.
Sizes = dict[str, int]


@dataclass(frozen=True)
class Assertion:
    """A node of the graph that stops a call, and the condition under which it does not."""

    node: torch.fx.Node
    condition: Any


class _Candidates(NamedTuple):
    """Declared sizes of the dims that a condition depends on, and whether these are all."""

    sizes: list[Sizes]
    are_all: bool


def lift_assertions(
    program: ExportedProgram,
    dims: tuple[Dim, ...],
    symbols: SymbolNames,
    where: Mapping[str, str],
) -> list[Sizes]:
    """Remove assertions that exclude a few declared sizes, or those where two sizes are equal.

    `symbols` has torch's symbols in terms of the dims, and `where` the position of each dim in
    models.yaml, by ``dims.NAME``. Returns sizes that were excluded: all of them if they are few,
    otherwise some from the whole range. Each has the dims that the condition depends on.

    Raises:
        BuildError: An assertion excludes many declared sizes, such as all that are not multiples of
            8.
    """
    special: list[Sizes] = []
    # The same condition is often asserted several times.
    excluded_by: dict[str, list[Sizes]] = {}
    for assertion in list(_assertions(program)):
        if not assertion.condition.free_symbols <= set(symbols):
            continue  # it depends on data, so it is evaluated in every call
        text = str(assertion.condition)
        if text not in excluded_by:
            excluded_by[text] = _excluded_sizes(assertion.condition, dims, symbols, where)
        for sizes in excluded_by[text]:
            if sizes not in special:
                special.append(sizes)
        if excluded_by[text]:
            _remove(program, assertion.node)
    return special


def _assertions(program: ExportedProgram) -> Iterator[Assertion]:
    for node in program.graph.nodes:
        if node.target is not torch.ops.aten._assert_scalar.default:
            continue
        value = node.args[0]
        if isinstance(value, torch.fx.Node):
            value = value.meta.get("val")
        if isinstance(value, torch.SymBool):
            yield Assertion(node, value.node.expr)


def _excluded_sizes(
    condition: Any,
    dims: tuple[Dim, ...],
    symbols: SymbolNames,
    where: Mapping[str, str],
) -> list[Sizes]:
    """The declared sizes that a condition excludes, or some of them; none if it may stay. Raises
    `BuildError`."""
    import sympy

    relevant = _dims_of(condition, dims, symbols)
    candidates = _candidate_sizes(relevant)
    possible = list(candidates.sizes)
    is_inequality = isinstance(condition, sympy.Ne)
    if is_inequality and not candidates.are_all:
        # Among sizes that are only sampled there may be none at which the two sides are equal.
        possible += _sizes_of_equality(condition.subs(symbols), relevant, candidates.sizes)
    holds = _evaluator(condition, relevant, symbols)
    distinct: dict[tuple[int, ...], Sizes] = {}
    for sizes in possible:
        if not holds(sizes):
            distinct[tuple(sizes.values())] = sizes
    excluded = list(distinct.values())
    are_few = candidates.are_all and len(excluded) <= _MAX_SPECIAL
    if excluded and not are_few and not is_inequality:
        raise _refusal(condition, relevant, excluded, symbols, where)
    return _spread(excluded)


def _dims_of(condition: Any, dims: tuple[Dim, ...], symbols: SymbolNames) -> list[Dim]:
    """The dims that `condition` depends on."""
    names = set()
    for symbol in condition.free_symbols:
        for dim_symbol in symbols[symbol].free_symbols:
            names.add(str(dim_symbol))
    return [dim for dim in dims if dim.name in names]


def _candidate_sizes(dims: list[Dim]) -> _Candidates:
    """Combinations of declared sizes: all of them, or a sample of each dim's if they are too
    many."""
    ranges = [_declared_sizes(dim) for dim in dims]
    combinations = math.prod(len(sizes) for sizes in ranges)
    if combinations <= _MAX_COMBINATIONS:
        return _Candidates(_product(dims, ranges), are_all=True)
    # The same number of sizes for each dim.
    count = int(_MAX_COMBINATIONS ** (1 / len(dims)))
    samples = [_sample(sizes, count) for sizes in ranges]
    return _Candidates(_product(dims, samples), are_all=False)


def _product(dims: list[Dim], ranges: Sequence[Sequence[int]]) -> list[Sizes]:
    names = [dim.name for dim in dims]
    return [dict(zip(names, sizes, strict=True)) for sizes in itertools.product(*ranges)]


def _declared_sizes(dim: Dim) -> range:
    return range(dim.min, dim.max + 1, dim.multiple_of)


def _sample(sizes: range, count: int) -> Sequence[int]:
    """The ends of a range and others at random, the same ones each time.

    Evenly spaced sizes may all be multiples of a number that a condition requires.
    """
    if len(sizes) <= count:
        return sizes
    generator = random.Random(0)  # noqa: S311 - not for secrets
    return sorted({sizes[0], sizes[-1], *generator.sample(sizes, count - 2)})


def _sizes_of_equality(condition: Any, dims: list[Dim], sampled: list[Sizes]) -> Iterator[Sizes]:
    """Declared sizes at which the two sides of an inequality are equal.

    The difference is solved for each dim in which it is linear, with `sampled` sizes of the other
    dims.
    """
    difference = (condition.lhs - condition.rhs).expand()
    unknowns = {symbol.name: symbol for symbol in difference.free_symbols}
    for dim in dims:
        if dim.name not in unknowns:
            continue
        unknown = unknowns[dim.name]
        slope = difference.diff(unknown)
        if slope == 0 or not slope.is_Rational:
            continue
        other_names = [name for name in unknowns if name != dim.name]
        for sizes in _distinct(sampled, other_names):
            values = {unknowns[name]: size for name, size in sizes.items()}
            values[unknown] = 0
            rest = difference.subs(values)
            solution = -rest / slope
            if solution.is_Integer and _is_declared(int(solution), dim):
                solved = {**sizes, dim.name: int(solution)}
                # In the order of `dims`: equal sizes are recognised by the tuple of their values.
                yield {each.name: solved[each.name] for each in dims}


def _distinct(sampled: list[Sizes], names: list[str]) -> list[Sizes]:
    """The different sizes of some of the dims, in the order of the sample."""
    distinct: dict[tuple[int, ...], Sizes] = {}
    for sizes in sampled:
        values = tuple(sizes[name] for name in names)
        distinct[values] = dict(zip(names, values, strict=True))
    return list(distinct.values())


def _is_declared(size: int, dim: Dim) -> bool:
    return dim.min <= size <= dim.max and size % dim.multiple_of == 0


def _evaluator(condition: Any, dims: list[Dim], symbols: SymbolNames) -> Callable[[Sizes], bool]:
    """A function that evaluates `condition` at sizes of the dims that it depends on."""
    import sympy
    from torch.utils._sympy.interp import sympy_interp
    from torch.utils._sympy.reference import PythonReferenceAnalysis

    # Compiled by lambdify, because there may be thousands of sizes. The condition itself has
    # functions of torch (FloorDiv in torch/utils/_sympy/functions.py), for its own interpreter.
    dim_symbols = [sympy.Symbol(dim.name, integer=True, positive=True) for dim in dims]
    functions = {}
    for symbol in condition.free_symbols:
        functions[symbol] = sympy.lambdify(dim_symbols, symbols[symbol], "math")

    def holds(sizes: Sizes) -> bool:
        values = {symbol: int(function(*sizes.values())) for symbol, function in functions.items()}
        try:
            return bool(sympy_interp(PythonReferenceAnalysis, values, condition))
        except ZeroDivisionError:
            return False  # the model divides by zero at these sizes

    return holds


def _spread(excluded: list[Sizes]) -> list[Sizes]:
    """A few of the sizes: the first, the last, and some in between."""
    if len(excluded) <= _MAX_SPECIAL:
        return excluded
    last = len(excluded) - 1
    return [excluded[last * index // (_MAX_SPECIAL - 1)] for index in range(_MAX_SPECIAL)]


def _remove(program: ExportedProgram, node: torch.fx.Node) -> None:
    """Erase an assertion and the nodes that only it needed."""
    candidates = [node]
    while candidates:
        candidate = candidates.pop()
        if candidate.users or candidate.op != "call_function":
            continue
        sources = list(candidate.all_input_nodes)
        program.graph.erase_node(candidate)
        candidates += sources
    program.graph_module.recompile()


def _refusal(
    condition: Any,
    dims: list[Dim],
    excluded: list[Sizes],
    symbols: SymbolNames,
    where: Mapping[str, str],
) -> BuildError:
    """The error for an assertion that excludes many declared sizes."""
    by_dims = str(condition.subs(symbols))
    names = " and ".join(dim.name for dim in dims)
    first = ", ".join(f"{name} {size}" for name, size in excluded[0].items())
    hint = f"declare only sizes for which {by_dims}"
    if len(dims) == 1:
        step = _step(dims[0], excluded)
        if step is not None:
            hint = f"give {dims[0].name} `multiple_of: {step}`"
    return BuildError(
        f"the model cannot be called with {len(excluded)} of the declared sizes of {names}, such as"
        f" {first}",
        where=where[f"dims.{dims[0].name}"],
        cause=f"the exported program asserts {by_dims}",
        hint=hint,
    )


def _step(dim: Dim, excluded: list[Sizes]) -> int | None:
    """The number of which exactly the allowed sizes of `dim` are multiples; None if there is
    none."""
    refused = {sizes[dim.name] for sizes in excluded}
    allowed = [size for size in _declared_sizes(dim) if size not in refused]
    if not allowed:
        return None
    step = math.gcd(*allowed)
    if step <= dim.multiple_of:
        return None
    multiples = [size for size in _declared_sizes(dim) if size % step == 0]
    return step if multiples == allowed else None
