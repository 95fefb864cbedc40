"""Takes the samples of a benchmark: each is a fresh process that brings one model to run."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aoti_build.artifact.manifest import Manifest
from aoti_build.artifact.paths import reader_log_path
from aoti_build.measurement.record import Cache, Sample, Way
from aoti_build.measurement.samples import LEAST_CALLS, PEERS, TIME_LIMIT
from aoti_build.measurement.summary import steady_of
from aoti_build.messages import BenchJob, BenchResult, CallsJob, Job, PeerJob, ResultT
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.records import target_to_json
from aoti_build.work.worker import OnTurn, refuse_turn, run_worker, yaml_positions

# Ways that load the package of an artifact.
ARTIFACT_WAYS = (Way.ARTIFACT, Way.ARTIFACT_GRAPHS, Way.AOTI_LOAD_PACKAGE)
# Ways of aoti_build itself.
OWN_WAYS = (Way.ARTIFACT, Way.ARTIFACT_GRAPHS)
# Ways that keep something on disk for the next process.
CACHED_WAYS = (*ARTIFACT_WAYS, Way.COMPILE, Way.COMPILE_REDUCE_OVERHEAD)

# Microseconds.
_DIGITS = 6
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Subject:
    """What is sampled: a way with the state of its caches.

    `artifacts` is the directory of artifacts that it loads from. Subjects with the same `caches`
    share their used caches.
    """

    name: str
    way: Way
    cache: Cache | None
    artifacts: Path
    caches: str


@dataclass(frozen=True)
class BenchSampler:
    """Takes samples of one target.

    Attributes:
        scratch: a private directory, which the caller removes.
        points: the sizes of the dims at which calls are timed, the example first.
        seconds: what the timed calls at one point last together.
        threads: of torch in each process.
        cpus: the processors that each process is pinned to.
    """

    project: Project
    target: Target
    scratch: Path
    points: Sequence[Sizes]
    seconds: float
    threads: int
    cpus: Sequence[int]

    def make_calls(self) -> None:
        """Make the example calls, which every sample reads. Raises the errors of `run_worker`."""
        job = CallsJob(
            root=str(self.project.root),
            python_path=self.project.import_directories,
            target_document=target_to_json(self.target),
            where=yaml_positions(self.project, self.target),
            points=tuple(dict(point) for point in self.points),
            file=str(self._calls),
        )
        self._run(job, {})

    def convert(self, library: Way) -> None:
        """Convert the model for another library. Raises the errors of `run_worker`."""
        job = PeerJob(
            root=str(self.project.root),
            python_path=self.project.import_directories,
            target_document=target_to_json(self.target),
            where=yaml_positions(self.project, self.target),
            library=library,
            converted=str(self._converted(library)),
            seconds=0.0,
            least_calls=1,
        )
        self._run(job, {})

    def take(self, subject: Subject, manifest: Manifest, on_turn: OnTurn | None = None) -> Sample:
        """Take one sample. `manifest` is that of the artifact.

        A sample with an empty cache leaves it used: the first one fills the cache of the samples
        that want it so. With `on_turn` calls are timed in turns; see `take_in_turns`. Raises the
        errors of `run_worker`.
        """
        is_empty = subject.cache == Cache.EMPTY
        job = BenchJob(
            root=str(self.project.root),
            python_path=self.project.import_directories,
            target_document=target_to_json(self.target),
            where=yaml_positions(self.project, self.target),
            way=subject.way,
            artifacts=str(subject.artifacts),
            calls=str(self._calls),
            points=tuple(dict(point) for point in self.points),
            # How fast calls are does not depend on the cache.
            timed=0 if is_empty else self._timed(subject.way),
            seconds=self.seconds,
            least_calls=LEAST_CALLS,
            threads=self.threads,
            converted=str(self._converted(subject.way)) if subject.way in PEERS else "",
            writes_inputs=bool(manifest.signature["mutates"]["inputs"]),
            turns=on_turn is not None,
        )
        with self._cache(subject) as variables:
            return self._as_sample(self._run(job, variables, on_turn or refuse_turn))

    def _timed(self, way: Way) -> int:
        """The number of points at which a way is timed."""
        # The model was converted for the sizes of the example.
        return 1 if way in PEERS else len(self.points)

    def _as_sample(self, result: BenchResult) -> Sample:
        steady = []
        for sizes, times in zip(self.points, result.times, strict=False):
            steady.append(steady_of(times, sizes))
        return Sample(
            started=result.started,
            import_seconds=round(result.import_seconds, _DIGITS),
            load_seconds=round(result.load_seconds, _DIGITS),
            first_seconds=round(result.first_seconds, _DIGITS),
            peak_memory=result.peak_memory,
            steady=tuple(steady),
            clocks=result.clocks,
        )

    @contextlib.contextmanager
    def _cache(self, subject: Subject) -> Iterator[dict[str, str]]:
        """The variables that name the cache of a sample. An empty one is removed after it, except
        the first one, which becomes the used one."""
        used = self.scratch / "caches" / subject.caches
        if subject.cache != Cache.EMPTY or not used.exists():
            used.mkdir(parents=True, exist_ok=True)
            yield cache_variables(used)
            return
        with tempfile.TemporaryDirectory(prefix="cache-", dir=self.scratch) as fresh:
            yield cache_variables(Path(fresh))

    @property
    def _calls(self) -> Path:
        return self.scratch / "calls.pt"

    def _converted(self, library: Way) -> Path:
        return self.scratch / f"{self.target.model.name}.{PEERS.get(library, '')}"

    def _run(
        self,
        job: Job[ResultT],
        variables: Mapping[str, str],
        on_turn: OnTurn = refuse_turn,
    ) -> ResultT:
        with (
            tempfile.TemporaryDirectory(prefix="job-", dir=self.scratch) as directory,
            pinned(self.cpus),
        ):
            return run_worker(
                job,
                directory=Path(directory),
                log=reader_log_path(self.project, self.target, "bench"),
                environment={"OMP_NUM_THREADS": str(self.threads), **variables},
                on_turn=on_turn,
                limit=TIME_LIMIT,
            )


def cache_variables(directory: Path) -> dict[str, str]:
    """The variables that let a process keep its caches below `directory`.

    Some parts of torch keep precompiled headers and unpacked packages in the temporary directory.
    """
    variables = {
        "AOTI_BUILD_RUNTIME_CACHE": "runtime",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "TRITON_CACHE_DIR": "triton",
        "CUDA_CACHE_PATH": "cuda",
        "TMPDIR": "tmp",
    }
    paths = {}
    for variable, name in variables.items():
        path = directory / name
        path.mkdir(mode=0o700, exist_ok=True)
        paths[variable] = str(path)
    return paths


@contextlib.contextmanager
def pinned(cpus: Sequence[int]) -> Iterator[None]:
    """Let the processes that this thread starts run on `cpus` only.

    A process inherits the processors of the thread that starts it, and libraries read them when
    they are loaded. To set them in the process itself would be too late.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
