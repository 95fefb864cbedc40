"""Versions of releases, and their order.

A version has numbers with points between them. After them it may have a stage before the release
(``dev``, ``a``, ``alpha``, ``b``, ``beta`` or ``rc``, with a number), ``.post`` with a number, and
``+`` with words that have no part in the order. These are the common forms of PEP 440 and of
Semantic Versioning: ``1.4``, ``1.4.0rc1``, ``1.4.0-rc.1``, ``1.4.0.post1``, ``1.4.0+build.7``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from aoti_build.errors import UsageError

_LONGEST = 64  # characters
_VERSION = re.compile(
    r"(?P<numbers>[0-9]+(\.[0-9]+)*)"
    r"([-._]?(?P<stage>dev|alpha|a|beta|b|rc)[-._]?(?P<stage_number>[0-9]*))?"
    r"([-.]post(?P<post>[0-9]+))?"
    r"(\+[0-9A-Za-z]+([.-][0-9A-Za-z]+)*)?"
)
# The place of each stage in the order. A version without a stage comes after all of them.
_RANKS = {"dev": 0, "a": 1, "alpha": 1, "b": 2, "beta": 2, "rc": 3}
_FINAL = 4
_NO_POST = -1


class Version(NamedTuple):
    """A version, by what is compared in turn. `numbers` has no zeros at its end."""

    numbers: tuple[int, ...]
    stage: int
    stage_number: int
    post: int


def read_version(text: str) -> Version:
    """The order of a version. Raises `UsageError` unless it has one of the forms."""
    match = _VERSION.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise UsageError(
            f"{text[:_LONGEST]!r} is not a version",
            cause="a version has numbers with points between them, and may have rc1, -rc.1, .post1"
            " or +build after them",
            hint="name it as in --version 1.4.0, without a v before it",
        )
    numbers = [int(number) for number in match["numbers"].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    stage = _FINAL if match["stage"] is None else _RANKS[match["stage"]]
    post = _NO_POST if match["post"] is None else int(match["post"])
    return Version(tuple(numbers), stage, int(match["stage_number"] or 0), post)
