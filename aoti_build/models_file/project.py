"""The domain of a models.yaml: what a `Project`, its models and its targets are, once everything in
the file is valid.

These are plain frozen dataclasses that take valid values only;
`aoti_build.models_file.load_project` makes them. They import neither pydantic nor yaml, so that a
process which only looks at a known project never pays for parsing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from aoti_build.host.devices import NATIVE, Device, device_named

DEFAULT_PRESET = "default"
REFERENCE_DATA_LIMIT = 64 << 20


@dataclass(frozen=True)
class Position:
    """A 1-based place in models.yaml."""

    line: int
    column: int


@dataclass(frozen=True)
class Source:
    """A callable named in models.yaml: ``package.module:attribute`` or
    ``path/to/file.py:attribute``.

    Exactly one of `module` and `path` is set; `path` is relative to the directory of models.yaml.
    """

    attribute: str
    module: str | None = None
    path: str | None = None

    def __str__(self) -> str:
        return f"{self.path or self.module}:{self.attribute}"


@dataclass(frozen=True)
class Dim:
    """A named dynamic size: min <= size <= max, a multiple of `multiple_of`; `example` is used for
    the export."""

    name: str
    min: int
    max: int
    example: int
    multiple_of: int = 1


@dataclass(frozen=True)
class TensorInput:
    """One example tensor: `shape` holds integers, and sizes that follow dims as
    `aoti_build.common.sizes` spells them; `name` is None for a positional input.

    Floats are drawn from a normal distribution, or uniformly from [low, high) when either is given;
    integers uniformly from [low, high) with the defaults 0 and 2; bools are true with
    `probability`, fairly where that is None.
    """

    shape: tuple[int | str, ...]
    dtype: str
    name: str | None = None
    low: float | int | None = None
    high: float | int | None = None
    probability: float | int | None = None


@dataclass(frozen=True)
class ConstantInput:
    """An argument that is no tensor: a number, a text, a bool, None, or a list of these. It is
    compiled in."""

    value: Any
    name: str | None = None


Inputs: TypeAlias = tuple[TensorInput | ConstantInput, ...]


@dataclass(frozen=True)
class OutputTolerance:
    """What one output must fulfil, in place of the model's tolerance.

    `atol` and `rtol` bound each value; `agreement` is the least part of equal values (of equal
    largest classes, for floating point); `iou` the least mean intersection over union of the
    classes. Either bounds or one of the others.
    """

    atol: float | None = None
    rtol: float | None = None
    agreement: float | None = None
    iou: float | None = None


@dataclass(frozen=True)
class Tolerance:
    """Bounds of numpy's allclose: |candidate - reference| <= atol + rtol * |reference|. None: the
    reference policy of `aoti_build._torch.checking.compare` decides. `outputs` are exceptions by
    the output's name in the signature."""

    atol: float | None = None
    rtol: float | None = None
    outputs: Mapping[str, OutputTolerance] = field(default_factory=dict)


@dataclass(frozen=True)
class CudaOptions:
    """Reduced precision on CUDA; None leaves torch's own default.

    `tf32`: float32 convolutions and matrix products may round their operands to TF32 (10 bits).
    `reduced_precision`: half-precision matrix products may add up in half precision.
    """

    tf32: bool | None = None
    reduced_precision: bool | None = None


@dataclass(frozen=True)
class Image:
    """How an image becomes the input of a vision model: the shorter side to `resize`, the middle
    `crop`, values from 0 to 1 minus `mean`, divided by `std`, per channel. `classes` is a file with
    a name a line."""

    resize: int | None = None
    crop: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    classes: str | None = None


@dataclass(frozen=True)
class Baseline:
    """The model that another is a quantised, or narrower, form of, and the largest relative RMSE
    that this may cost an output; None: any."""

    source: Source
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    limit: float | None = None


@dataclass(frozen=True)
class Weights:
    """Where a model's weights are, and how the names in there become the model's.

    `file` is relative to the directory of models.yaml, which it may leave, absolute, or below
    ``~/``; in its plainest form. `key` is the dotted way to the state dict in a checkpoint. Names
    with `prefix` are taken, without it; then the first pair of `rename` that fits is applied; names
    that fit a pattern of `ignore` are not loaded.
    """

    file: str
    key: str | None = None
    prefix: str | None = None
    rename: tuple[tuple[str, str], ...] = ()
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """One entry of ``models:``. `inputs` is a tuple of tensors and constants, or the callable that
    makes them."""

    name: str
    source: Source
    inputs: Inputs | Source
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    # The method that is compiled in place of forward.
    method: str | None = None
    # Whether torch.export runs in its strict mode.
    strict: bool = False
    weights: Weights | None = None
    # Further files that the model depends on, relative to models.yaml.
    files: tuple[str, ...] = ()
    dims: tuple[Dim, ...] = ()
    # What the module is cast to; None: it stays as the source makes it.
    dtype: str | None = None
    baseline: Baseline | None = None
    tolerance: Tolerance = Tolerance()
    cuda: CudaOptions = CudaOptions()
    # Bytes of reference data that are kept beside an artifact.
    reference_data_limit: int = REFERENCE_DATA_LIMIT
    # Modules that are imported before the source, and wherever the artifact is loaded.
    imports: tuple[str, ...] = ()
    # "dict": outputs are plain dicts and lists, whatever types the model returns.
    outputs: str | None = None
    # A declared preprocessing, or a member of one of torchvision's weights enums.
    image: Image | Source | None = None
    # Field path such as "source" or "dims.batch" -> where it stands, for errors found after
    # parsing.
    positions: Mapping[str, Position] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Target:
    """One artifact to be: a model on a device with a preset's inductor config, compiled for a
    architecture: the `isa` of models.yaml for the CPU, the `arch` for CUDA."""

    model: Model
    device: str
    preset: str = DEFAULT_PRESET
    inductor_config: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = NATIVE
    # Whether the architecture was one entry of a list, whose targets are told apart by it.
    listed: bool = False
    # Digest of everything above (`aoti_build.models_file.records`), carried along because it is
    # asked for at every no-op.
    digest: str = field(default="", compare=False, repr=False)

    @property
    def names_architecture(self) -> bool:
        """Whether it is compiled for something that models.yaml names, and not for what the
        building host has."""
        return self.architecture != NATIVE

    @property
    def hardware(self) -> Device:
        """The device, as an object."""
        return device_named(self.device)

    @property
    def device_options(self) -> Mapping[str, Any]:
        """What models.yaml says of computing on the device."""
        options = {"cuda": self.model.cuda}.get(self.device)
        return {} if options is None else asdict(options)

    @property
    def compile_options(self) -> dict[str, Any]:
        """The inductor options by which it is compiled for `architecture`; none for what inductor
        finds here."""
        return self.hardware.compile_options(self.architecture)

    @property
    def variant(self) -> str:
        """``cpu``; then ``-<architecture>`` if it is listed and not native; then ``-<preset>``
        unless that is the default."""
        architecture = [self.architecture] if self.listed and self.names_architecture else []
        preset = [self.preset] if self.preset != DEFAULT_PRESET else []
        return "-".join([self.device, *architecture, *preset])

    @property
    def name(self) -> str:
        """The stable identifier ``model/variant``: on disk, on the command line, in every
        report."""
        return f"{self.model.name}/{self.variant}"


@dataclass(frozen=True)
class Project:
    """A whole models.yaml. `file` is its path; everything in it is relative to `root`, the
    directory it lies in."""

    file: Path
    targets: tuple[Target, ...]

    @property
    def root(self) -> Path:
        return self.file.parent

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def where(self, model: Model, *fields: str) -> str:
        """``models.yaml:LINE:COL`` of the first of `fields` that the file has; else of the model's
        own entry."""
        for name in (*fields, ""):
            if position := model.positions.get(name):
                return f"{self.file.name}:{position.line}:{position.column}"
        return self.file.name
