"""The mappings inside a model of models.yaml, except those for dims and inputs.

The docstrings and descriptions are also texts of the JSON Schema, which editors show.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, Tag

from aoti_build.models_file.parsing.field_types import (
    Arches,
    ByteSize,
    Fraction,
    Isas,
    NotEmpty,
    NotNegative,
    Number,
    Positive,
    SourceText,
    WeightsFile,
    YamlMapping,
    by_type,
)


class OutputTolerance(YamlMapping):
    """The criterion of one output: atol and rtol, or agreement, or iou."""

    atol: NotNegative | None = Field(
        default=None,
        description="Absolute tolerance. Default: 0.",
    )
    rtol: NotNegative | None = Field(
        default=None,
        description="Relative tolerance. Default: 0.",
    )
    agreement: Fraction | None = Field(
        default=None,
        description=(
            "The smallest fraction of values that must be equal. For floating point, the fraction"
            " of equal largest classes (argmax over dimension 1, or the last of two)."
        ),
    )
    iou: Fraction | None = Field(
        default=None,
        description=(
            "The smallest mean intersection over union of the classes of an integer or bool mask."
        ),
    )


class Tolerance(YamlMapping):
    """The allowed difference to eager mode: |compiled - eager| <= atol + rtol * |eager|."""

    atol: NotNegative | None = Field(
        default=None,
        description="Absolute tolerance. Default: depends on the dtype of the output.",
    )
    rtol: NotNegative | None = Field(
        default=None,
        description="Relative tolerance. Default: depends on the dtype of the output.",
    )
    outputs: dict[str, OutputTolerance] = Field(
        default={},
        description="Exceptions, by the name of the output in `status` and `verify`.",
    )


class ReferenceData(YamlMapping):
    """The data that an artifact is verified with."""

    limit: ByteSize = Field(
        default="64m",
        description=(
            "The largest size of the reference data, such as 500k or 2g. For larger data, inputs"
            " are made again from their seed, and outputs from the model's source."
        ),
    )


class Cpu(YamlMapping):
    """The vector instructions of the CPU targets."""

    isa: Isas = Field(
        default="native",
        description=(
            "The vector instructions that the code may use. `native`: those of the building host."
            " `avx2` and `avx512` are portable: the artifact runs on every host that has them. A"
            " list makes one target for each entry."
        ),
    )


class Cuda(YamlMapping):
    """The GPU architecture and the precision of the CUDA targets."""

    arch: Arches = Field(
        default="native",
        description=(
            "The GPU architecture to compile for. `native`: that of the building host. `sm_80`:"
            " compute capability 8.0. A list makes one target for each entry."
        ),
    )
    tf32: bool | None = Field(
        default=None,
        description=(
            "Whether float32 convolutions and matrix products may use TF32. Default: the default of"
            " torch, which is yes for convolutions and no for matrix products."
        ),
    )
    reduced_precision: bool | None = Field(
        default=None,
        description=(
            "Whether half-precision matrix products may accumulate in half precision. Default: the"
            " default of torch."
        ),
    )


class Image(YamlMapping):
    """The preprocessing of an image for `run`."""

    resize: Positive | None = Field(
        default=None,
        description="The length of the shorter side after resizing, in pixels.",
    )
    crop: Positive | None = Field(
        default=None,
        description="The side of the square that is cut from the middle, in pixels.",
    )
    mean: list[Number] = Field(
        default=[],
        description="One value for each channel, subtracted from values between 0 and 1.",
    )
    std: list[Number] = Field(
        default=[],
        description="One value for each channel. The values are divided by it.",
    )
    classes: str | None = Field(
        default=None,
        description="A text file with the name of one class on each line.",
    )


class Baseline(YamlMapping):
    """The unquantised, or wider, model with which this model is compared."""

    source: SourceText = Field(
        description="The callable that makes the baseline, written like the model's source."
    )
    kwargs: dict[str, Any] | None = Field(
        default=None,
        description="Keyword arguments of that callable. Default: the kwargs of the model.",
    )
    limit: NotNegative | None = Field(
        default=None,
        description=(
            "The largest allowed relative error of each output: the root mean square of its"
            " difference to the baseline's output, divided by that of the baseline's output."
            " Default: the error is only reported."
        ),
    )


class Weights(YamlMapping):
    """The file with the weights, and the rules that map its names to the model's names."""

    file: WeightsFile = Field(description="The file, as `weights` names it when it is a string.")
    key: NotEmpty | None = Field(
        default=None,
        description=(
            "The path of the state dict inside a checkpoint: `model`, or `state.model` for a nested"
            " one."
        ),
    )
    prefix: NotEmpty | None = Field(
        default=None,
        description=(
            "Only names that begin with this prefix are loaded. The prefix is removed from them."
        ),
    )
    rename: dict[str, str] = Field(
        default={},
        description=(
            "Beginnings of names in the file, and the beginnings that replace them. With a * on"
            " both sides, a rule replaces the entire name, and * stands for any text. The first"
            " rule that matches a name is applied."
        ),
    )
    ignore: list[NotEmpty] = Field(
        default=[],
        description=(
            "Names, or patterns with *, that are not loaded. They may be missing in the model, or"
            " in the file: the model then keeps the value that the callable made."
        ),
    )


# Values that are either a string or a mapping.

ImageField = Annotated[
    Annotated[SourceText, Tag("<string>")] | Annotated[Image, Tag("<mapping>")],
    by_type(string=str, mapping=dict),
]
BaselineField = Annotated[
    Annotated[SourceText, Tag("<string>")] | Annotated[Baseline, Tag("<mapping>")],
    by_type(string=str, mapping=dict),
]
WeightsField = Annotated[
    Annotated[WeightsFile, Tag("<string>")] | Annotated[Weights, Tag("<mapping>")],
    by_type(string=str, mapping=dict),
]
