"""How often step changes are found where there are some, and where there is only noise.

    python benchmarks/simulate_steps.py [--repetitions 400]

It takes a few minutes. docs/explanation/measuring.md quotes the figures.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable

from aoti_build.measurement.steps import find_steps

NOISE = 0.02  # of the logarithm of an entry
STEP = 1.05
BEFORE = (10, 20, 30, 50)
AFTER = (3, 5, 8)
# The entries of a long history, which is looked at after each of them.
LIFE = 50
# A step is at its place if it is as near as this.
NEAR = 2

Draw = Callable[[random.Random], float]


def normal(generator: random.Random) -> float:
    return generator.gauss(0, NOISE)


def heavy(generator: random.Random) -> float:
    """Student's t with 3 degrees of freedom, which is far from its middle now and then."""
    squares = sum(generator.gauss(0, 1) ** 2 for _ in range(3))
    return NOISE * generator.gauss(0, 1) / math.sqrt(squares / 3)


def series(count: int, draw: Draw, generator: random.Random) -> list[float]:
    return [math.exp(draw(generator)) for _ in range(count)]


def false_rate(count: int, draw: Draw, repetitions: int) -> float:
    """How many series of so many entries without a step seem to have one, as a part of 1."""
    generator = random.Random(17)  # noqa: S311 - no secret
    found = sum(bool(find_steps(series(count, draw, generator))) for _ in range(repetitions))
    return found / repetitions


def ever_false_rate(draw: Draw, repetitions: int) -> float:
    """How many histories show a false step in at least one look, if each entry is followed by
    one."""
    generator = random.Random(18)  # noqa: S311 - no secret
    found = 0
    for _ in range(repetitions):
        figures = series(LIFE, draw, generator)
        found += any(find_steps(figures[:count]) for count in range(6, LIFE + 1))
    return found / repetitions


def power(before: int, after: int, repetitions: int) -> tuple[float, float]:
    """How many steps of `STEP` are found after so many entries, as a part of 1: at all, and at
    their place."""
    generator = random.Random(19)  # noqa: S311 - no secret
    found = placed = 0
    for _ in range(repetitions):
        figures = series(before + after, normal, generator)
        figures[before:] = [STEP * figure for figure in figures[before:]]
        steps = find_steps(figures)
        found += bool(steps)
        placed += any(abs(step.index - before) <= NEAR for step in steps)
    return found / repetitions, placed / repetitions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=400)
    repetitions = parser.parse_args().repetitions
    print("series of pure noise with a step, in percent")
    for name, draw in (("normal", normal), ("heavy tails", heavy)):
        for count in (15, 25, 50, 100):
            # These are rare, and cheap to look for.
            rate = false_rate(count, draw, 10 * repetitions)
            print(f"  {name}, {count} entries: {100 * rate:.2f}", flush=True)
    rate = ever_false_rate(normal, repetitions)
    print(f"  normal, in any of the looks at {LIFE} entries: {100 * rate:.1f}", flush=True)
    print(f"\na step of {STEP:g} with noise of {NOISE:g}, in percent")
    for before in BEFORE:
        for after in AFTER:
            found, placed = power(before, after, repetitions)
            print(
                f"  {before} before, {after} after: {100 * found:.1f} found,"
                f" {100 * placed:.1f} within {NEAR} entries of its place",
                flush=True,
            )


if __name__ == "__main__":
    main()
