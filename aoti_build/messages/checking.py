"""The jobs that call an artifact, and compare its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from aoti_build.figures import CallFigures, Loss, Part, Refusal, RunFigures, Vacuous
from aoti_build.messages.job import PackageJob, TargetJob
from aoti_build.messages.parts import ErrorRecord, Message, Positions, Seconds, Signature

# The inputs of a run.
InputKind: TypeAlias = Literal["reference_data", "random", "tensors", "images"]


class CheckResult(Message, frozen=True):
    """The comparison of a package with eager mode.

    `no_fp64` is the cause if there was no float64 reference. `baseline` is None if models.yaml
    names none. `unavailable` is the cause if the package cannot be run from C++ at all. Then
    nothing passed, and there are no cases. `artifact_seconds` is what a call at the example sizes
    takes.
    """

    passed: bool
    cases: tuple[CallFigures, ...]
    vacuous: tuple[Vacuous, ...]
    no_fp64: str | None
    seconds: Seconds
    baseline: tuple[Loss, ...] | None = None
    unavailable: str | None = None
    artifact_seconds: float | None = None


class CheckJob(PackageJob[CheckResult], frozen=True):
    """Compare the package with the reference data.

    The C++ program `runner` calls it if it is set. With `cuda_graphs` calls are replayed. With
    `time_calls` a few calls at the example sizes are timed.
    """

    runner: str | None
    cuda_graphs: bool = False
    time_calls: bool = False


class ProbeResult(Message, frozen=True):
    """The probes that were made, each with its number."""

    probes: tuple[tuple[int, Refusal], ...]


class ProbeJob(PackageJob[ProbeResult], frozen=True):
    """Give the package inputs that it must refuse.

    Each probe is announced as the phase ``probe NUMBER NAME``, so that the parent process knows
    which one crashed. The job is then repeated with the number of that probe in `skip`.
    """

    runner: str | None
    skip: tuple[int, ...]


class FreshResult(Message, frozen=True):
    """The reference data was written."""

    seconds: Seconds


class FreshJob(TargetJob[FreshResult], frozen=True):
    """Compute the file `reference_data` again from the model's source, with `seeds` seeds."""

    where: Positions
    reference_data: str
    signature: Signature
    seeds: int


class RunRequest(Part, frozen=True):
    """One run, with inputs from the files `paths`, and outputs to the file `output`.

    `paths` is empty for reference data and random inputs.
    """

    kind: InputKind
    paths: tuple[str, ...]
    output: str | None


class RunOutcome(Part, frozen=True):
    """The figures of one run, or the error that ended it."""

    figures: RunFigures | None = None
    error: ErrorRecord | None = None


class RunResult(Message, frozen=True):
    """The outcomes of the requested runs, in the same order."""

    runs: tuple[RunOutcome, ...]


class RunJob(PackageJob[RunResult], frozen=True):
    """Call the package for each of `runs`, and measure the time of `repeat` calls of each.

    With `cuda_graphs` calls are replayed. Without `has_sources` no callable of models.yaml is
    imported, and nothing is compared with eager mode.
    """

    where: Positions
    seed: int
    repeat: int
    runs: tuple[RunRequest, ...]
    cuda_graphs: bool = False
    has_sources: bool = True


class OutputsResult(Message, frozen=True):
    """The outputs were written. `missing` has the cases without any, each with the reason."""

    missing: Mapping[str, str]


class OutputsJob(PackageJob[OutputsResult], frozen=True):
    """Call the package with the inputs of all cases in the file `inputs`.

    `inputs` is reference data, of this package or of another one. The file `outputs` is written as
    reference data without inputs, whose outputs are those of the package. Its buffers begin as the
    `reference_data` of the package has them.
    """

    inputs: str
    outputs: str
