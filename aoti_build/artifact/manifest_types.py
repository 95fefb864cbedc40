"""The types of the tables in a manifest, as JSON has them.

They describe for type checkers what `manifest_shape` tests at run time; formats.md describes the
fields. A class that ends in `Base` has the required fields of the class below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, TypedDict


class BlocksDocument(TypedDict):
    """Digests of a large file by blocks of `size` bytes."""

    size: int
    blake3: list[str]


class _FileBase(TypedDict):
    sha256: str
    size: int


class FileDocument(_FileBase, total=False):
    """A file of the artifact."""

    blocks: BlocksDocument


class _WeightsBase(TypedDict):
    external: bool


class WeightsRecord(_WeightsBase, total=False):
    """Where the weights are: `alignment` in bytes of external ones, or `why` they are embedded."""

    alignment: int
    why: str


class ImportRecord(TypedDict):
    """A module to import before the package is loaded, and what it registers with torch."""

    module: str
    operators: list[str]
    types: list[str]


class _InstructionsBase(TypedDict):
    seen: list[str] | None


class InstructionsRecord(_InstructionsBase, total=False):
    """The extensions that the machine code uses, or `why` they are not known."""

    why: str


class _RequiresBase(TypedDict):
    device: str
    platform: str
    machine: str
    torch: str
    cpu_features: list[str]


class Requires(_RequiresBase, total=False):
    """What a host must have to run the artifact."""

    compute_capability: str
    gpu_code: list[str]
    imports: list[ImportRecord]
    instructions: InstructionsRecord


class DimRecord(TypedDict):
    """The sizes that a dim may have."""

    min: int
    max: int
    multiple_of: int


class MutatesRecord(TypedDict):
    """Names of the inputs and buffers that a call changes."""

    inputs: list[str]
    buffers: list[str]


class _WeightBase(TypedDict):
    name: str
    kind: str
    dtype: str
    shape: list[int]
    device: str


class WeightRecord(_WeightBase, total=False):
    """One weight. `tied_to` names another weight that has the same memory."""

    stride: list[int]
    tied_to: str
    view: bool


# An input or an output: a tensor, a constant that is compiled in, or a number. They differ in the
# fields that they have, so a reader looks for `dtype`, `constant` or `number` first.
LeafRecord: TypeAlias = Mapping[str, Any]


class _SignatureBase(TypedDict):
    inputs: list[LeafRecord]
    outputs: list[LeafRecord]
    dims: dict[str, DimRecord]
    mutates: MutatesRecord


class SignatureRecord(_SignatureBase, total=False):
    """How the package is called, and what it returns."""

    weights: list[WeightRecord]
    special: list[dict[str, int]]
    computed_in: dict[str, str]


class _ToleranceBase(TypedDict):
    atol: float | None
    rtol: float | None
    outputs: Mapping[str, Mapping[str, float | None]]


class ToleranceRecord(_ToleranceBase, total=False):
    """How far outputs may be from eager mode, and `baseline`, how far from the baseline's."""

    baseline: float


class _CheckBase(TypedDict):
    passed: bool | None


class LatencyRecord(TypedDict):
    """Indicative seconds of one call at the example sizes. None if eager mode was not timed."""

    artifact: float
    eager: float | None


class CheckRecord(_CheckBase, total=False):
    """The comparison with eager mode. `passed` is None if it was not made; `why` says the cause."""

    why: str
    tolerance: ToleranceRecord
    cases: list[Mapping[str, Any]]
    vacuous: list[Mapping[str, str]]
    no_fp64: str | None
    baseline: list[Mapping[str, Any]]
    seconds: float
    latency: LatencyRecord


class ReasonRecord(TypedDict):
    """Why the artifact was built; see `reasons.Reason`."""

    reason: str
    what: str
    old: Any
    new: Any


class ProvenanceRecord(TypedDict, total=False):
    """The release that built the artifact, when (ISO 8601, UTC), and git's state of the project."""

    aoti_build: str
    created: str
    git_commit: str | None
    git_dirty: bool | None
