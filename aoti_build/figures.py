"""What checks, searches and runs found, as typed values. They travel in messages, and stand as
JSON in manifests and reports.

A field that was not found out is None, and left out of the JSON; docs/reference/formats.md says
what the fields are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

TYPE = "type"  # the field that a message has and a part does not: what it is
# Null where there is no such number, UNSET where it was not looked for.
NumberOrNull: TypeAlias = float | UnsetType | None
# What the outputs of a run are compared with.
Basis: TypeAlias = Literal["reference_data", "eager", "none"]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Something in a message. A field that has its default is left out of the JSON."""


AnyPart = TypeVar("AnyPart", bound=Part)


class Worst(Part, frozen=True):
    """Where two outputs are furthest apart."""

    index: tuple[int, ...]
    expected: int | float | str
    got: int | float | str


class Float64Figures(Part, frozen=True):
    """Root mean square errors to eager in float64."""

    candidate_rmse: float
    reference_rmse: float
    allowed: float
    rounded_rmse: float | None = None


class Histogram(Part, frozen=True):
    """Counts of absolute errors by decade."""

    decades: tuple[int, ...]
    counts: tuple[int, ...]
    zero: int


class OutputFigures(Part, frozen=True):
    """The comparison of one output: `figures` in docs/reference/formats.md. `eager_nan` counts
    values where eager alone is NaN, if these are all that differ."""

    name: str
    ok: bool
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    computed_in: str | None = None
    sampled: int | None = None
    by: str | None = None
    atol: float | None = None
    rtol: float | None = None
    mismatched: int | None = None
    reference_rms: float | None = None
    needed_atol: float | None = None
    max_abs: float | None = None
    max_rel: NumberOrNull = UNSET
    rmse: float | None = None
    cosine: NumberOrNull = UNSET
    snr_db: NumberOrNull = UNSET
    psnr_db: NumberOrNull = UNSET
    histogram: Histogram | None = None
    worst: Worst | None = None
    agreement: float | None = None
    iou: float | None = None
    eager_nan: int | None = None
    fp64: Float64Figures | None = None
    why: str | None = None


class CallFigures(Part, frozen=True):
    """The comparison of one call: `case` in docs/reference/formats.md. `skipped` says why nothing
    could be compared; `unread` are buffers that could not be read back. `call` counts from 2."""

    name: str
    sizes: Mapping[str, int]
    seed: int
    outputs: tuple[OutputFigures, ...]
    call: int | None = None
    skipped: str | None = None
    unread: tuple[str, ...] = ()


class Vacuous(Part, frozen=True):
    """An output that would pass with other inputs, or other weights."""

    output: str
    of: Literal["inputs", "weights"]


class Loss(Part, frozen=True):
    """What an output of the model loses against its baseline."""

    name: str
    relative_rmse: float | None
    sqnr_db: float | None
    ok: bool


class Refusal(Part, frozen=True):
    """What became of an input that the package must not answer. `ok`: it refused, or was right."""

    name: str
    ok: bool
    said: str


class WrongWeight(Part, frozen=True):
    """A weight in the package that is not the model's; the largest difference, if it is finite."""

    name: str
    max_abs: float | None


class ModuleDifference(Part, frozen=True):
    """A module call whose output the other side does not have as eager has it. `missing` are
    modules that eager ran before, and the exported program does not have."""

    module: str
    class_name: str = msgspec.field(name="class")
    source: str
    figures: OutputFigures | None
    missing: tuple[str, ...]


class TensorFacts(Part, frozen=True):
    """A tensor with statistics of its finite values."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nonfinite: int | None = None
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None


class PictureClass(Part, frozen=True):
    """A class that the model gives an image."""

    index: int
    name: str | None
    probability: float


class TopClasses(Part, frozen=True):
    """The most probable classes of each image by one output; `unnamed` says why they have no
    names."""

    output: str
    images: tuple[tuple[PictureClass, ...], ...]
    unnamed: str | None = None


class Timing(Part, frozen=True):
    """Seconds of `repeat` calls, as order statistics."""

    repeat: int
    min: float
    median: float
    p90: float
    p99: float
    max: float
    threads: int


class RunSeconds(Part, frozen=True):
    """Of what is done once; None if it was not."""

    load: float | None
    first: float | None
    reference: float | None


class RunFigures(Part, frozen=True):
    """What one run found: `ran` in docs/reference/formats.md."""

    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    top: tuple[TopClasses, ...]
    check: Basis
    passed: bool
    verdicts: tuple[OutputFigures, ...]
    saved: str | None
    timing: Timing
    seconds: RunSeconds


def typed(document: Any, kind: type[AnyPart]) -> AnyPart:
    """A part of a message from JSON that another module made. Raises ValueError if it is none."""
    return msgspec.convert(document, kind)


def as_json(part: Part) -> dict[str, Any]:
    """A part, or the content of a message, as it stands in manifests and reports."""
    document: dict[str, Any] = json.loads(json.dumps(msgspec.to_builtins(part)))
    document.pop(TYPE, None)
    return document
