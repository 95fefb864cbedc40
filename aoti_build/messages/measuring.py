"""The jobs that measure artifacts and other ways to run a model."""

from __future__ import annotations

from collections.abc import Mapping

from aoti_build.messages.job import TargetJob
from aoti_build.messages.parts import Message, Positions


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
