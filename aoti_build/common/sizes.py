"""Sizes that follow dims: ``batch``, ``past + 1``, ``3*batch``, ``seq//2``, ``past + seq``.

A size is a sum of terms ``factor*dim//divisor``, one for each of some dims, and a constant. All
numbers are integers. A division is always exact: the rules of models.yaml ensure that a dim is a
multiple of each divisor. The rules, the manifest's signature and the checks of inputs all use this
form. It needs no torch, since services read it too.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

FORM = "a sum of dims and integers, such as past + 1, 3*batch, 2*seq - 1, seq//2 or past + seq"
_MAX_LENGTH = 500  # characters
_NUMBER = "[0-9]{1,18}"
_TERM = re.compile(
    rf"\s*(?P<sign>[+-]?)\s*(?:"
    rf"(?:(?P<before>{_NUMBER})\s*\*\s*)?(?P<name>[^\W\d]\w*)(?:\s*\*\s*(?P<after>{_NUMBER}))?"
    rf"(?:\s*//\s*(?P<divisor>{_NUMBER}))?"
    rf"|(?P<number>{_NUMBER}))\s*"
)


@dataclass(frozen=True)
class Term:
    """``factor * name // divisor`` in lowest terms. The factor is not 0, the divisor at least 1."""

    name: str
    factor: int = 1
    divisor: int = 1

    def __str__(self) -> str:
        text = self.name
        if abs(self.factor) != 1:
            text = f"{abs(self.factor)}*{text}"
        if self.divisor > 1:
            text = f"{text}//{self.divisor}"
        return text


@dataclass(frozen=True)
class Size:
    """The sum of `terms` and a `constant`. Each term is of another dim; they are sorted by name.

    ``str(size)`` is the only spelling of the size in records.
    """

    terms: tuple[Term, ...]
    constant: int = 0

    @classmethod
    def of(cls, factors: Mapping[str, tuple[int, int]], constant: int) -> Size:
        """The sum of ``factor/divisor * dim`` for each dim, and the constant."""
        terms = []
        for name, (factor, divisor) in sorted(factors.items()):
            if factor:
                common = gcd(factor, divisor)
                terms.append(Term(name, factor // common, divisor // common))
        return cls(tuple(terms), constant)

    @property
    def names(self) -> tuple[str, ...]:
        """The dims that the size follows."""
        return tuple(term.name for term in self.terms)

    @property
    def plain(self) -> str | None:
        """The name of the dim that the size is equal to, or None if it is not simply a dim."""
        if len(self.terms) != 1 or self.constant:
            return None
        (term,) = self.terms
        return term.name if term == Term(term.name) else None

    def at(self, values: Mapping[str, int]) -> int:
        """The size for these values of the dims."""
        total = self.constant
        for term in self.terms:
            total += term.factor * values[term.name] // term.divisor
        return total

    def bounds(self, ranges: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
        """The least and the largest size for dims in these ranges."""
        low_values = {}
        high_values = {}
        for term in self.terms:
            low, high = ranges[term.name]
            if term.factor < 0:
                low, high = high, low
            low_values[term.name] = low
            high_values[term.name] = high
        return self.at(low_values), self.at(high_values)

    def solved(
        self,
        name: str,
        size: int,
        values: Mapping[str, int],
    ) -> int | None:
        """The value of the dim `name` for which this size is `size`, or None if there is none.

        `values` holds the values of all other dims.
        """
        term = next(term for term in self.terms if term.name == name)
        rest = self.at({**values, name: 0})
        value, remainder = divmod((size - rest) * term.divisor, term.factor)
        return None if remainder else value

    def __str__(self) -> str:
        # Positive terms come first: past + 1, but also 16 - seq.
        added = [str(term) for term in self.terms if term.factor > 0]
        subtracted = [str(term) for term in self.terms if term.factor <= 0]
        if self.constant > 0:
            added.append(str(self.constant))
        elif self.constant < 0:
            subtracted.append(str(-self.constant))
        text = " + ".join(added)
        for part in subtracted:
            text = f"{text} - {part}" if text else f"-{part}"
        return text or "0"


def parse(text: str) -> Size:
    """The size that is written in `text`. Raises ValueError."""
    if not text or len(text) > _MAX_LENGTH:
        raise ValueError(f"write {FORM}")
    factors: dict[str, tuple[int, int]] = {}
    constant = 0
    position = 0
    while position < len(text):
        match = _TERM.match(text, position)
        is_first = position == 0
        if match is None or (not is_first and not match["sign"]):
            raise ValueError(f"write {FORM}")
        position = match.end()
        sign = -1 if match["sign"] == "-" else 1
        if match["number"]:
            constant += sign * int(match["number"])
            continue
        divisor = int(match["divisor"] or 1)
        if divisor == 0:
            raise ValueError("it divides by 0")
        before = int(match["before"] or 1)
        after = int(match["after"] or 1)
        factor = sign * before * after
        # Add fractions of the same dim; `Size.of` reduces them.
        name = match["name"]
        old_factor, old_divisor = factors.get(name, (0, 1))
        new_factor = old_factor * divisor + factor * old_divisor
        factors[name] = (new_factor, old_divisor * divisor)
    return Size.of(factors, constant)


class SolutionStep(NamedTuple):
    """The index of a size, and the dim that it determines.

    `dim` is None if all dims of the size are already known.
    """

    size_index: int
    dim: str | None


def solution_order(sizes: Sequence[Size]) -> list[SolutionStep]:
    """An order in which the sizes of tensors determine the dims, one dim at a time.

    Each size has at most one dim that the sizes before it do not determine. A size that never has
    so few unknown dims is not in the result.
    """
    unknown_dims = [set(size.names) for size in sizes]
    indices_by_dim: dict[str, list[int]] = {}
    for index, dims in enumerate(unknown_dims):
        for dim in dims:
            indices_by_dim.setdefault(dim, []).append(index)
    ready = [index for index, dims in enumerate(unknown_dims) if len(dims) < 2]
    # Sizes that are simply a dim come first: with them a wrong input has the plainest error.
    ready.sort(key=lambda index: sizes[index].plain is None)
    queue = deque(ready)
    steps: list[SolutionStep] = []
    while queue:
        index = queue.popleft()
        determined = next(iter(unknown_dims[index]), None)
        steps.append(SolutionStep(index, determined))
        if determined is None:
            continue
        for follower in indices_by_dim[determined]:
            unknown_dims[follower].discard(determined)
            if len(unknown_dims[follower]) == 1:
                queue.append(follower)
    return steps
