"""Sizes that follow dims: ``batch``, ``past + 1``, ``3*batch``, ``seq//2``, ``past + seq``.

A size is an affine expression of dims with integers: ``a*dim//b`` for each of some dims, and a
constant. A division is always exact, because every size of its dim is a multiple of the divisor;
the rules of models.yaml see to that. They, the manifest's signature and every check of inputs use
this one form. No torch: a service reads it too.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd

FORM = "a sum of dims and integers, such as past + 1, 3*batch, 2*seq - 1, seq//2 or past + seq"
_LONGEST = 500  # characters
_NUMBER = "[0-9]{1,18}"
_TERM = re.compile(
    rf"\s*(?P<sign>[+-]?)\s*(?:"
    rf"(?:(?P<before>{_NUMBER})\s*\*\s*)?(?P<name>[^\W\d]\w*)(?:\s*\*\s*(?P<after>{_NUMBER}))?"
    rf"(?:\s*//\s*(?P<divisor>{_NUMBER}))?"
    rf"|(?P<number>{_NUMBER}))\s*"
)


@dataclass(frozen=True)
class Term:
    """``factor * name // divisor`` in lowest terms; the factor is not 0, the divisor 1 or more."""

    name: str
    factor: int = 1
    divisor: int = 1

    def __str__(self) -> str:
        factor = "" if abs(self.factor) == 1 else f"{abs(self.factor)}*"
        return f"{factor}{self.name}" + (f"//{self.divisor}" if self.divisor > 1 else "")


@dataclass(frozen=True)
class Size:
    """The sum of `terms`, of different dims in the order of their names, and a `constant`. Its text
    is the one spelling of it that records hold."""

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
        """The dims that it follows."""
        return tuple(term.name for term in self.terms)

    @property
    def plain(self) -> str | None:
        """The dim that it is, and nothing more."""
        alone = len(self.terms) == 1 and not self.constant
        return self.terms[0].name if alone and self.terms[0] == Term(self.terms[0].name) else None

    def at(self, values: Mapping[str, int]) -> int:
        """The size for these sizes of the dims."""
        total = self.constant
        for term in self.terms:
            total += term.factor * values[term.name] // term.divisor
        return total

    def bounds(self, ranges: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
        """The least and the largest size for dims in these ranges."""
        rising = {
            term.name: ranges[term.name][:: 1 if term.factor > 0 else -1] for term in self.terms
        }
        low = self.at({name: ends[0] for name, ends in rising.items()})
        return low, self.at({name: ends[1] for name, ends in rising.items()})

    def solved(self, name: str, size: int, values: Mapping[str, int]) -> int | None:
        """The size of the dim `name` for which this is `size`, given those of its other dims; None
        if there is none."""
        term = next(term for term in self.terms if term.name == name)
        rest = self.at({**values, name: 0})
        value, left = divmod((size - rest) * term.divisor, term.factor)
        return None if left else value

    def __str__(self) -> str:
        # What is added comes first: past + 1, but also 16 - seq.
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
    """The size that is written in `text`. Raises ValueError for anything else."""
    factors: dict[str, tuple[int, int]] = {}
    constant = at = 0
    if not text or len(text) > _LONGEST:
        raise ValueError(f"write {FORM}")
    while at < len(text):
        match = _TERM.match(text, at)
        if match is None or (at and not match["sign"]):
            raise ValueError(f"write {FORM}")
        at = match.end()
        sign = -1 if match["sign"] == "-" else 1
        if match["number"]:
            constant += sign * int(match["number"])
            continue
        divisor = int(match["divisor"] or 1)
        if divisor == 0:
            raise ValueError("it divides by 0")
        factor = sign * int(match["before"] or 1) * int(match["after"] or 1)
        old, under = factors.get(match["name"], (0, 1))
        factors[match["name"]] = old * divisor + factor * under, under * divisor
    return Size.of(factors, constant)


def told(sizes: Sequence[Size]) -> list[tuple[int, str | None]]:
    """How the sizes of dims follow from those of tensors: indices of `sizes` in an order in which
    each has at most one dim that is not known from those in front of it, with that dim. Sizes that
    have more are left out: they tell nothing."""
    unknown = [set(size.names) for size in sizes]
    following: dict[str, list[int]] = {}
    for index, names in enumerate(unknown):
        for name in names:
            following.setdefault(name, []).append(index)
    single = [index for index, names in enumerate(unknown) if len(names) < 2]
    ready = deque(sorted(single, key=lambda index: sizes[index].plain is None))
    found: list[tuple[int, str | None]] = []
    while ready:
        index = ready.popleft()
        tells = next(iter(unknown[index]), None)
        found.append((index, tells))
        if tells is None:
            continue
        for other in following[tells]:
            unknown[other].discard(tells)
            if len(unknown[other]) == 1:
                ready.append(other)
    return found
