"""NVIDIA's GPU architectures by name, and which code runs on which GPU. No torch, no driver.

The rules are those of the CUDA programming guide, "Compute Capabilities":

- machine code (``sm_80``) runs on its own major compute capability, from its minor number on;
- PTX (``compute_80``) is compiled by the driver for every capability from its own on;
- the suffix ``a`` means features that only this one capability has;
- the suffix ``f`` means features of the family, which is the major capability.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

# From this capability on, torch and Triton compile with the features of the GPU at hand (`sm_90a`,
# `compute_90a`).
OWN_FEATURES = (9, 0)
_NAME = re.compile(r"(sm|compute)_(\d{1,3})(\d)([af]?)")
# Architectures that models.yaml may name: the compute capability without the dot.
ARCHITECTURE_PATTERN = "sm_([5-9][0-9]|[1-9][0-9]{2})a?"

# How good code is for a GPU, more is better: 1 for machine code or 0 for PTX, then its capability.
Rank = tuple[int, int, int]


def require_architecture(name: str) -> None:
    """Raise ValueError unless `name` is an architecture that models.yaml may name."""
    if not re.fullmatch(ARCHITECTURE_PATTERN, name):
        raise ValueError(f"{name!r} is not a GPU architecture")


def capability_of(architecture: str) -> str:
    """The compute capability: ``8.0`` for ``sm_80``. Raises ValueError for another name."""
    major, minor = _parse(architecture).capability
    return f"{major}.{minor}"


def number_of(architecture: str) -> str:
    """The number that torch's options take: ``80`` for ``sm_80`` or ``sm_80a``.

    Raises ValueError for another name.
    """
    major, minor = _parse(architecture).capability
    return f"{major}{minor}"


def numbers(capability: str) -> tuple[int, int]:
    """A compute capability ("9.0") as numbers, which can be compared."""
    major, _, minor = capability.partition(".")
    return int(major), int(minor or 0)


def best_code(codes: Iterable[str], capability: str) -> Rank | None:
    """The rank of the best of `codes` ("sm_80", "compute_80", ...) for a GPU.

    Returns None if the GPU can run none of them. Unknown names are ignored.
    """
    gpu = numbers(capability)
    ranks: list[Rank] = []
    for name in codes:
        if not _NAME.fullmatch(name):
            continue
        code = _parse(name)
        if _runs_on(code, gpu):
            ranks.append((int(code.kind == "sm"), *code.capability))
    return max(ranks, default=None)


class _Code(NamedTuple):
    """The parts of a name such as ``sm_90a``. `kind` is ``sm`` or ``compute``."""

    kind: str
    capability: tuple[int, int]
    suffix: str


def _runs_on(code: _Code, gpu: tuple[int, int]) -> bool:
    if code.suffix == "a":
        return gpu == code.capability
    if code.kind == "compute" and not code.suffix:
        return gpu >= code.capability
    code_major, code_minor = code.capability
    gpu_major, gpu_minor = gpu
    return gpu_major == code_major and gpu_minor >= code_minor


def _parse(name: str) -> _Code:
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(name)
    kind, major, minor, suffix = match.groups()
    return _Code(kind, (int(major), int(minor)), suffix)
