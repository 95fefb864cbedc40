"""The types of single values in models.yaml: a text is no number, and true is no integer."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from aoti_build.common import fields
from aoti_build.common.fields import MAX_INT
from aoti_build.host.devices import device_names
from aoti_build.models_file import rules

SOURCE = r"^[^:]+:[^:]+$"
# As an editor reads patterns.
NAME, OPTION = f"^{fields.NAME}$", f"^{rules.OPTION}$"
WEIGHTS = f"({'|'.join(re.escape(suffix) for suffix in rules.WEIGHT_SUFFIXES)})$"
ARCH, SIZE = f"^{rules.ARCH}$", f"^{rules.SIZE}$"


def _device(text: str) -> str:
    """A registered device; refused as pydantic refuses a value that a `Literal` does not have."""
    if text not in device_names():
        expected = " or ".join(map(repr, device_names()))
        raise PydanticKnownError("literal_error", {"expected": expected})
    return text


Device = Annotated[
    str,
    AfterValidator(_device),
    WithJsonSchema({"enum": [*device_names()], "type": "string"}),
]
Outputs = Literal["dict"]
Dtype = Literal[
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "bool",
    "complex64",
]
FloatDtype = Literal["float32", "float64", "float16", "bfloat16"]
Isa = Literal["native", "avx2", "avx512"]


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PydanticCustomError("number_type", "must be a number")
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite; write a number")
    return value


def _not_negative(value: float) -> float:
    if value < 0:
        raise ValueError(f"{value} is negative; write 0 or more")
    return value


def _part(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{value} is not between 0 and 1")
    return value


def kind_of(**tags: type) -> Discriminator:
    """Which member of a union a value is, by its Python type. Tags are in angle brackets: no key is
    written so."""

    def tag(value: object) -> str | None:
        return next((f"<{name}>" for name, kind in tags.items() if type(value) is kind), None)

    return Discriminator(
        tag, custom_error_type="value_kind", custom_error_message=" or ".join(tags)
    )


Name = Annotated[
    str, AfterValidator(rules.directory_name), WithJsonSchema({"type": "string", "pattern": NAME})
]
Identifier = Annotated[str, AfterValidator(rules.identifier), WithJsonSchema({"type": "string"})]
Option = Annotated[
    str, AfterValidator(rules.option), WithJsonSchema({"type": "string", "pattern": OPTION})
]
Number = Annotated[int | float, BeforeValidator(_number), WithJsonSchema({"type": "number"})]
NotNegative = Annotated[
    Number, AfterValidator(_not_negative), WithJsonSchema({"type": "number", "minimum": 0})
]
Part = Annotated[
    Number, AfterValidator(_part), WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})
]
Positive = Annotated[int, Field(ge=1, le=MAX_INT)]
SizeText = Annotated[
    str, AfterValidator(rules.size), WithJsonSchema({"type": "string", "pattern": SIZE})
]
SourceText = Annotated[str, Field(json_schema_extra={"pattern": SOURCE})]
Size = Annotated[int, Field(ge=0, le=MAX_INT)]
DimText = Annotated[str, AfterValidator(rules.shape_size), WithJsonSchema({"type": "string"})]
ShapeEntry = Annotated[
    Annotated[Size, Tag("<size>")] | Annotated[DimText, Tag("<dim>")], kind_of(size=int, dim=str)
]
Presets = Annotated[list[str], Field(min_length=1)]
Module = Annotated[
    str,
    AfterValidator(rules.module_name),
    WithJsonSchema({"type": "string", "pattern": rules.MODULE}),
]
ArchText = Annotated[
    str, AfterValidator(rules.arch), WithJsonSchema({"type": "string", "pattern": ARCH})
]
LISTED = Field(min_length=1, json_schema_extra={"uniqueItems": True})
Isas = Annotated[
    Annotated[Isa, Tag("<text>")] | Annotated[list[Isa], LISTED, Tag("<list>")],
    kind_of(text=str, list=list),
]
Arches = Annotated[
    Annotated[ArchText, Tag("<text>")] | Annotated[list[ArchText], LISTED, Tag("<list>")],
    kind_of(text=str, list=list),
]


class Wire(BaseModel):
    """A mapping of models.yaml: known keys only, strict types, and no key without a value."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _has_value(cls, value: object) -> object:
        if value is None:
            raise PydanticCustomError("no_value", "has no value")
        return value
