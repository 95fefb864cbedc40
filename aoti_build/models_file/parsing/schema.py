"""The keys of models.yaml, version 1, and the pydantic types of their values.

`aoti_build.models_file.agreements` has the rules for several fields.
`aoti_build.models_file.project` has the types of a valid file.

The docstrings and descriptions are also texts of the JSON Schema, which editors show. After a
change, write models.schema.json again with
`inv schema --output aoti_build/models_file/models.schema.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import Field, Tag, WithJsonSchema

from aoti_build.common.fields import MAX_INT
from aoti_build.models_file.parsing.field_types import (
    Device,
    FloatDtype,
    Identifier,
    MemoryFormat,
    Module,
    Name,
    Option,
    Outputs,
    Presets,
    SourceText,
    YamlMapping,
    by_type,
)
from aoti_build.models_file.parsing.schema_inputs import Dim, Inputs, TensorInput
from aoti_build.models_file.parsing.schema_parts import (
    Baseline,
    BaselineField,
    Cpu,
    Cuda,
    Image,
    ImageField,
    OutputTolerance,
    ReferenceData,
    Tolerance,
    Weights,
    WeightsField,
)
from aoti_build.models_file.parsing.yaml_document import FieldPath

VERSION = 1

# The type of the mapping at each path of a file.
MappingTypes: TypeAlias = Mapping[tuple[str, ...], type[YamlMapping]]
ModelPresets = Annotated[
    Annotated[str, Tag("<string>")]
    | Annotated[Presets, Tag("<list>")]
    | Annotated[dict[Device, Presets], Field(min_length=1), Tag("<mapping>")],
    by_type(string=str, list=list, mapping=dict),
]


class Model(YamlMapping):
    """A model: its source, its example inputs, and the targets to build."""

    source: SourceText = Field(
        description=(
            "The callable that makes the torch.nn.Module: `package.module:callable`, or"
            " `path/to/file.py:callable` with the path relative to the root."
        )
    )
    inputs: Inputs = Field(
        description=(
            "Example inputs: a list (positional), a mapping (by keyword), or a callable that makes"
            " them, written like source."
        )
    )
    kwargs: dict[str, Any] = Field(
        default={},
        description="Keyword arguments of the callable in source.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=MAX_INT,
        description="The seed of random initial weights.",
    )
    method: Identifier | None = Field(
        default=None,
        description="The method to compile instead of forward.",
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
            "A file with weights: .safetensors, or .pt, .pth, .bin and .ckpt, which are read with"
            " weights_only=True, or the .index.json of several files. A mapping has more options."
        ),
    )
    files: list[str] = Field(
        default=[],
        description=(
            "More files that the model depends on, relative to the root. Modules, and files that"
            " Python code opens, are detected automatically. List files that native code opens,"
            " such as those of a tokenizer."
        ),
    )
    imports: list[Module] = Field(
        default=[],
        description=(
            "Modules to import before the source, and wherever the artifact is loaded. Modules that"
            " register operators and types that the model uses are detected automatically."
        ),
    )
    outputs: Outputs | None = Field(
        default=None,
        description=(
            "`dict`: the artifact returns plain dicts and lists instead of the model's own types,"
            " so loading it does not need their library. Default: the types that the model returns."
        ),
    )
    dtype: FloatDtype | None = Field(
        default=None,
        description=(
            "The floating point type that the model is cast to after its weights are loaded. Inputs"
            " without a dtype have it too."
        ),
    )
    memory_format: MemoryFormat | None = Field(
        default=None,
        description=(
            "The order in memory of the weights and inputs: `channels_last` for those of 4"
            " dimensions, `channels_last_3d` for those of 5. `contiguous`: the order of the"
            " dimensions. Default: the weights as the callable makes them, and contiguous inputs."
        ),
    )
    baseline: BaselineField | None = Field(
        default=None,
        description=(
            "The unquantised, or wider, model with which this model is compared: a callable, or a"
            " mapping. The loss of accuracy is reported."
        ),
    )
    dims: dict[Identifier, Dim] = Field(
        default={},
        description="The dynamic sizes that shapes use.",
    )
    devices: list[Device] = Field(
        default=["cpu"],
        min_length=1,
        description="The devices to build for.",
    )
    inductor_configs: ModelPresets = Field(
        default=["default"],
        description=(
            "The presets to build with: one name, a list for all devices, or a mapping from device"
            " to list. A device that is missing in the mapping is built with [default]. `tuned` is"
            " the preset whose options are in tuned.yaml."
        ),
    )
    tolerance: Tolerance = Field(
        default=Tolerance(),
        description="The allowed difference between compiled outputs and eager mode.",
    )
    cpu: Cpu = Field(
        default=Cpu(),
        description="The vector instructions of the CPU targets.",
    )
    cuda: Cuda = Field(
        default=Cuda(),
        description="The GPU architecture and the precision of the CUDA targets.",
    )
    reference_data: ReferenceData = Field(
        default=ReferenceData(),
        description="The data that an artifact is verified with.",
    )
    image: ImageField | None = Field(
        default=None,
        description=(
            "The preprocessing of an image for `run`: a mapping, or a member of one of"
            " torchvision's weights enums, such as"
            " `torchvision.models:ResNet18_Weights.DEFAULT`."
        ),
    )


class File(YamlMapping):
    """The models to build, and the presets to build them with."""

    # Any integer passes here, because the parser has a better message for another version.
    version: Annotated[int, WithJsonSchema({"type": "integer", "const": VERSION})] = Field(
        description=f"The version of the file format: {VERSION}."
    )
    root: str = Field(
        default=".",
        description=(
            "The directory that every path in this file is relative to, and in which the model's"
            " code runs, relative to models.yaml: `..` for deploy/models.yaml. Default: the"
            " directory of models.yaml."
        ),
    )
    python_path: list[str] = Field(
        default=["."],
        min_length=1,
        description=(
            "The directories that modules are imported from, relative to the root: [src] for a"
            " project whose packages are below src/. Default: the root."
        ),
    )
    artifacts: str = Field(
        default="artifacts",
        description="The directory of the artifacts, relative to the root.",
    )
    history: str | None = Field(
        default=None,
        description=(
            "The directory of the history of benchmarks, relative to the root. Default: none is"
            " kept."
        ),
    )
    inductor_configs: dict[Name, dict[Option, Any]] = Field(
        default={},
        description=(
            "Presets: a name, and the inductor options that it sets, such as `max_autotune: true`"
            " or `cpp.threads: 4`. `default` sets none unless it is defined here."
        ),
    )
    models: dict[Name, Model] = Field(min_length=1, description="The models to build, by name.")


# The type of the mapping at each path. "*" stands for any name or index.
MAPPING_TYPES: MappingTypes = {
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


def mapping_type_at(
    path: FieldPath, types: MappingTypes = MAPPING_TYPES
) -> type[YamlMapping] | None:
    """Return the type of the mapping at `path`, or None if its keys are free."""
    for pattern, mapping_type in types.items():
        if _matches(pattern, path):
            return mapping_type
    return None


def _matches(pattern: tuple[str, ...], path: FieldPath) -> bool:
    if len(pattern) != len(path):
        return False
    return all(key in ("*", part) for key, part in zip(pattern, path, strict=True))
