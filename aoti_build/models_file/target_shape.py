"""The types of the fields in a record of a target (`aoti_build.models_file.records`).

Each constant is a reader of `aoti_build.common.fields`: a function that raises ValueError for a
value of another type, and for a value that breaks a rule for single values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aoti_build.common import fields
from aoti_build.common.fields import flag, integer, number, one_of, or_none, table, table_of
from aoti_build.common.memory_formats import NAMES, RANKS
from aoti_build.host.devices import device_names
from aoti_build.models_file import rules


def follows(rule: Callable[[str], object]) -> fields.Reader:
    """Return a reader for texts that `rule` accepts and leaves unchanged."""

    def read(value: Any) -> None:
        fields.text(value)
        if rule(value) != value:
            raise ValueError("is not in its normal form")

    return read


def _not_empty_text(value: Any) -> None:
    fields.text(value)
    if not value:
        raise ValueError("is empty")


def _not_negative(value: Any) -> None:
    number(value)
    if value < 0:
        raise ValueError("is negative")


def _fraction(value: Any) -> None:
    number(value)
    if not 0 <= value <= 1:
        raise ValueError("is not between 0 and 1")


def _device(value: Any) -> None:
    # The names are looked up at each call, because a device may be registered later.
    one_of(*device_names())(value)


def _input(value: Any) -> None:
    is_constant = type(value) is dict and "value" in value
    check = _CONSTANT if is_constant else _TENSOR
    check(value)


_NAME = follows(rules.directory_name)
PRESET_NAME = _NAME
OPTIONS = table_of(follows(rules.option), fields.anything)
_IDENTIFIER = follows(rules.identifier)
_PROJECT_PATH = follows(rules.project_path)
_BOUND = or_none(_not_negative)
_FRACTION = or_none(_fraction)
_PIXELS = or_none(integer(1))
_ANY_TABLE = table_of(fields.anything, fields.anything)
_SOURCE = table(
    {
        "attribute": fields.text,
        "module": or_none(fields.text),
        "path": or_none(fields.text),
    }
)
_TENSOR = table(
    {
        "shape": fields.list_of(fields.either(integer(), follows(rules.shape_size))),
        "dtype": one_of(*rules.DTYPES),
        "name": or_none(_IDENTIFIER),
        "low": or_none(number),
        "high": or_none(number),
        "probability": _FRACTION,
        "memory_format": one_of(None, *RANKS),
    }
)
_CONSTANT = table(
    {
        "value": fields.anything,
        "name": or_none(_IDENTIFIER),
    }
)
_DIM = table(
    {
        "name": _IDENTIFIER,
        "min": integer(1),
        "max": integer(1),
        "example": integer(1),
        "multiple_of": integer(1),
    }
)
_OUTPUT_TOLERANCE = table(
    {
        "atol": _BOUND,
        "rtol": _BOUND,
        "agreement": _FRACTION,
        "iou": _FRACTION,
    }
)
_TOLERANCE = table(
    {
        "atol": _BOUND,
        "rtol": _BOUND,
        "outputs": table_of(fields.anything, _OUTPUT_TOLERANCE),
    }
)
_CUDA = table(
    {
        "tf32": or_none(flag),
        "reduced_precision": or_none(flag),
    }
)
_IMAGE = table(
    {
        "resize": _PIXELS,
        "crop": _PIXELS,
        "mean": fields.list_of(number),
        "std": fields.list_of(number),
        "classes": or_none(_PROJECT_PATH),
    }
)
_BASELINE = table(
    {
        "source": _SOURCE,
        "kwargs": _ANY_TABLE,
        "limit": _BOUND,
    }
)
_WEIGHTS = table(
    {
        "file": follows(rules.weights_path),
        "key": or_none(_not_empty_text),
        "prefix": or_none(_not_empty_text),
        "rename": fields.list_of(fields.list_of(fields.text, 2, 2)),
        "ignore": fields.list_of(_not_empty_text),
    }
)
_MODEL = table(
    {
        "name": _NAME,
        "source": _SOURCE,
        "inputs": fields.either(fields.list_of(_input), _SOURCE),
        "kwargs": _ANY_TABLE,
        "seed": integer(),
        "method": or_none(_IDENTIFIER),
        "strict": flag,
        "weights": or_none(_WEIGHTS),
        "files": fields.list_of(_PROJECT_PATH),
        "imports": fields.list_of(fields.module_name),
        "outputs": one_of(None, "dict"),
        "dims": fields.list_of(_DIM),
        "dtype": or_none(one_of(*rules.FLOATS)),
        "memory_format": one_of(None, *NAMES),
        "baseline": or_none(_BASELINE),
        "tolerance": _TOLERANCE,
        "cuda": _CUDA,
        "reference_data_limit": integer(),
        "image": or_none(fields.either(_IMAGE, _SOURCE)),
    }
)
TARGET = table(
    {
        "model": _MODEL,
        "device": _device,
        "preset": PRESET_NAME,
        "inductor_config": OPTIONS,
        "listed": flag,
    }
)
