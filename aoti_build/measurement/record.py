"""The format of `bench.json`: what a benchmark of one target measured, and on which machine.

The file lies beside the artifact. Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from aoti_build.common.json_object import JsonObject
from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.common.records import write_json
from aoti_build.common.text_enum import TextEnum
from aoti_build.figures import Part

FORMAT = "aoti-build/bench"
# Goes up with each change of the types below.
FORMAT_VERSION = 1


class Way(TextEnum):
    """How the model is brought to run."""

    ARTIFACT = "artifact"  # by `aoti_build.load`
    ARTIFACT_GRAPHS = "artifact, CUDA graphs"
    AOTI_LOAD_PACKAGE = "aoti_load_package"  # torch's own loader
    EAGER = "eager"
    COMPILE = "torch.compile"
    COMPILE_REDUCE_OVERHEAD = "torch.compile, reduce-overhead"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Cache(TextEnum):
    """The state of the caches on disk that a way uses, when its process starts."""

    EMPTY = "empty"
    USED = "used"


class Metric(TextEnum):
    """What is compared and kept in the history. Less is better for each of them."""

    IMPORT = "import"  # seconds to import the libraries of the way, torch included
    LOAD = "load"  # seconds from then on until the model can be called
    FIRST = "first"  # seconds of loading and of the first call, together
    STEADY = "steady"  # the median seconds of a call after the warm-up
    MEMORY = "memory"  # peak bytes: of the process on a CPU, of the device on a GPU
    SIZE = "size"  # bytes of the package, with weights that lie beside it


class Steady(Part, frozen=True):
    """Calls after the warm-up, at one combination of sizes in one process.

    Attributes:
        sizes: of dynamic dimensions, by name. Empty if the shapes are static.
        p50: the median seconds of a call.
        p95: 95 % of the calls did not take longer.
        p99: 99 % of the calls did not take longer.
        calls: how many calls were timed.
        samples_per_second: items of the batch a second if the model has a batch dimension,
            and calls a second otherwise, from the seconds of all timed calls.
        histogram: for a picture of the distribution: how many calls took longer than the edge
            before, and up to the edge of the same index in `histogram_edges`.
        histogram_edges: seconds, ascending. The last one is the longest call.
    """

    sizes: Mapping[str, int]
    p50: float
    p95: float
    p99: float
    calls: int
    samples_per_second: float
    histogram: tuple[int, ...] = ()
    histogram_edges: tuple[float, ...] = ()


class Sample(Part, frozen=True):
    """One process. The metrics of these names are described at `Metric`.

    Attributes:
        started: UTC in ISO 8601.
        clocks: clock rates of the GPU in MHz before and after the timed calls. None on a CPU, and
            where the driver does not tell.
    """

    started: str
    import_seconds: float
    load_seconds: float
    first_seconds: float
    peak_memory: int
    steady: tuple[Steady, ...] = ()
    clocks: tuple[int, int] | None = None


class Row(Part, frozen=True):
    """The samples of one way. `error` says why there is none, or no more of them."""

    way: Way
    cache: Cache | None
    samples: tuple[Sample, ...] = ()
    error: str | None = None


class ComparisonRecord(Part, frozen=True):
    """A comparison of a metric with that of another package or of another way.

    Attributes:
        metric: as in `Metric`.
        sizes: of dynamic dimensions, for the metric `steady`.
        base: what was compared with: the name of a way, or the base of ``--against``.
        ratio: new / base, the geometric mean of the pairs.
        low: the lower end of the interval of the ratio. None with fewer than two pairs.
        high: its upper end.
        pairs: the number of pairs.
        band: ratios from 1 - band to 1 + band count as no difference.
        verdict: better, same, worse or unknown.
        why: why it is unknown.
        limit: the ratio above which ``--fail-if`` fails. None if the metric has none.
    """

    metric: Metric
    base: str
    ratio: float
    low: float | None
    high: float | None
    pairs: int
    band: float
    verdict: str
    sizes: Mapping[str, int] = {}
    why: str | None = None
    limit: float | None = None


class Base(Part, frozen=True):
    """The package of ``--against``. It was measured again on this machine.

    Attributes:
        name: as the user gave it.
        key: of the package.
        package_sha256: its digest.
        size: its bytes.
        comparisons: of the new package with it.
        samples: of its processes, in the order in which they were taken.
    """

    name: str
    key: str
    package_sha256: str
    size: int
    comparisons: tuple[ComparisonRecord, ...]
    samples: tuple[Sample, ...] = ()


class Machine(Part, frozen=True):
    """The machine, by its facts.

    Attributes:
        machine_class: machines of one class are expected to give the same times.
        facts: what tells it apart, for people: processor, memory, GPU, driver, clock settings,
            operating system, and the versions of Python, torch and aoti_build.
        threads: of torch, in each process.
        cpus: the processors that each process was pinned to.
        band: the smallest band that pairs of the same package with itself showed to be
            resolvable here. None if that was not measured.
    """

    machine_class: str
    facts: Mapping[str, str]
    threads: int
    cpus: tuple[int, ...]
    band: float | None = None


class BenchRecord(Part, frozen=True):
    """The benchmark of one target.

    Attributes:
        target: its name.
        key: of its artifact.
        package_sha256: the digest of its package.
        size: bytes of the package, with weights that lie beside it.
        measured: when the benchmark ended; UTC in ISO 8601.
        machine: where.
        rows: of all ways. Samples of the same index ran close to each other.
        comparisons: of the artifact with other ways.
        base: the package of ``--against``.
        commit: the git revision of the project, with ``+`` if files were changed. None without git.
    """

    target: str
    key: str
    package_sha256: str
    size: int
    measured: str
    machine: Machine
    rows: tuple[Row, ...]
    comparisons: tuple[ComparisonRecord, ...] = ()
    base: Base | None = None
    commit: str | None = None


def bench_json(record: BenchRecord) -> JsonObject:
    """The JSON document of a record."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **msgspec.to_builtins(record),
    }


def write_bench(path: Path, record: BenchRecord) -> None:
    """Write `bench.json`. Raises OSError."""
    write_json(path, bench_json(record))


def read_bench(path: Path) -> BenchRecord | None:
    """The record in a file. None if it cannot be read, or has another format or version."""
    try:
        document = msgspec.json.decode(read_bytes(path, RECORD_LIMIT))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    head = (document.pop("format", None), document.pop("format_version", None))
    if head != (FORMAT, FORMAT_VERSION):
        return None
    try:
        return msgspec.convert(document, BenchRecord)
    except msgspec.ValidationError:
        return None
