"""Small projects, artifacts that look published, and a worker that makes such artifacts: what many
tests here start from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, FileRecord, Manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.artifact.verification import required_tolerance
from aoti_build.commands import build as build_command
from aoti_build.common.digests import digest_bytes, digest_file, digest_json
from aoti_build.common.stat_cache import StatCache
from aoti_build.figures import CallFigures, Refusal, RunFigures, typed
from aoti_build.host import compatibility, distributions
from aoti_build.messages import (
    BenchJob,
    BuildJob,
    BuildResult,
    CallsJob,
    CallsResult,
    CheckJob,
    CheckResult,
    Compile,
    FreshJob,
    FreshResult,
    Job,
    KeysQuestion,
    LocalizeJob,
    LocalizeResult,
    MeasureJob,
    Message,
    OutputsJob,
    OutputsResult,
    PeerJob,
    ProbeJob,
    ProbeResult,
    Repack,
    ResultT,
    RunJob,
    RunOutcome,
    RunResult,
    Take,
    TargetJob,
    decode,
    encode,
)
from aoti_build.models_file import Project, Target, load_project
from aoti_build.planning.current_state import current_parts
from aoti_build.planning.plan import Step
from aoti_build.store.interface import Store
from aoti_build.store.selection import open_store
from aoti_build.work.worker import OnPhase, OnQuestion, ignore_phase

REAL_PYTHON = sys.executable
REPOSITORY = Path(__file__).parents[2]

ONE_MODEL = """\
version: 1
models:
  small:
    source: model.py:build
    kwargs: {width: 4}
    inputs:
      - {shape: [2, 4]}
"""
TWO_MODELS = """\
version: 1
models:
  first:
    source: model.py:build
    inputs: [{shape: [2, 4]}]
  second:
    source: model.py:build
    inputs: [{shape: [3, 4]}]
"""
CUDA_MODEL = """\
version: 1
models:
  small:
    source: model.py:build
    inputs: [{shape: [2, 4]}]
    devices: [cuda]
"""
MODEL_SOURCE = "import helper\n\n\ndef build(width=4):\n    return helper.module(width)\n"
SIGNATURE = {
    "inputs": [{"name": "input", "dtype": "float32", "shape": [2, 4]}],
    "outputs": [{"name": "output", "dtype": "float32", "shape": [2, 4]}],
    "dims": {},
    "mutates": {"inputs": [], "buffers": []},
}
PASSED_CASE = {
    "name": "example",
    "sizes": {},
    "seed": 0,
    "outputs": [
        {
            "name": "output",
            "ok": True,
            "max_abs": 1e-7,
            "max_rel": 1e-6,
            "rmse": 1e-8,
            "atol": 1e-4,
            "rtol": 1e-3,
        }
    ],
}
FAILED_CASE = {
    "name": "example",
    "sizes": {},
    "seed": 0,
    "outputs": [
        {
            "name": "output",
            "ok": False,
            "max_abs": 0.5,
            "rmse": 0.25,
            "atol": 1e-4,
            "mismatched": 7,
            "why": "7 of 8 values differ",
        }
    ],
}


def write_project(root: Path, text: str = ONE_MODEL) -> Project:
    """A models.yaml, the files it may name and a tasks.py in `root`; files that are there already
    stay as they are."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "models.yaml").write_text(text)
    defaults = {
        "tasks.py": "from aoti_build.tasks import ns\n",
        "model.py": MODEL_SOURCE,
        "helper.py": "def module(width): ...\n",
        "weights.safetensors": "weights, version 1",
    }
    for name, content in defaults.items():
        if not (root / name).exists():
            (root / name).write_text(content)
    return load_project(root / "models.yaml")


def digests_of(project: Project) -> StatCache:
    """A cache that knows nothing and keeps nothing."""
    return StatCache(project.root / "no-such-directory" / "cache.json")


def publish_fake(project: Project, target: Target | None = None, **changes: Any) -> Manifest:
    """Put an artifact of `target` (default: the only one) in its place, whose manifest tells the
    truth; `changes` are fields of the manifest that do not."""
    forget_installed()
    target = target or project.targets[0]
    directory = artifact_directory(project, target)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MODEL).write_bytes(b"compiled code of " + target.name.encode())
    (directory / REFERENCE_DATA).write_bytes(b"reference data of " + target.name.encode())
    recorded = {
        "sources": dict.fromkeys(["model.py", "helper.py", "optional.py", "listed/"]),
        "distributions": dict.fromkeys(["sympy", "small_library"]),
        "modules": {"not_installed_anywhere": None},
        "variables": {"SMALL": None},
    }
    fields: dict[str, Any] = {
        "target": target.name,
        "models_file": project.name,
        "key": digest_bytes(target.name.encode()),
        "graph_key": digest_bytes(b"graph"),
        "weights": {"external": False, "why": "a fake"},
        "source": current_parts(project, target, recorded, digests_of(project)).parts,
        "files": {name: _record(directory / name) for name in (MODEL, REFERENCE_DATA)},
        "requires": compatibility.requirements(
            target.device, target.architecture, compatibility.this_host(target.device)
        ),
        "signature": SIGNATURE,
        "check": {"passed": True, "tolerance": required_tolerance(target), "cases": [PASSED_CASE]},
        "seconds": {"total": 1.5},
        "provenance": {"created": "2024-01-01T00:00:00+00:00"},
    }
    manifest = Manifest(**{**fields, **changes})
    manifest.write(directory)
    return manifest


def forget_installed() -> None:
    """Look for distributions anew, as another process would."""
    for function in (
        distributions.version_of,
        distributions.installation,
        distributions._installed,
    ):
        getattr(function, "cache_clear", lambda: None)()  # a test may have put another in its place


def store_of(project: Project) -> Store:
    return open_store(project.artifacts)


def plan_of(project: Project, target: Target | None = None, *, force: bool = False) -> Step:
    """The step of `target` (default: the only one), as a build would plan it."""
    (step,) = build_command.plan(project, (target or project.targets[0],), force=force).steps
    return step


def action_of(project: Project, target: Target | None = None) -> str:
    """What a build would do about `target` (default: the only one)."""
    return plan_of(project, target).action


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below `directory` with its bytes."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def edit(
    project: Project,
    manifest_change: Callable[[dict[str, Any]], object],
    target: Target | None = None,
) -> None:
    """Change the JSON of a published manifest in place, its digest of itself included."""
    path = artifact_directory(project, target or project.targets[0]) / "manifest.json"
    document = json.loads(path.read_text())
    manifest_change(document)
    path.write_text(json.dumps(sealed(document)))


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest's JSON with the digest that its content asks for."""
    body = {name: value for name, value in document.items() if name != "sha256"}
    try:
        return {**body, "sha256": digest_json(body)}
    except ValueError:  # nan, which no digest can be of
        return {**body, "sha256": "0" * 64}


def inv(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``inv WORDS`` in `cwd`."""
    return subprocess.run(
        [REAL_PYTHON, "-m", "invoke", *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def bare(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The tasks without a tasks.py."""
    return subprocess.run(
        [REAL_PYTHON, "-m", "aoti_build", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


# Fields of a result, as JSON, in place of those that the fake would give; or what it raises.
Told = Mapping[str, Any] | BaseException


@dataclass
class FakeWorker:
    """Stands in for `run_worker`. It writes the files of a real worker and answers as it is told.

    Jobs and results go through the JSON of their messages, so no test gets a value that a worker
    could not send. A build asks its question as the real one does. Its graph key covers the parts
    of models.yaml that are about the graph, and the sources without comments. Its artifact key
    covers the weights or the seed too.

    `answers` maps the name of a job, or that and a model's name, to fields of the result or to the
    error to raise. `during` is called with the job's name and the job while it is being done.
    `weights` is what a compile reports of them, `compiler` goes into its bytes, `eager` into the
    outputs of the reference data. `ahead` lists workers that were started before their job was
    known. With `ahead_ends` they end before it is.
    """

    answers: dict[str, Told] = field(default_factory=dict)
    during: Callable[[str, Any], object] = lambda job_name, job: None
    calls: list[str] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    weights: Mapping[str, Any] = field(default_factory=lambda: {"external": False, "why": "a fake"})
    compiler: bytes = b""
    eager: bytes = b""
    ahead: list[str] = field(default_factory=list)
    ahead_ends: bool = False

    def __call__(
        self,
        job: Job[ResultT],
        *,
        log: Path,
        on_phase: OnPhase = ignore_phase,
        answer: OnQuestion | None = None,
        **_: Any,
    ) -> ResultT:
        job = decode(_sent(encode(job)), type(job))
        job_name = job.job_name()
        name = job.target.model.name if isinstance(job, TargetJob) else ""
        self.calls.append(
            job_name if job_name in ("check", "localize", "probe") else f"{job_name} {name}".strip()
        )
        on_phase(job_name)
        if job_name == "build":
            on_phase("export")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"{job_name} was here\n")
        self.during(job_name, job)
        told = self.answers.get(f"{job_name} {name}", self.answers.get(job_name, {}))
        if isinstance(told, BaseException):
            raise told
        if isinstance(job, BuildJob):
            assert answer is not None
            default: Message = self._built(job, answer, on_phase)
        else:
            default = _default_result(job)
        return decode(_sent({**encode(default), **told}), job.result_type())

    def start(self, kind: type[Job[Any]], root: Path, *, log: Path, **_: Any) -> FakeStarted:
        self.ahead.append(f"{kind.job_name()} started")
        return FakeStarted(self, kind, log)

    def _built(self, job: BuildJob, answer: OnQuestion, on_phase: OnPhase) -> BuildResult:
        staged, root, model = Path(job.staged), Path(job.root), job.target_document["model"]
        files = ("model.py", "helper.py")
        code = [
            line
            for file in files
            for line in (root / file).read_text().splitlines()
            if line[:1] != "#"
        ]
        said = {name: model[name] for name in ("kwargs", "dims", "inputs")}
        settings = [job.architecture_options, job.target_document["inductor_config"]]
        graph_key = digest_json([code, said, *settings, job.toolchain, job.environment])
        weights = (
            (root / model["weights"]["file"]).read_bytes()
            if model["weights"]
            else str(model["seed"]).encode()
        )
        key = digest_json([graph_key, digest_bytes(weights)])
        decision = answer(KeysQuestion(key=key, graph_key=graph_key))
        self.decisions.append(decision.type_name())
        reference_data = b"reference data of " + key.encode() + self.eager
        kept = (
            isinstance(decision, Take)
            and decision.reference_data
            and (staged / REFERENCE_DATA).read_bytes() == reference_data
        )
        (staged / REFERENCE_DATA).write_bytes(reference_data)
        if isinstance(decision, Repack):
            compiled = Path(decision.template).read_bytes().partition(b"weights: ")[0]
            (staged / MODEL).write_bytes(compiled + b"weights: " + weights)
        elif isinstance(decision, Compile):
            on_phase("compile")
            compiled = b"compiled code of " + graph_key.encode() + self.compiler
            (staged / MODEL).write_bytes(compiled + b"weights: " + weights)
        return BuildResult(
            key=key,
            graph_key=graph_key,
            reference_data_kept=kept,
            weights=self.weights if isinstance(decision, Compile) else None,
            signature=SIGNATURE,
            imports=(),
            sources={file: digest_file(root / file) for file in files},
            distributions={},
            modules={},
            variables={},
            seconds={"export": 0.25, "compile": 0.5},
        )


@dataclass
class FakeStarted:
    """Stands in for a `Worker` that waits for its job."""

    worker: FakeWorker
    kind: type[Job[Any]]
    log: Path
    job: Job[Any] | None = None

    def __enter__(self) -> FakeStarted:
        return self

    def __exit__(self, *error: object) -> None:
        self.worker.ahead.append(f"{self.kind.job_name()} ended")

    @property
    def has_ended(self) -> bool:
        return self.worker.ahead_ends

    def give(self, job: Job[Any]) -> None:
        assert type(job) is self.kind
        self.worker.ahead.append(f"{self.kind.job_name()} given")
        self.job = job

    def follow(self, on_phase: OnPhase) -> Message:
        assert self.job is not None
        result: Message = self.worker(self.job, log=self.log, on_phase=on_phase)
        return result


def _sent(document: Mapping[str, Any]) -> Any:
    """A message's document as the other side reads it."""
    return json.loads(json.dumps(document))


def replace_worker(monkeypatch: pytest.MonkeyPatch, fake: FakeWorker) -> None:
    """Let every module of the package that starts workers start `fake` instead."""
    from aoti_build.work import worker

    for attribute, stand_in in (("run_worker", fake), ("Worker", fake.start)):
        real = getattr(worker, attribute)
        for name, module in list(sys.modules.items()):
            if name.startswith("aoti_build") and getattr(module, attribute, None) is real:
                monkeypatch.setattr(module, attribute, stand_in)


def _default_result(job: Job[Any]) -> Message:
    if isinstance(job, CheckJob):
        return CheckResult(
            passed=True,
            cases=(typed(PASSED_CASE, CallFigures),),
            vacuous=(),
            no_fp64=None,
            seconds={"load": 0.1, "check": 0.1},
        )
    if isinstance(job, ProbeJob):
        return ProbeResult(probes=((0, Refusal(name="input: rank 3", ok=True, said="refused")),))
    if isinstance(job, LocalizeJob):
        return LocalizeResult(stage="none", said="nothing was found", weights=(), left=None)
    if isinstance(job, FreshJob):
        return FreshResult(seconds={})
    if isinstance(job, MeasureJob | PeerJob):
        return job.result_type()(
            median=0.002, p95=0.003, calls=500, peak_memory=1 << 28, load_seconds=0.1
        )
    if isinstance(job, CallsJob):
        return CallsResult()
    if isinstance(job, BenchJob):
        return job.result_type()(
            started="2024-01-01T00:00:00.000+00:00",
            import_seconds=1.5,
            load_seconds=0.02,
            first_seconds=0.03,
            peak_memory=1 << 28,
            times=((0.002, 0.003, 0.002),) * job.timed,
        )
    if isinstance(job, OutputsJob):
        # The package answers exactly what eager mode did, unless `during` wrote something else.
        if not Path(job.outputs).exists():
            Path(job.outputs).write_bytes(Path(job.reference_data).read_bytes())
        return OutputsResult(missing={})
    assert isinstance(job, RunJob)
    figures = typed(RAN, RunFigures)
    return RunResult(
        runs=tuple(RunOutcome(figures=replace(figures, saved=run.output)) for run in job.runs)
    )


RAN: Mapping[str, Any] = {
    "inputs": [
        {
            "name": "input",
            "dtype": "float32",
            "shape": [2, 4],
            "min": -1.0,
            "max": 1.0,
            "mean": 0.0,
            "std": 0.5,
        }
    ],
    "outputs": [{"name": "output", "dtype": "float32", "shape": [2, 4]}],
    "top": [],
    "check": "reference_data",
    "passed": True,
    "verdicts": [{"name": "output", "ok": True}],
    "saved": None,
    "timing": {
        "repeat": 10,
        "min": 0.001,
        "median": 0.002,
        "p90": 0.003,
        "p99": 0.004,
        "max": 0.005,
        "threads": 2,
    },
    "seconds": {"load": 0.1, "first": 0.01, "reference": None},
}


def _record(path: Path) -> FileRecord:
    return FileRecord(digest_file(path), path.stat().st_size)
