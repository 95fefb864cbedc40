"""Sizes that torch takes to be impossible although models.yaml declares them, and what may be done
about it.

While torch.export traces a model with symbols for its sizes, it often has to know whether a size is
1, or whether two sizes are equal. The answer of the example decides, and the export puts the other
answer's sizes out of reach by an assertion such as ``Ne(s27, 12)`` in the graph. Often both answers
lead to the same operations, for instance where `y[:, :n] = x` covers all of `y` for one n. Then the
assertion alone stands in the way, and it is lifted here. Whoever lifts an assertion shows that the
program is right at the sizes it excluded.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram

from aoti_build.errors import BuildError
from aoti_build.models_file.project import Dim

# At most so many combinations of sizes are evaluated for one assertion.
_MOST_SIZES = 5_000
# At most so many of the excluded ones become reference cases.
_MOST_SPECIAL = 4

Sizes = dict[str, int]


@dataclass(frozen=True)
class Assertion:
    """A node of the graph that stops a call, and the condition under which it lets it pass."""

    node: torch.fx.Node
    condition: Any

    @property
    def text(self) -> str:
        return str(self.condition)


def lift_assertions(
    program: ExportedProgram,
    dims: tuple[Dim, ...],
    named: Mapping[Any, Any],
    where: Mapping[str, str],
) -> list[Sizes]:
    """Take the assertions out of the graph that exclude a few declared sizes, or those where two
    things are equal.

    `named` gives torch's symbols in terms of the dims' names, `where` the place of each dim in
    models.yaml, by ``dims.NAME``. Returns sizes that were excluded: all of them if they are few,
    else some from the whole range. Each holds the sizes of the dims that the condition speaks of.

    Raises: BuildError: an assertion excludes many declared sizes, such as all that are no multiple
        of 8.
    """
    special: list[Sizes] = []
    known: dict[str, list[Sizes]] = {}
    for assertion in list(_assertions(program)):
        if not assertion.condition.free_symbols <= set(named):
            continue  # it speaks of data, and only a call can tell
        if assertion.text not in known:
            known[assertion.text] = _excluded(assertion, dims, named, where)
        special += [sizes for sizes in known[assertion.text] if sizes not in special]
        if known[assertion.text]:
            _remove(program, assertion.node)
    return special


def _excluded(
    assertion: Assertion, dims: tuple[Dim, ...], named: Mapping[Any, Any], where: Mapping[str, str]
) -> list[Sizes]:
    """The declared sizes that an assertion excludes, or some of them; none if it may stay. Raises
    `BuildError`."""
    import sympy

    spoken_of = _dims_of(assertion.condition, dims, named)
    possible, all_of_them = _possible(spoken_of)
    is_unequal = isinstance(assertion.condition, sympy.Ne)
    if is_unequal and not all_of_them:
        possible += _equal(assertion.condition.subs(named), spoken_of, possible)
    holds = _evaluated(assertion.condition, spoken_of, named)
    excluded = list(
        {tuple(sizes.values()): sizes for sizes in possible if not holds(sizes)}.values()
    )
    few = all_of_them and len(excluded) <= _MOST_SPECIAL
    if excluded and not few and not is_unequal:
        raise _refusal(assertion, spoken_of, excluded, named, where)
    return _spread(excluded)


def _equal(condition: Any, dims: list[Dim], some: list[Sizes]) -> Iterator[Sizes]:
    """Declared sizes at which the two sides of an inequality are equal, where these are linear in
    one of the dims: with `some` sizes of the others. Among sizes that are only sampled there may be
    none."""
    difference = (condition.lhs - condition.rhs).expand()
    symbols = {symbol.name: symbol for symbol in difference.free_symbols}
    for dim in dims:
        if dim.name not in symbols:
            continue
        slope = difference.diff(symbols[dim.name])
        if slope == 0 or not slope.is_Rational:
            continue
        others = [name for name in symbols if name != dim.name]
        for values in {tuple(sizes[name] for name in others): None for sizes in some}:
            given = dict(zip(others, values, strict=True))
            rest = difference.subs(
                {symbols[name]: size for name, size in {**given, dim.name: 0}.items()}
            )
            size = -rest / slope
            if size.is_Integer and dim.min <= size <= dim.max and size % dim.multiple_of == 0:
                yield {one.name: int(size) if one is dim else given[one.name] for one in dims}


def _assertions(program: ExportedProgram) -> Iterator[Assertion]:
    for node in program.graph.nodes:
        if node.target is not torch.ops.aten._assert_scalar.default:
            continue
        condition = node.args[0]
        value = condition.meta.get("val") if isinstance(condition, torch.fx.Node) else condition
        if isinstance(value, torch.SymBool):
            yield Assertion(node, value.node.expr)


def _dims_of(condition: Any, dims: tuple[Dim, ...], named: Mapping[Any, Any]) -> list[Dim]:
    """The dims that `condition` depends on."""
    names = {str(name) for symbol in condition.free_symbols for name in named[symbol].free_symbols}
    return [dim for dim in dims if dim.name in names]


def _possible(dims: list[Dim]) -> tuple[list[Sizes], bool]:
    """Combinations of declared sizes, and whether these are all.

    If there are too many, each dim is left with fewer sizes: its ends, and others at random, since
    evenly spaced ones may all be multiples of what a condition asks for.
    """
    most = int(_MOST_SIZES ** (1 / max(1, len(dims))))
    every = [range(dim.min, dim.max + 1, dim.multiple_of) for dim in dims]
    all_of_them = math.prod(map(len, every)) <= _MOST_SIZES
    taken = every if all_of_them else [_some(sizes, most) for sizes in every]
    names = [dim.name for dim in dims]
    return [
        dict(zip(names, sizes, strict=True)) for sizes in itertools.product(*taken)
    ], all_of_them


def _some(sizes: range, most: int) -> Sequence[int]:
    if len(sizes) <= most:
        return sizes
    same_each_time = random.Random(0)  # noqa: S311 - not for secrets
    return sorted({sizes[0], sizes[-1], *same_each_time.sample(sizes, most - 2)})


def _spread(excluded: list[Sizes]) -> list[Sizes]:
    """A few of them: the first, the last, and some in between."""
    if len(excluded) <= _MOST_SPECIAL:
        return excluded
    last = len(excluded) - 1
    return [excluded[last * place // (_MOST_SPECIAL - 1)] for place in range(_MOST_SPECIAL)]


def _evaluated(
    condition: Any, dims: list[Dim], named: Mapping[Any, Any]
) -> Callable[[Sizes], bool]:
    """Whether `condition` holds at given sizes of the dims that it depends on."""
    import sympy
    from torch.utils._sympy.interp import sympy_interp
    from torch.utils._sympy.reference import PythonReferenceAnalysis

    names = [sympy.Symbol(dim.name, integer=True, positive=True) for dim in dims]
    of_dims = {
        symbol: sympy.lambdify(names, named[symbol], "math") for symbol in condition.free_symbols
    }

    def holds(sizes: Sizes) -> bool:
        values = {symbol: int(value(*sizes.values())) for symbol, value in of_dims.items()}
        return bool(sympy_interp(PythonReferenceAnalysis, values, condition))

    return holds


def _remove(program: ExportedProgram, node: torch.fx.Node) -> None:
    """Erase an assertion and what only it needed."""
    waiting = [node]
    while waiting:
        last = waiting.pop()
        if last.users or last.op != "call_function":
            continue
        above = list(last.all_input_nodes)
        program.graph.erase_node(last)
        waiting += above
    program.graph_module.recompile()


def _refusal(
    assertion: Assertion,
    dims: list[Dim],
    excluded: list[Sizes],
    named: Mapping[Any, Any],
    where: Mapping[str, str],
) -> BuildError:
    """What to say of an assertion that excludes many declared sizes."""
    condition = str(assertion.condition.subs(named))
    names = " and ".join(dim.name for dim in dims)
    step = _step(dims, excluded)
    hint = f"declare only sizes for which {condition}"
    if step:
        hint = f"give {dims[0].name} `multiple_of: {step}`"
    return BuildError(
        f"the model cannot be called with {len(excluded)} of the declared sizes of {names}, such as"
        f" {_words(excluded)}",
        where=where[f"dims.{dims[0].name}"],
        cause=f"the exported program asserts {condition}",
        hint=hint,
    )


def _step(dims: list[Dim], excluded: list[Sizes]) -> int | None:
    """The step in which the sizes of a single dim are possible, if they are possible in steps."""
    if len(dims) != 1:
        return None
    (dim,) = dims
    refused = {sizes[dim.name] for sizes in excluded}
    allowed = [size for size in range(dim.min, dim.max + 1, dim.multiple_of) if size not in refused]
    step = math.gcd(*allowed)
    whole = [
        size for size in range(dim.min, dim.max + 1, dim.multiple_of) if step and size % step == 0
    ]
    return step if allowed and step > dim.multiple_of and allowed == whole else None


def _words(excluded: list[Sizes]) -> str:
    """The first of the excluded sizes."""
    return ", ".join(f"{name} {size}" for name, size in excluded[0].items())
