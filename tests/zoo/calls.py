"""The calls of an entry at sizes that no check of the build used, on eager and on something
compiled; and what differs.

Imported by the two scripts that the zoo starts, `served.py` and `plain.py`, each in a process of
its own.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from aoti_build._torch.checking.reference import points
from aoti_build._torch.jobs.prepared import Prepared, prepare
from aoti_build._torch.program.inputs import Call
from aoti_build.models_file import load_project
from aoti_build.models_file.project import Dim, Model

HALF = {torch.float16: 2e-2, torch.bfloat16: 5e-2}
SEED = 4711  # the check draws with others


def load_model(root: Path) -> tuple[Model, Prepared]:
    (target,) = load_project(root / "models.yaml").targets
    return target.model, prepare(
        target.model, target.device, root, defaultdict(lambda: "models.yaml")
    )


def sizes(dims: tuple[Dim, ...]) -> list[dict[str, int]]:
    """The smallest sizes, then three that are neither at an end nor checked."""
    if not dims:
        return [{}]
    checked = [tuple(point.values()) for point in points(dims).values()]
    free = [
        [size for size in _steps(dim) if size not in {point[at] for point in checked}]
        for at, dim in enumerate(dims)
    ]
    low = {dim.name: dim.min for dim in dims}
    others = [
        {
            dim.name: (free[at] or _steps(dim))[round(part * (len(free[at] or _steps(dim)) - 1))]
            for at, dim in enumerate(dims)
        }
        for part in (0, 0.5, 1)
    ]
    return [low, *(sizes for at, sizes in enumerate(others) if sizes not in others[:at])]


def _steps(dim: Dim) -> list[int]:
    return list(range(dim.min, dim.max + 1, dim.multiple_of))


def compared(
    prepared: Prepared, dims: tuple[Dim, ...], run: Callable[..., Any], bound: float
) -> Iterator[dict[str, Any]]:
    """At each size: the sizes and what differs from eager ("" where nothing does)."""
    for number, at in enumerate(sizes(dims)):
        call = prepared.make(at, SEED + number)
        yield {"sizes": at, "differs": _one(prepared.module, run, call, bound)}


def _one(module: torch.nn.Module, run: Callable[..., Any], call: Call, bound: float) -> str:
    ours = call.clone()
    with torch.no_grad():
        wanted = module(*call.args, **call.kwargs)
    try:
        given = run(*ours.args, **ours.kwargs)
    except Exception as error:  # whatever a loaded package raises is the outcome
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"
    return difference(wanted, given, bound)


def difference(wanted: Any, given: Any, bound: float) -> str:
    """What differs between eager's value and another; "" if structure, types and numbers agree."""
    wanted_leaves, wanted_structure = pytree.tree_flatten(wanted)
    given_leaves, given_structure = pytree.tree_flatten(given)
    if wanted_structure != given_structure:
        return f"structure {given_structure}, not {wanted_structure}"[:300]
    for number, pair in enumerate(zip(wanted_leaves, given_leaves, strict=True)):
        if difference := _leaf(*pair, bound):
            return f"output {number}: {difference}"
    return ""


def _leaf(wanted: Any, given: Any, bound: float) -> str:
    if type(wanted) is not type(given):
        return f"{type(given).__name__}, not {type(wanted).__name__}"
    if not isinstance(wanted, torch.Tensor):
        return "" if wanted == given else f"{given!r}, not {wanted!r}"
    scale = 1.0
    if wanted.is_floating_point() and wanted.numel():
        bound = HALF.get(wanted.dtype, bound)
        scale = wanted.double().nan_to_num().square().mean().sqrt().item()
    with contextlib.suppress(AssertionError):
        torch.testing.assert_close(given, wanted, rtol=bound, atol=bound * scale, equal_nan=True)
        return ""
    if wanted.shape != given.shape or wanted.dtype != given.dtype:
        return f"{given.dtype} {list(given.shape)}, not {wanted.dtype} {list(wanted.shape)}"
    return (
        f"values differ by up to {(given.double() - wanted.double()).abs().max().item():.3g}, rms"
        f" {scale:.3g}"
    )
