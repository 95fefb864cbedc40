"""The content of a valid models.yaml: a `Project`, its models and its targets.

`aoti_build.models_file.load_project` makes these frozen dataclasses, which therefore check nothing.
This module imports neither pydantic nor yaml, so a command that finds a cached project never pays
for parsing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any, TypeAlias

from aoti_build.host.devices import NATIVE, Device, device_named
from aoti_build.host.import_path import ImportPath
from aoti_build.models_file.places import Layout, root_of, shown_file

DEFAULT_PRESET = "default"
# The preset whose options are in tuned.yaml, unless models.yaml defines a preset of this name.
TUNED_PRESET = "tuned"
REFERENCE_DATA_LIMIT = 64 << 20  # bytes


@dataclass(frozen=True)
class Position:
    """A position in models.yaml. `line` and `column` start at 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Source:
    """A callable that models.yaml names.

    It is written ``package.module:attribute`` or ``path/to/file.py:attribute``. Exactly one of
    `module` and `path` is set. `path` is relative to the project's root.
    """

    attribute: str
    module: str | None = None
    path: str | None = None

    def __str__(self) -> str:
        return f"{self.path or self.module}:{self.attribute}"


@dataclass(frozen=True)
class Dim:
    """A named dynamic size between `min` and `max`, both included.

    Every size is a multiple of `multiple_of`. The export uses the size `example`.
    """

    name: str
    min: int
    max: int
    example: int
    multiple_of: int = 1


@dataclass(frozen=True)
class TensorInput:
    """One example tensor. `name` is None for a positional input.

    `shape` holds integers, and expressions of dims as `aoti_build.common.sizes` writes them.

    The values depend on the dtype:

    - Floats have a normal distribution. With `low` and `high` they are uniform over [low, high).
    - Integers are uniform over [low, high). The defaults are 0 and 2.
    - Bools are true with `probability`. The default is 0.5.

    `memory_format` is None for a contiguous tensor.
    """

    shape: tuple[int | str, ...]
    dtype: str
    name: str | None = None
    low: float | int | None = None
    high: float | int | None = None
    probability: float | int | None = None
    memory_format: str | None = None


@dataclass(frozen=True)
class ConstantInput:
    """An argument that is not a tensor. Its value is compiled into the artifact.

    `value` is a number, a text, a bool, None, or a list of these. `name` is None for a positional
    argument.
    """

    value: Any
    name: str | None = None


Inputs: TypeAlias = tuple[TensorInput | ConstantInput, ...]


@dataclass(frozen=True)
class OutputTolerance:
    """The criterion of one output, in place of the model's tolerance.

    It is one of three: bounds of each value, `agreement` or `iou`.

    - `atol` and `rtol` bound the difference of each value.
    - `agreement` is the smallest fraction of values that must be equal. For floating point it
      compares the largest classes (argmax).
    - `iou` is the smallest mean intersection over union of the classes.
    """

    atol: float | None = None
    rtol: float | None = None
    agreement: float | None = None
    iou: float | None = None


@dataclass(frozen=True)
class Tolerance:
    """The bounds of numpy's allclose: |candidate - reference| <= atol + rtol * |reference|.

    For a bound that is None, `aoti_build._torch.checking.compare` chooses the value. `outputs` has
    exceptions, by the name of the output in the signature.
    """

    atol: float | None = None
    rtol: float | None = None
    outputs: Mapping[str, OutputTolerance] = field(default_factory=dict)


@dataclass(frozen=True)
class CudaOptions:
    """Permissions to compute with reduced precision on CUDA. None leaves torch's default.

    `tf32` allows float32 convolutions and matrix products to round their operands to TF32, which
    has a mantissa of 10 bits. `reduced_precision` allows half-precision matrix products to
    accumulate in half precision.
    """

    tf32: bool | None = None
    reduced_precision: bool | None = None


@dataclass(frozen=True)
class Image:
    """The preprocessing that turns an image into the input of a vision model.

    The shorter side is resized to `resize` pixels. A square of `crop` pixels is cut from the
    middle. Values from 0 to 1 are normalised with the `mean` and `std` of their channel. `classes`
    is a text file with the name of one class on each line.
    """

    resize: int | None = None
    crop: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    classes: str | None = None


@dataclass(frozen=True)
class Baseline:
    """The unquantised, or wider, model with which a model is compared.

    `limit` is the largest relative RMSE that an output may have against it. None means any.
    """

    source: Source
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    limit: float | None = None


@dataclass(frozen=True)
class Weights:
    """The file with the weights, and the rules that map its names to the model's names.

    `file` is a normalised path. It may lie outside the project: it is relative to the project's
    root, absolute, or begins with ``~/``. `key` is the dotted path of the state dict inside
    a checkpoint.

    A name passes through these rules in order:

    1. With `prefix`, only names with this prefix are loaded. The prefix is removed.
    2. The first pair (old, new) of `rename` that matches the name is applied.
    3. A name that matches a pattern of `ignore` is not loaded.
    """

    file: str
    key: str | None = None
    prefix: str | None = None
    rename: tuple[tuple[str, str], ...] = ()
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """One entry of ``models:``."""

    name: str
    source: Source
    # The example inputs, or the callable that makes them.
    inputs: Inputs | Source
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    # The method to compile. None means forward.
    method: str | None = None
    # Whether torch.export runs in its strict mode.
    strict: bool = False
    weights: Weights | None = None
    # More files that the model depends on, relative to the project's root.
    files: tuple[str, ...] = ()
    dims: tuple[Dim, ...] = ()
    # The dtype to cast the module to. None leaves the dtypes that the source chooses.
    dtype: str | None = None
    # The memory format of the weights, and of inputs that a callable makes. None leaves theirs.
    # `TensorInput` has the format of an input that models.yaml describes.
    memory_format: str | None = None
    baseline: Baseline | None = None
    tolerance: Tolerance = Tolerance()
    cuda: CudaOptions = CudaOptions()
    # The largest size of an artifact's reference data, in bytes.
    reference_data_limit: int = REFERENCE_DATA_LIMIT
    # Modules to import before the source, and wherever the artifact is loaded.
    imports: tuple[str, ...] = ()
    # "dict" replaces the output types of the model by plain dicts and lists.
    outputs: str | None = None
    # The preprocessing, or the name of a member of one of torchvision's weights enums.
    image: Image | Source | None = None
    # The position of each field, such as "source" or "dims.batch". Errors that are detected after
    # parsing use it. The key "" has the position of the model's name.
    positions: Mapping[str, Position] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Target:
    """One artifact to build: a model on a device, for an architecture, with a preset."""

    model: Model
    device: str
    preset: str = DEFAULT_PRESET
    inductor_config: Mapping[str, Any] = field(default_factory=dict)
    # A value of `isa` for the CPU, or of `arch` for CUDA.
    architecture: str = NATIVE
    # Whether models.yaml has a list of architectures. The name of the target then includes its own.
    listed: bool = False
    # The digest of all fields above, as `aoti_build.models_file.records` computes it. It is stored,
    # because every no-op build needs it.
    digest: str = field(default="", compare=False, repr=False)

    @property
    def names_architecture(self) -> bool:
        """Whether models.yaml names the architecture. Otherwise it is that of the building host."""
        return self.architecture != NATIVE

    @property
    def hardware(self) -> Device:
        """The device as an object."""
        return device_named(self.device)

    @property
    def device_options(self) -> Mapping[str, Any]:
        """The settings in models.yaml for computing on the device."""
        # Only CUDA has settings today.
        if self.device == "cuda":
            return asdict(self.model.cuda)
        return {}

    @property
    def compile_options(self) -> dict[str, Any]:
        """The inductor options that select `architecture`. Empty for the native architecture."""
        return self.hardware.compile_options(self.architecture)

    @property
    def variant(self) -> str:
        """The name of the target without the model: ``device[-architecture][-preset]``.

        It includes the architecture if that is from a list and not native. It includes the preset
        if that is not the default.
        """
        parts = [self.device]
        if self.listed and self.names_architecture:
            parts.append(self.architecture)
        if self.preset != DEFAULT_PRESET:
            parts.append(self.preset)
        return "-".join(parts)

    @property
    def name(self) -> str:
        """The identifier ``model/variant`` on disk, on the command line and in every report."""
        return f"{self.model.name}/{self.variant}"


@dataclass(frozen=True)
class Choice:
    """What `tune` found to be the fastest for a target on a class of hosts.

    Attributes:
        candidate: its name among the candidates, such as ``freezing``.
        options: the inductor options.
        tf32: as in `CudaOptions`; None leaves what models.yaml says.
        reduced_precision: likewise.
        memory_format: that of the weights and of the inputs of its rank; None leaves theirs.
        position: where it is in tuned.yaml.
    """

    candidate: str
    options: Mapping[str, Any] = field(default_factory=dict)
    tf32: bool | None = None
    reduced_precision: bool | None = None
    memory_format: str | None = None
    position: Position = field(default=Position(1, 1), compare=False)

    @property
    def precision(self) -> dict[str, bool]:
        """The permissions that it sets, by their names in `CudaOptions`."""
        given = {"tf32": self.tf32, "reduced_precision": self.reduced_precision}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Project:
    """The content of one models.yaml. Its paths are relative to `root`.

    Attributes:
        presets: the inductor options of every preset in the file.
        preset_positions: where each of these options is, by preset and option.
        tuned: the content of tuned.yaml: choices by the name of the target and the class of hosts.
        described: the targets as models.yaml describes them, if tuned.yaml changed any.
        private: a directory in `main_artifacts` that takes the place of `main_artifacts`.
        layout: where root, modules and artifacts are.
    """

    file: Path
    targets: tuple[Target, ...]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tuned: Mapping[str, Mapping[str, Choice]] = field(default_factory=dict)
    described: tuple[Target, ...] = ()
    private: str = ""
    layout: Layout = field(default_factory=Layout)
    preset_positions: Mapping[str, Mapping[str, Position]] = field(
        default_factory=dict, compare=False
    )

    @property
    def root(self) -> Path:
        """The directory that paths in the file are relative to, and in which factories run."""
        return root_of(self.file, self.layout)

    @property
    def import_directories(self) -> tuple[str, ...]:
        """The absolute paths of the directories that modules are imported from, in their order."""
        return tuple(normpath(f"{self.root}/{entry}") for entry in self.layout.python_path)

    def import_path(self) -> ImportPath:
        """Where modules of the project are imported from, as it is now."""
        return ImportPath(str(self.root), self.import_directories, os.environ)

    @property
    def name(self) -> str:
        """The path of the file from the root on. Artifacts record which file lists them."""
        return relpath(self.file, self.root)

    @property
    def artifacts(self) -> Path:
        """The directory of the targets' artifacts, with their logs and locks."""
        return self.main_artifacts / self.private

    @property
    def main_artifacts(self) -> Path:
        """The directory of published artifacts, with the store and the caches."""
        return self.root / self.layout.artifacts

    @property
    def history(self) -> Path | None:
        """The directory of the history of benchmarks. None if no history is kept."""
        if self.layout.history is None:
            return None
        return self.root / self.layout.history

    def shown(self, path: Path) -> str:
        """A path as reports show it: relative to the root, and absolute if it lies elsewhere."""
        if path.is_relative_to(self.root):
            return path.relative_to(self.root).as_posix()
        return str(path)

    def is_tuned(self, target: Target) -> bool:
        """Whether the options of the target are those of tuned.yaml."""
        return target.preset == TUNED_PRESET and TUNED_PRESET not in self.presets

    def option_locations(self, preset: str) -> dict[str, str]:
        """``models.yaml:LINE:COLUMN`` of each option of a preset. Empty if the file has no such
        preset."""
        positions = self.preset_positions.get(preset, {})
        return {option: self._located(position) for option, position in positions.items()}

    def _located(self, position: Position) -> str:
        return f"{shown_file(self.file)}:{position.line}:{position.column}"

    def location(self, model: Model, *fields: str) -> str:
        """Return ``models.yaml:LINE:COLUMN`` of the first of `fields` that the file contains.

        If the file contains none of them, return the position of the model's name.
        """
        for name in (*fields, ""):
            position = model.positions.get(name)
            if position is not None:
                return self._located(position)
        return shown_file(self.file)
