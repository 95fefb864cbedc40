"""The jobs of worker processes, and their results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeAlias, TypeVar, get_args

import msgspec

from aoti_build.figures import (
    CallFigures,
    Loss,
    ModuleDifference,
    Part,
    Refusal,
    RunFigures,
    Vacuous,
    WrongWeight,
)
from aoti_build.messages.parts import (
    ErrorRecord,
    Import,
    JsonObject,
    Message,
    Positions,
    Recorded,
    Seconds,
    Signature,
    TargetDocument,
    Tolerance,
    WeightsRecord,
)
from aoti_build.models_file.project import Target
from aoti_build.models_file.records import target_from_json

ResultT = TypeVar("ResultT", bound=Message)
# The inputs of a run.
InputKind: TypeAlias = Literal["reference_data", "random", "tensors", "images"]


class Job(Message, Generic[ResultT], frozen=True, kw_only=True):
    """Work for one worker process, whose current directory is the project's, `root`.

    Modules of the project are imported from the directories `python_path`, which are absolute.
    """

    root: str
    python_path: tuple[str, ...] = ()

    @classmethod
    def job_name(cls) -> str:
        """The name of the module in `aoti_build._torch.jobs` and of its function for the job."""
        return cls.type_name().removesuffix("-job")

    @classmethod
    def result_type(cls) -> type[ResultT]:
        """The type of the result, which is the argument of the class's base."""
        base = cls.__orig_bases__[0]  # type: ignore[attr-defined]  # set by typing
        return get_args(base)[0]  # type: ignore[no-any-return]


class TargetJob(Job[ResultT], frozen=True):
    """A job for one target."""

    target_document: TargetDocument = msgspec.field(name="target")

    @property
    def target(self) -> Target:
        return target_from_json(self.target_document)


class PackageJob(TargetJob[ResultT], frozen=True):
    """A job that loads the package `model` after `imports`.

    `reference_data` is the path of its reference data.
    """

    model: str
    reference_data: str
    tolerance: Tolerance
    signature: Signature
    imports: tuple[Import, ...]


class CompileResult(Message, frozen=True):
    """The program was compiled."""

    seconds: Seconds


class CompileJob(Job[CompileResult], frozen=True):
    """Run a C++ compiler by the words of `command`. `what` names its output in errors."""

    command: tuple[str, ...]
    what: str


class BuildResult(Message, frozen=True):
    """What is in the staging directory, and what it was made from.

    `reference_data_kept` means that the reference data is the stored one. `sources`,
    `distributions`, `modules` and `variables` are those that the model's code used. `weights` is
    set only after a compile. `undigested` is the cause if the graph has no digest. `eager_seconds`
    is what a call at the example sizes takes in eager mode, if that was measured.
    """

    key: str
    graph_key: str
    reference_data_kept: bool
    signature: Signature
    imports: tuple[Import, ...]
    sources: Recorded
    distributions: Recorded
    modules: Recorded
    variables: Recorded
    seconds: Seconds
    weights: WeightsRecord | None = None
    undigested: str | None = None
    eager_seconds: float | None = None


class BuildJob(TargetJob[BuildResult], frozen=True):
    """Make an artifact in the directory `staged`, as the answer to a `KeysQuestion` says.

    What lies in the directory `artifacts` is no source.
    Reference data beyond the limit is also written to the file `whole_reference_data`, in full.
    `architecture_options` are settings of inductor for the architecture. `toolchain` and
    `environment` are parts of the source key. `replaced_variables` have their values from before
    the parent process set its own. `skew_ns` is how far the clock of the sources' file system is
    ahead of this host's, in nanoseconds.
    """

    staged: str
    artifacts: str
    whole_reference_data: str
    cache_root: str
    architecture_options: JsonObject
    where: Positions
    toolchain: Mapping[str, str]
    environment: Mapping[str, str]
    replaced_variables: Mapping[str, str | None]
    skew_ns: int


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


class LocalizeResult(Message, frozen=True):
    """Where the artifact first differs from its model.

    `said` is that in a sentence, `weights` the wrong weights, `left` the differing module.
    """

    stage: Literal["weights", "export", "compile", "none"]
    said: str
    weights: tuple[WrongWeight, ...]
    left: ModuleDifference | None


class LocalizeJob(TargetJob[LocalizeResult], frozen=True):
    """Find out where the artifact first differs from its model.

    The weights in the package `model` are compared if they are external, with `alignment` in bytes.
    With `bisect` prefixes of the graph are compiled and compared.
    """

    where: Positions
    architecture_options: JsonObject
    cache_root: str
    model: str | None
    alignment: int | None
    bisect: bool


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


class MeasureResult(Message, frozen=True):
    """One sample: the calls of one process.

    `median` and `p95` are seconds of one call, by nearest rank over `calls` calls. `peak_memory` is
    in bytes: of the process for the CPU, and of the device for a GPU.
    """

    median: float
    p95: float
    calls: int
    peak_memory: int
    load_seconds: float


class MeasureJob(TargetJob[MeasureResult], frozen=True):
    """Load the target's artifact in the directory `artifacts` as a service does, and time calls.

    The timed calls last `seconds` together, and there are at least `least_calls`. With
    `cuda_graphs` the calls are replayed from CUDA graphs. With `contiguous_inputs` the inputs are
    contiguous, although the artifact takes another memory format. With `turns` the worker times
    calls in its turns only; see `TurnQuestion`.
    """

    where: Positions
    artifacts: str
    seconds: float
    least_calls: int
    cuda_graphs: bool
    contiguous_inputs: bool = False
    turns: bool = False


class PeerResult(MeasureResult, frozen=True):
    """One sample of another library."""


class PeerJob(TargetJob[PeerResult], frozen=True):
    """Time calls of the target's model by another library, as in a `MeasureJob`.

    The model is converted to the file `converted` if that does not exist.
    """

    where: Positions
    library: str
    converted: str
    seconds: float
    least_calls: int
    turns: bool = False


class CallsResult(Message, frozen=True):
    """The calls were written."""


class CallsJob(TargetJob[CallsResult], frozen=True):
    """Make the example call of the target's model at each of `points`, and write them to `file`.

    A point has the size of each dim by its name. There is no file if the calls have types that
    torch does not read with ``weights_only=True``.
    """

    where: Positions
    points: tuple[Mapping[str, int], ...]
    file: str


class BenchResult(Message, frozen=True):
    """One sample of a benchmark: one process. Times are in seconds.

    `started` is UTC in ISO 8601. `import_seconds` are those of the libraries, `load_seconds` from
    then on until the model can be called, and `first_seconds` those with the first call. `times`
    has the seconds of every timed call, for each point. `peak_memory` is in bytes, as in a
    `MeasureResult`. `clocks` are rates of the GPU in MHz before and after the timed calls.
    """

    started: str
    import_seconds: float
    load_seconds: float
    first_seconds: float
    peak_memory: int
    times: tuple[tuple[float, ...], ...] = ()
    clocks: tuple[int, int] | None = None


class BenchJob(TargetJob[BenchResult], frozen=True):
    """Bring the target's model to run in one `way`, a value of `measurement.record.Way`.

    Args:
        artifacts: the directory of artifacts, for ways that load one.
        converted: the model in the format of another library, for that library.
        calls: the file of a `CallsJob`. Without it the process makes the calls itself. The first
            one is the first call of the model.
        points: the sizes of the dims in each call.
        timed: calls are timed at the first so many points, after a warm-up.
        seconds: what the timed calls of one point last together.
        least_calls: and there are at least so many.
        threads: of torch.
        writes_inputs: the model writes into its inputs, so each call gets new ones.
        turns: calls are timed in the turns of the worker only; see `TurnQuestion`.
    """

    where: Positions
    way: str
    artifacts: str
    calls: str
    points: tuple[Mapping[str, int], ...]
    timed: int
    seconds: float
    least_calls: int
    threads: int
    converted: str = ""
    writes_inputs: bool = False
    turns: bool = False


JOBS: Mapping[str, type[Job[Any]]] = {
    job.job_name(): job
    for job in (
        CallsJob,
        BenchJob,
        BuildJob,
        CheckJob,
        CompileJob,
        FreshJob,
        LocalizeJob,
        MeasureJob,
        OutputsJob,
        PeerJob,
        ProbeJob,
        RunJob,
    )
}
