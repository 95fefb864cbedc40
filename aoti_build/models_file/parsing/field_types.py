"""The pydantic types of single values in models.yaml.

They are strict: a number is not accepted as a string, and true is not accepted as an integer. Each
type also has its JSON Schema, for editors.
"""

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

# Patterns for editors. The rules check the same with messages of their own.
SOURCE_PATTERN = r"^[^:]+:[^:]+$"
NAME_PATTERN = f"^{fields.NAME}$"
OPTION_PATTERN = f"^{rules.OPTION}$"
ARCH_PATTERN = f"^{rules.ARCH}$"
SIZE_PATTERN = f"^{rules.SIZE}$"
_ESCAPED_SUFFIXES = [re.escape(suffix) for suffix in rules.WEIGHT_SUFFIXES]
WEIGHTS_PATTERN = f"({'|'.join(_ESCAPED_SUFFIXES)})$"


class YamlMapping(BaseModel):
    """Base class for the mappings of models.yaml.

    It accepts only the declared keys and strict types, and no key without a value.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _require_value(cls, value: object) -> object:
        if value is None:
            raise PydanticCustomError("no_value", "has no value")
        return value


# Validators


def _check_device(text: str) -> str:
    # A Literal would not include devices that are registered later. The error is that of a Literal.
    if text not in device_names():
        expected = " or ".join(repr(name) for name in device_names())
        raise PydanticKnownError("literal_error", {"expected": expected})
    return text


def _check_number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PydanticCustomError("number_type", "must be a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not finite; write a finite number")
    if isinstance(value, int) and abs(value) > MAX_INT + 1:
        raise ValueError(f"{value} exceeds the largest 64-bit integer; write a smaller number")
    return value


def _check_text(text: str) -> str:
    if "\0" in text:
        raise ValueError("contains a NUL character; remove it")
    return text


def _check_not_negative(value: float) -> float:
    if value < 0:
        raise ValueError(f"{value} is negative; write 0 or more")
    return value


def _check_fraction(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{value} is not between 0 and 1")
    return value


def by_type(**types: type) -> Discriminator:
    """Return a discriminator that chooses the member of a union by the Python type of a value.

    `types` maps the name of each member to its type. The tag of a member is its name in angle
    brackets, which no key of models.yaml contains. `type_errors` removes these tags from paths.
    """

    def tag(value: object) -> str | None:
        for name, member_type in types.items():
            if type(value) is member_type:
                return f"<{name}>"
        return None

    names = " or ".join(types)
    return Discriminator(tag, custom_error_type="value_kind", custom_error_message=names)


# Numbers

Number = Annotated[
    int | float,
    BeforeValidator(_check_number),
    WithJsonSchema({"type": "number"}),
]
NotNegative = Annotated[
    Number,
    AfterValidator(_check_not_negative),
    WithJsonSchema({"type": "number", "minimum": 0}),
]
Fraction = Annotated[
    Number,
    AfterValidator(_check_fraction),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1}),
]
Positive = Annotated[int, Field(ge=1, le=MAX_INT)]

# Names

Name = Annotated[
    str,
    AfterValidator(rules.directory_name),
    WithJsonSchema({"type": "string", "pattern": NAME_PATTERN}),
]
Identifier = Annotated[
    str,
    AfterValidator(rules.identifier),
    WithJsonSchema({"type": "string"}),
]
Option = Annotated[
    str,
    AfterValidator(rules.option),
    WithJsonSchema({"type": "string", "pattern": OPTION_PATTERN}),
]
Module = Annotated[
    str,
    AfterValidator(rules.module_name),
    WithJsonSchema({"type": "string", "pattern": rules.MODULE}),
]
Presets = Annotated[list[str], Field(min_length=1)]
# The parser checks these two after the types, to report the position of a part of the text.
SourceText = Annotated[str, Field(json_schema_extra={"pattern": SOURCE_PATTERN})]
WeightsFile = Annotated[str, Field(json_schema_extra={"pattern": WEIGHTS_PATTERN})]
NotEmpty = Annotated[str, Field(min_length=1), AfterValidator(_check_text)]

# Choices

Device = Annotated[
    str,
    AfterValidator(_check_device),
    WithJsonSchema({"enum": [*device_names()], "type": "string"}),
]
Outputs = Literal["dict"]
# A test compares these with the lists in `rules` and `memory_formats`, because a Literal needs its
# values written out.
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
MemoryFormat = Literal["contiguous", "channels_last", "channels_last_3d"]
FloatDtype = Literal["float32", "float64", "float16", "bfloat16"]
Isa = Literal["native", "avx2", "avx512"]
ArchText = Annotated[
    str,
    AfterValidator(rules.arch),
    WithJsonSchema({"type": "string", "pattern": ARCH_PATTERN}),
]
_ARCHITECTURE_LIST = Field(min_length=1, json_schema_extra={"uniqueItems": True})
Isas = Annotated[
    Annotated[Isa, Tag("<string>")] | Annotated[list[Isa], _ARCHITECTURE_LIST, Tag("<list>")],
    by_type(string=str, list=list),
]
Arches = Annotated[
    Annotated[ArchText, Tag("<string>")]
    | Annotated[list[ArchText], _ARCHITECTURE_LIST, Tag("<list>")],
    by_type(string=str, list=list),
]

# Sizes

ByteSize = Annotated[
    str,
    AfterValidator(rules.size),
    WithJsonSchema({"type": "string", "pattern": SIZE_PATTERN}),
]
Size = Annotated[int, Field(ge=0, le=MAX_INT)]
DimText = Annotated[
    str,
    AfterValidator(rules.shape_size),
    WithJsonSchema({"type": "string"}),
]
ShapeEntry = Annotated[
    Annotated[Size, Tag("<size>")] | Annotated[DimText, Tag("<dim>")],
    by_type(size=int, dim=str),
]
