"""NVIDIA's GPU architectures by name: which code runs on which GPU.

Machine code (``sm_80``) runs on its own major compute capability, from its minor on; PTX
(``compute_80``) is compiled by the driver for every capability from its own on. An ``a`` at the end
means features of that one capability, which no other has; an ``f`` those of its family, which is
the major capability (CUDA programming guide, compute capabilities). No torch here, and no driver.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# From this capability on torch and Triton compile with the features of a GPU's own (`sm_90a`,
# `compute_90a`).
OWN_FEATURES = (9, 0)
_NAME = re.compile(r"(sm|compute)_(\d{1,3})(\d)([af]?)")
# What models.yaml may name: NVIDIA names each architecture by its compute capability without the
# dot.
ARCHITECTURE_PATTERN = "sm_([5-9][0-9]|[1-9][0-9]{2})a?"

# How good code is for a GPU: 1 for machine code and 0 for PTX, then its capability. More is better.
Rank = tuple[int, int, int]


def require_architecture(name: str) -> None:
    """Raise ValueError unless `name` is an architecture that models.yaml may name."""
    if not re.fullmatch(ARCHITECTURE_PATTERN, name):
        raise ValueError(f"{name!r} is no GPU architecture")


def capability_of(arch: str) -> str:
    """``8.0`` of ``sm_80``. Raises ValueError for another name."""
    return "{}.{}".format(*_parts(arch)[1])


def number_of(arch: str) -> str:
    """``80`` of ``sm_80`` or ``sm_80a``, as torch's options have it."""
    return "{}{}".format(*_parts(arch)[1])


def numbers(capability: str) -> tuple[int, int]:
    """A compute capability ("9.0") in a form that can be compared."""
    major, _, minor = capability.partition(".")
    return int(major), int(minor or 0)


def best_code(codes: Iterable[str], capability: str) -> Rank | None:
    """The best of `codes` ("sm_80", "compute_80", ...) for a GPU; None if it can run none of them.
    Names that are not understood count as what it cannot run."""
    known = (_parts(code) for code in codes if _NAME.fullmatch(code))
    here = numbers(capability)
    fitting = [
        (int(kind == "sm"), *wanted)
        for kind, wanted, mark in known
        if _runs(kind, wanted, mark, here)
    ]
    return max(fitting, default=None)


def _runs(kind: str, wanted: tuple[int, int], mark: str, here: tuple[int, int]) -> bool:
    if mark == "a":
        return here == wanted
    if kind == "compute" and not mark:
        return here >= wanted
    return here[0] == wanted[0] and here[1] >= wanted[1]


def _parts(code: str) -> tuple[str, tuple[int, int], str]:
    """Kind, capability and mark."""
    found = _NAME.fullmatch(code)
    if found is None:
        raise ValueError(code)
    return found[1], (int(found[2]), int(found[3])), found[4]
