"""Results of checks, searches and runs, as typed values.

They travel in messages, and stand as JSON in manifests and reports. An unknown field is None, and
left out of the JSON. docs/reference/formats.md describes the fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

# The field with the kind of a message. Parts of a message do not have it.
TYPE = "type"
# None if there is no such number, UNSET if it was not computed.
NumberOrNull: TypeAlias = float | UnsetType | None
# The outputs that the outputs of a run are compared with.
Basis: TypeAlias = Literal["reference_data", "eager", "none"]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a message. A field with its default value is left out of the JSON."""


AnyPart = TypeVar("AnyPart", bound=Part)


class Worst(Part, frozen=True):
    """The element at which two outputs differ most."""

    index: tuple[int, ...]
    expected: int | float | str
    got: int | float | str


class Float64Figures(Part, frozen=True):
    """Root mean square errors against eager mode in float64."""

    candidate_rmse: float
    reference_rmse: float
    allowed: float
    rounded_rmse: float | None = None


class Histogram(Part, frozen=True):
    """Counts of absolute errors by decade. `zero` counts the elements without an error."""

    decades: tuple[int, ...]
    counts: tuple[int, ...]
    zero: int


class OutputFigures(Part, frozen=True):
    """The comparison of one output: `figures` in docs/reference/formats.md.

    `eager_nan` counts the elements where only eager mode is NaN, if no others differ.
    """

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
    """The comparison of one call: `case` in docs/reference/formats.md.

    `skipped` is the reason if nothing could be compared. `unread` are the buffers that could not be
    read back. `call` is set for further calls of a case, and counts from 2.
    """

    name: str
    sizes: Mapping[str, int]
    seed: int
    outputs: tuple[OutputFigures, ...]
    call: int | None = None
    skipped: str | None = None
    unread: tuple[str, ...] = ()


class Vacuous(Part, frozen=True):
    """An output that would also pass with other inputs, or with other weights."""

    output: str
    of: Literal["inputs", "weights"]


class Loss(Part, frozen=True):
    """The loss of an output of the model against its baseline."""

    name: str
    relative_rmse: float | None
    sqnr_db: float | None
    ok: bool


class Refusal(Part, frozen=True):
    """The result of an input that the package must refuse.

    `ok` is set if the package refused it, or if its answer was right.
    """

    name: str
    ok: bool
    said: str


class WrongWeight(Part, frozen=True):
    """A weight in the package that differs from the model's.

    `max_abs` is the largest difference, if it is finite.
    """

    name: str
    max_abs: float | None


class ModuleDifference(Part, frozen=True):
    """A call of a module whose output differs from eager mode.

    `missing` are modules that eager mode ran before it, and that the exported program lacks.
    """

    module: str
    class_name: str = msgspec.field(name="class")
    source: str
    figures: OutputFigures | None
    missing: tuple[str, ...]


class TensorFacts(Part, frozen=True):
    """A tensor, with statistics of its finite elements. `nonfinite` counts the others."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nonfinite: int | None = None
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None


class PictureClass(Part, frozen=True):
    """A class that the model assigns to an image."""

    index: int
    name: str | None
    probability: float


class TopClasses(Part, frozen=True):
    """The most probable classes of each image, by one output.

    `unnamed` is the reason if the classes have no names.
    """

    output: str
    images: tuple[tuple[PictureClass, ...], ...]
    unnamed: str | None = None


class Timing(Part, frozen=True):
    """The seconds of one call, as order statistics over `repeat` calls."""

    repeat: int
    min: float
    median: float
    p90: float
    p99: float
    max: float
    threads: int


class RunSeconds(Part, frozen=True):
    """The seconds of the steps that are done once; None for a step that was not done."""

    load: float | None
    first: float | None
    reference: float | None


class RunFigures(Part, frozen=True):
    """The results of one run: `ran` in docs/reference/formats.md.

    `eager_timing` is of calls in eager mode. It is set if eager mode was run anyway.
    """

    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    top: tuple[TopClasses, ...]
    check: Basis
    passed: bool
    verdicts: tuple[OutputFigures, ...]
    saved: str | None
    timing: Timing
    seconds: RunSeconds
    eager_timing: Timing | None = None


def typed(document: Any, kind: type[AnyPart]) -> AnyPart:
    """A part of a message from its JSON. Raises ValueError if the JSON has another shape."""
    return msgspec.convert(document, kind)


def as_json(part: Part) -> dict[str, Any]:
    """The JSON of a part, or of a message without its kind, for manifests and reports."""
    # The detour over text turns tuples into lists.
    document: dict[str, Any] = json.loads(json.dumps(msgspec.to_builtins(part)))
    document.pop(TYPE, None)
    return document
