"""The entries `dims` and `inputs` of a model in models.yaml.

The docstrings and descriptions are also texts of the JSON Schema, which editors show.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from aoti_build.common.fields import MAX_INT
from aoti_build.models_file import rules
from aoti_build.models_file.parsing.field_types import (
    Dtype,
    Fraction,
    Identifier,
    MemoryFormat,
    Number,
    ShapeEntry,
    SourceText,
    YamlMapping,
    by_type,
)


class Dim(YamlMapping):
    """A named size that may vary between calls: min <= size <= max, in steps of multiple_of."""

    # `agreements` checks the lower limits of min, max and example, with messages that say why.
    min: int | None = Field(
        default=None,
        le=MAX_INT,
        description="The smallest size, 1 or more. Default: multiple_of.",
        json_schema_extra={"minimum": 1},
    )
    max: int = Field(
        le=MAX_INT,
        description="The largest size.",
        json_schema_extra={"minimum": 2},
    )
    multiple_of: int = Field(
        default=1,
        ge=1,
        le=MAX_INT,
        description="Every size is a multiple of this number.",
    )
    example: int | None = Field(
        default=None,
        le=MAX_INT,
        description=(
            "The size of the example inputs. It must be at least 2 and at least 2 * multiple_of,"
            " because torch.export treats a size or factor of 1 as fixed. Default: the smallest"
            " allowed size."
        ),
        json_schema_extra={"minimum": 2},
    )


class TensorInput(YamlMapping):
    """One example tensor with random values."""

    shape: list[ShapeEntry] = Field(
        description=(
            "Integers, dims, and sums of them: past + 1, 3*batch, 2*seq - 1, seq//2, past + seq."
            " [] is a scalar tensor."
        )
    )
    dtype: Dtype = Field(
        default="float32",
        description=(
            "The element type, by its name in torch. Default: the dtype of the model, or float32."
        ),
    )
    low: Number | None = Field(
        default=None,
        description=(
            "The smallest random value. Default: 0 for integers. Floats without low and high have a"
            " normal distribution."
        ),
    )
    high: Number | None = Field(
        default=None,
        description=(
            "The upper bound of the random values, which is excluded. Default: 2 for integers, 1"
            " for floats with a low."
        ),
    )
    probability: Fraction | None = Field(
        default=None,
        description="For bool: the probability of true. Default: 0.5.",
    )
    memory_format: MemoryFormat | None = Field(
        default=None,
        description=(
            "The order of the values in memory. `channels_last` is for 4 dimensions,"
            " `channels_last_3d` for 5. Default: that of the model if it is for this number of"
            " dimensions, or contiguous."
        ),
    )


class ConstantInput(BaseModel):
    """An argument that is not a tensor. Its value is compiled into the artifact."""

    # Not a YamlMapping, because null is a valid value here. Other keys are accepted here, because
    # `agreements.constant_complaints` refuses them with a better message.
    model_config = ConfigDict(
        extra="allow",
        strict=True,
        frozen=True,
        json_schema_extra={"additionalProperties": False},
    )

    value: Annotated[Any, AfterValidator(rules.constant)] = Field(
        description="A number, a string, true, false, null, or a list of these."
    )


def _input_tag(value: object) -> str:
    if isinstance(value, ConstantInput):
        return "<constant>"
    if isinstance(value, dict) and "value" in value:
        return "<constant>"
    return "<tensor>"


Input = Annotated[
    Annotated[TensorInput, Tag("<tensor>")] | Annotated[ConstantInput, Tag("<constant>")],
    Discriminator(_input_tag),
]
Inputs = Annotated[
    Annotated[list[Input], Field(min_length=1), Tag("<list>")]
    | Annotated[dict[Identifier, Input], Field(min_length=1), Tag("<mapping>")]
    | Annotated[SourceText, Tag("<string>")],
    by_type(list=list, mapping=dict, string=str),
]
