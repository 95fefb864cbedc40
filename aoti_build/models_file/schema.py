"""models.yaml, version 1, as it is written: which keys exist, and the type of each value.

What several fields must agree on is in `aoti_build.models_file.rules`. What the file means once it
is valid is in `aoti_build.models_file.project`. The descriptions are what an editor shows.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
)

from aoti_build.common.fields import MAX_INT
from aoti_build.models_file import rules
from aoti_build.models_file.field_types import (
    WEIGHTS,
    Arches,
    Device,
    Dtype,
    FloatDtype,
    Identifier,
    Isas,
    Module,
    Name,
    NotNegative,
    Number,
    Option,
    Outputs,
    Part,
    Positive,
    Presets,
    ShapeEntry,
    SizeText,
    SourceText,
    Wire,
    kind_of,
)

VERSION = 1


class OutputTolerance(Wire):
    """What one output must fulfil: atol and rtol, or agreement, or iou."""

    atol: NotNegative | None = Field(default=None, description="Absolute tolerance. Default: 0.")
    rtol: NotNegative | None = Field(default=None, description="Relative tolerance. Default: 0.")
    agreement: Part | None = Field(
        default=None,
        description=(
            "The least part of values that must be equal; for floating point, of largest classes"
            " (argmax over dimension 1, or the last of two)."
        ),
    )
    iou: Part | None = Field(
        default=None,
        description=(
            "The least mean intersection over union of the classes of an integer or bool mask."
        ),
    )


class Tolerance(Wire):
    """How far an output may be from eager's: |compiled - eager| <= atol + rtol * |eager|."""

    atol: NotNegative | None = Field(
        default=None, description="Absolute tolerance. Default: chosen from the output's dtype."
    )
    rtol: NotNegative | None = Field(
        default=None, description="Relative tolerance. Default: chosen from the output's dtype."
    )
    outputs: dict[str, OutputTolerance] = Field(
        default={},
        description="Exceptions, by the name of an output as `status` and `verify` show it.",
    )


class ReferenceData(Wire):
    """What is kept beside an artifact to verify it by."""

    limit: SizeText = Field(
        default="64m",
        description=(
            "How large the reference data may get, such as 500k or 2g. Beyond it, inputs are made"
            " again from their seed and outputs from the model's source."
        ),
    )


class Cuda(Wire):
    """What the CUDA targets are compiled for, and how they compute."""

    arch: Arches = Field(
        default="native",
        description=(
            "The GPU that the code is for. `native`: the building host's. `sm_80`: compute"
            " capability 8.0. A list makes a target of each."
        ),
    )
    tf32: bool | None = Field(
        default=None,
        description=(
            "Whether float32 convolutions and matrix products may use TF32. Default: torch's, which"
            " is yes for convolutions and no for matrix products."
        ),
    )
    reduced_precision: bool | None = Field(
        default=None,
        description=(
            "Whether half-precision matrix products may add up in half precision. Default: torch's."
        ),
    )


class Image(Wire):
    """How an image given to `run` becomes the model's input."""

    resize: Positive | None = Field(
        default=None, description="Length of the shorter side after resizing."
    )
    crop: Positive | None = Field(
        default=None, description="Side of the square that is cut from the middle."
    )
    mean: list[Number] = Field(
        default=[], description="Subtracted from values between 0 and 1, one a channel."
    )
    std: list[Number] = Field(default=[], description="Divided by, one a channel.")
    classes: str | None = Field(
        default=None, description="A text file with the name of a class on each line."
    )


class Baseline(Wire):
    """The model that this one is a quantised, or narrower, form of."""

    source: SourceText = Field(
        description="The callable that makes it, written like the model's source."
    )
    kwargs: dict[str, Any] | None = Field(
        default=None, description="Keyword arguments of that callable. Default: the model's own."
    )
    limit: NotNegative | None = Field(
        default=None,
        description=(
            "The largest loss that is allowed: of each output, the root mean square of its"
            " difference to the baseline's, divided by that of the baseline's. Default: it is"
            " reported only."
        ),
    )


class Cpu(Wire):
    """What the CPU targets are compiled for."""

    isa: Isas = Field(
        default="native",
        description=(
            "The vector instructions that the code may use. `native`: those of the building host."
            " `avx2` and `avx512` are portable: the artifact runs on every host that has them. A"
            " list makes a target of each."
        ),
    )


class Dim(Wire):
    """A named size that may vary between calls: min <= size <= max, in steps of multiple_of."""

    min: int | None = Field(
        default=None,
        le=MAX_INT,
        description="The smallest size, 1 or more. Default: multiple_of.",
        json_schema_extra={"minimum": 1},
    )
    max: int = Field(le=MAX_INT, description="The largest size.", json_schema_extra={"minimum": 2})
    multiple_of: int = Field(
        default=1, ge=1, le=MAX_INT, description="Every size is a multiple of this."
    )
    example: int | None = Field(
        default=None,
        le=MAX_INT,
        description=(
            "The size of the example inputs: at least 2, and at least 2 * multiple_of, since"
            " torch.export fixes a size (or a factor of one) that is 1. Default: the smallest size"
            " that is allowed."
        ),
        json_schema_extra={"minimum": 2},
    )


class TensorInput(Wire):
    """One example tensor, made from a seed."""

    shape: list[ShapeEntry] = Field(
        description=(
            "Integers, dims, and what follows dims: past + 1, 3*batch, 2*seq - 1, seq//2, past +"
            " seq; [] is a scalar tensor."
        )
    )
    dtype: Dtype = Field(
        default="float32",
        description="The element type, named as in torch. Default: the model's dtype, or float32.",
    )
    low: Number | None = Field(
        default=None,
        description=(
            "The smallest value drawn. Default: 0 for integers; floats are drawn from a normal"
            " distribution."
        ),
    )
    high: Number | None = Field(
        default=None,
        description=(
            "Values are drawn below this. Default: 2 for integers, 1 for floats that have a low."
        ),
    )
    probability: Part | None = Field(
        default=None,
        description="For bool: how probable true is; 1 makes all values true. Default: 0.5.",
    )


class ConstantInput(BaseModel):
    """An argument that is no tensor. Its value is compiled in."""

    # Keys of a tensor beside it get a sentence of their own (`aoti_build.models_file.rules`), and
    # null is a value.
    model_config = ConfigDict(
        extra="allow", strict=True, frozen=True, json_schema_extra={"additionalProperties": False}
    )

    value: Annotated[Any, AfterValidator(rules.constant)] = Field(
        description="A number, a text, true, false, null, or a list of these."
    )


def _input_kind(value: object) -> str:
    if isinstance(value, (dict, ConstantInput)) and "value" in dict(value):
        return "<constant>"
    return "<tensor>"


Input = Annotated[
    Annotated[TensorInput, Tag("<tensor>")] | Annotated[ConstantInput, Tag("<constant>")],
    Discriminator(_input_kind),
]
Inputs = Annotated[
    Annotated[list[Input], Field(min_length=1), Tag("<list>")]
    | Annotated[dict[Identifier, Input], Field(min_length=1), Tag("<mapping>")]
    | Annotated[SourceText, Tag("<text>")],
    kind_of(list=list, mapping=dict, text=str),
]
ModelPresets = Annotated[
    Annotated[Presets, Tag("<list>")]
    | Annotated[dict[Device, Presets], Field(min_length=1), Tag("<mapping>")],
    kind_of(list=list, mapping=dict),
]


NotEmpty = Annotated[str, Field(min_length=1)]
WeightsFile = Annotated[str, Field(json_schema_extra={"pattern": WEIGHTS})]


ImageField = Annotated[
    Annotated[SourceText, Tag("<text>")] | Annotated[Image, Tag("<mapping>")],
    kind_of(text=str, mapping=dict),
]


BaselineField = Annotated[
    Annotated[SourceText, Tag("<text>")] | Annotated[Baseline, Tag("<mapping>")],
    kind_of(text=str, mapping=dict),
]


class Weights(Wire):
    """Where the weights are, and how the names in the file become the model's."""

    file: WeightsFile = Field(description="The file, as `weights` names it when it is a text.")
    key: NotEmpty | None = Field(
        default=None,
        description=(
            "Where the state dict is in a checkpoint: `model`, or `state.model` for one inside"
            " another."
        ),
    )
    prefix: NotEmpty | None = Field(
        default=None,
        description=(
            "Names that begin with this are the model's, without it; others are not loaded."
        ),
    )
    rename: dict[str, str] = Field(
        default={},
        description=(
            "What names begin with, and what they begin with in the model. With a * on both sides:"
            " whole names, in which * stands for any text. The first rule that fits a name is"
            " applied."
        ),
    )
    ignore: list[NotEmpty] = Field(
        default=[],
        description=(
            "Names, or patterns with *, that are not loaded: what the file has more, and what the"
            " model keeps as the callable made it."
        ),
    )


WeightsField = Annotated[
    Annotated[WeightsFile, Tag("<text>")] | Annotated[Weights, Tag("<mapping>")],
    kind_of(text=str, mapping=dict),
]


class Model(Wire):
    """A model: where it comes from, its example inputs, and the targets to build of it."""

    source: SourceText = Field(
        description=(
            "The callable that makes the torch.nn.Module: `package.module:callable`, or "
            "`path/to/file.py:callable` with the path relative to models.yaml."
        )
    )
    inputs: Inputs = Field(
        description=(
            "Example inputs: a list (positional), a mapping (by keyword), or a callable that makes"
            " them, written like source."
        )
    )
    kwargs: dict[str, Any] = Field(
        default={}, description="Keyword arguments of the callable in source."
    )
    seed: int = Field(
        default=0, ge=0, le=MAX_INT, description="The seed of random initial weights."
    )
    method: Identifier | None = Field(
        default=None, description="The method to compile in place of forward."
    )
    strict: bool = Field(
        default=False,
        description=(
            "Whether torch.export runs in its strict mode, which reads the model's Python code"
            " instead of running it. Some models need it."
        ),
    )
    weights: WeightsField | None = Field(
        default=None,
        description=(
            "A file of weights: .safetensors, or .pt, .pth, .bin and .ckpt, which are read with "
            "weights_only=True; or the .index.json of several. A mapping says more of it."
        ),
    )
    files: list[str] = Field(
        default=[],
        description=(
            "Further files that the model depends on, relative to models.yaml. Modules, and files"
            " that Python code opens, are found without this; name those that native code opens,"
            " such as a tokenizer's."
        ),
    )
    imports: list[Module] = Field(
        default=[],
        description=(
            "Modules that are imported before the source, and by all that load the artifact. Those"
            " that register operators and types that the model uses are found without this."
        ),
    )
    outputs: Outputs | None = Field(
        default=None,
        description=(
            "`dict`: the artifact gives plain dicts and lists, whatever types the model returns, so"
            " that who loads it needs no library of theirs. Default: the types that the model"
            " returns."
        ),
    )
    dtype: FloatDtype | None = Field(
        default=None,
        description=(
            "The floating point type that the model is cast to once its weights are there, and that"
            " inputs without a dtype of their own have."
        ),
    )
    baseline: BaselineField | None = Field(
        default=None,
        description=(
            "The model that this one is a quantised, or narrower, form of: a callable, or a"
            " mapping. What is lost against it is reported."
        ),
    )
    dims: dict[Identifier, Dim] = Field(
        default={}, description="The dynamic sizes that shapes name."
    )
    devices: list[Device] = Field(
        default=["cpu"], min_length=1, description="The devices to build for."
    )
    inductor_configs: ModelPresets = Field(
        default=["default"],
        description=(
            "The presets to build with: a list for all devices, or a mapping from device to list. A"
            " device that the mapping leaves out is built with [default]."
        ),
    )
    tolerance: Tolerance = Field(
        default=Tolerance(), description="How far a compiled output may be from eager's."
    )
    cpu: Cpu = Field(default=Cpu(), description="What the CPU targets are compiled for.")
    cuda: Cuda = Field(
        default=Cuda(), description="What the CUDA targets are compiled for, and how they compute."
    )
    reference_data: ReferenceData = Field(
        default=ReferenceData(), description="What is kept beside an artifact to verify it by."
    )
    image: ImageField | None = Field(
        default=None,
        description=(
            "How an image given to `run` becomes the model's input: a mapping, or a member of one"
            " of torchvision's weights enums, `torchvision.models:ResNet18_Weights.DEFAULT`."
        ),
    )


class File(Wire):
    """The models to build, and how."""

    # The type is wider than the schema: another version gets a sentence of its own.
    version: Annotated[int, WithJsonSchema({"type": "integer", "const": VERSION})] = Field(
        description=f"The version of this file's format: {VERSION}."
    )
    inductor_configs: dict[Name, dict[Option, Any]] = Field(
        default={},
        description=(
            "Presets: a name, and the inductor options that it sets, such as `max_autotune: true`"
            " or `cpp.threads: 4`. `default` sets none unless it is given here."
        ),
    )
    models: dict[Name, Model] = Field(min_length=1, description="The models to build, by name.")


# Which wire type describes the mapping at a path; "*" stands for any name or index.
WIRE_TYPES: dict[tuple[str, ...], type[Wire]] = {
    (): File,
    ("models", "*"): Model,
    ("models", "*", "dims", "*"): Dim,
    ("models", "*", "inputs", "*"): TensorInput,
    ("models", "*", "tolerance"): Tolerance,
    ("models", "*", "tolerance", "outputs", "*"): OutputTolerance,
    ("models", "*", "cuda"): Cuda,
    ("models", "*", "reference_data"): ReferenceData,
    ("models", "*", "weights"): Weights,
    ("models", "*", "image"): Image,
    ("models", "*", "cpu"): Cpu,
    ("models", "*", "baseline"): Baseline,
}


def wire_type_at(path: tuple[str | int, ...]) -> type[Wire] | None:
    """The wire type of the mapping at `path`; None where keys are free."""
    for pattern, wire in WIRE_TYPES.items():
        if len(pattern) == len(path) and all(
            key in ("*", part) for key, part in zip(pattern, path, strict=True)
        ):
            return wire
    return None
