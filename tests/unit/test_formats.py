"""docs/reference/formats.md is true: every document has a schema there, real documents fit it, and
garbled ones do not; and the README names only tasks and options that exist."""

from __future__ import annotations

import copy
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from history_records import record as bench_record
from jsonschema import Draft202012Validator
from packages import FOLDER, OPAQUE, cubin, here, members, publish_package, publish_zip, write
from referencing import Registry, Resource
from report_samples import full_project, history
from small_projects import RAN, REPOSITORY, TWO_MODELS, publish_fake, write_project

import aoti_build
from aoti_build.artifact import reference_file
from aoti_build.artifact.bundle.record import (
    Licence,
    PreviousRelease,
    ReleaseFile,
    ReleaseRecord,
    Source,
    release_json,
)
from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, VERIFY, FileRecord, Manifest
from aoti_build.artifact.paths import (
    artifact_directory,
    durations_path,
    index_path,
    passed_checks_path,
    project_cache_path,
)
from aoti_build.artifact.reasons import Reason, ReasonKind
from aoti_build.artifact.signing.verify import Signer
from aoti_build.commands.bench.history import bench_history
from aoti_build.commands.bench.report import Benchmark, BenchReport
from aoti_build.commands.build import BuildReport, plan
from aoti_build.commands.ci_cache import ci_cache
from aoti_build.commands.clean import CleanReport
from aoti_build.commands.doctor.command import DoctorReport
from aoti_build.commands.export import Exported, ExportReport, export
from aoti_build.commands.gc import gc
from aoti_build.commands.init.command import Wishes, init, look
from aoti_build.commands.inspect.command import InspectReport, inspect, inspect_file
from aoti_build.commands.inspect.diff import diff
from aoti_build.commands.plan_report import PlanReport
from aoti_build.commands.received.release import ReceivedRelease
from aoti_build.commands.release.pull import PullReport
from aoti_build.commands.release.push import PushReport
from aoti_build.commands.release.report import ArchiveFile, Released, ReleaseReport
from aoti_build.commands.release.target import ReleasedArtifact, released_target
from aoti_build.commands.release_diff.command import release_diff
from aoti_build.commands.release_diff.drift import Drift, OutputDrift
from aoti_build.commands.release_diff.limits import parse_policy
from aoti_build.commands.release_diff.packages import PackageDrift
from aoti_build.commands.release_diff.parts import NamedChange
from aoti_build.commands.release_diff.policy import judge
from aoti_build.commands.release_diff.speed import Speed, SpeedRatio
from aoti_build.commands.report.command import report
from aoti_build.commands.report.history import History
from aoti_build.commands.run.command import Run, RunReport, TargetRuns
from aoti_build.commands.status import StatusReport
from aoti_build.commands.tune.report import Outcome as TuneOutcome
from aoti_build.commands.tune.report import Row, TuneReport, Tuning
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.commands.verify.command import Verdict, VerifyReport, verify
from aoti_build.commands.verify_release.report import ReleaseVerification
from aoti_build.commands.version import VersionReport, version
from aoti_build.commands.why import why
from aoti_build.common import directories
from aoti_build.common.stat_cache import StatCache
from aoti_build.errors import (
    AotiBuildError,
    ArtifactError,
    BuildError,
    Problem,
    SpecError,
    VerificationError,
)
from aoti_build.figures import CallFigures, Loss, Refusal, RunFigures, Vacuous, typed
from aoti_build.host import compatibility
from aoti_build.host.checks.finding import Finding
from aoti_build.host.devices import device_names
from aoti_build.measurement.gate import Question, Rule, answers, parse_limits, size_answer
from aoti_build.measurement.history import append
from aoti_build.measurement.record import (
    Base,
    BenchRecord,
    Cache,
    Machine,
    Metric,
    Sample,
    Way,
    bench_json,
)
from aoti_build.measurement.record import Row as WayRow
from aoti_build.measurement.statistics import compare
from aoti_build.measurement.summary import steady_of
from aoti_build.messages import CheckResult, LocalizeResult
from aoti_build.models_file import Project, load_project
from aoti_build.models_file.project import Choice
from aoti_build.planning.actions import Action, Done
from aoti_build.planning.index import Published
from aoti_build.planning.plan import Plan, Step
from aoti_build.registry.reference import parse_reference
from aoti_build.runtime import private
from aoti_build.runtime.package import admit
from aoti_build.store.kernels import KernelCache
from aoti_build.store.selection import open_store
from aoti_build.tasks.answer import error_document
from aoti_build.work.durations import Durations
from aoti_build.work.host_checks import require_fit_toolchain
from aoti_build.work.outcome import Outcome
from aoti_build.work.trace import Trace
from aoti_build.work.watch import Interval, Progress

PACKAGE = Path(aoti_build.__file__).parent
FORMATS = (REPOSITORY / "docs" / "reference" / "formats.md").read_text()
README = (REPOSITORY / "README.md").read_text()
SCHEMAS: Mapping[str, dict[str, Any]] = {
    name: json.loads(text)
    for name, text in re.findall(r"^## (\S+)\n.*?^```json\n(.*?)^```", FORMATS, re.M | re.S)
}
KINDS = tuple(name for name in SCHEMAS if name.startswith("aoti-build/"))
REGISTRY: Registry[Any] = Registry().with_resources(
    (schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values()
)

REASONS = (
    Reason("no-artifact"),
    Reason("spec-changed", "kwargs.width", 4, [8, 9]),
    Reason("weights-in-code", "the weights are inside the shared library"),
)
LOSS = {"name": "output", "relative_rmse": 0.0125, "sqnr_db": 38.1}
LOSSES = [
    {**LOSS, "ok": True},
    {"name": "['zero']", "relative_rmse": None, "sqnr_db": None, "ok": True},
]
CHECK = {
    "passed": True,
    "baseline": LOSSES,
    "tolerance": {"atol": None, "rtol": None, "outputs": {}},
    "vacuous": [{"output": "output", "of": "inputs"}],
    "no_fp64": None,
    "seconds": 0.0,
}
FIGURES = {
    "name": "output",
    "dtype": "float32",
    "shape": [2, 4],
    "computed_in": "bfloat16",
    "ok": False,
    "by": "fp64",
    "cosine": 0.5,
    "snr_db": None,
    "psnr_db": 12.5,
    "needed_atol": 0.5,
    "worst": {"index": [1, 2], "expected": 1.0, "got": "nan"},
    "fp64": {"candidate_rmse": 0.25, "reference_rmse": 1e-7, "allowed": 2e-7, "rounded_rmse": 1e-8},
    "histogram": {"decades": [-1, 0], "counts": [1, 0], "zero": 7},
    "atol": 1e-4,
    "rtol": 1e-3,
    "max_abs": 0.5,
    "max_rel": None,
    "rmse": 0.25,
    "reference_rms": 1.0,
    "mismatched": 1,
    "eager_nan": 1,
    "why": "1 of 8 values differ by more than atol 0.0001, rtol 0.001",
}
CASES: tuple[dict[str, Any], ...] = (
    {
        "name": "example",
        "sizes": {"batch": 2},
        "seed": 0,
        "outputs": [
            FIGURES,
            {"name": "['n']", "ok": True, "by": "equal", "dtype": "int64", "mismatched": 0},
        ],
    },
    {"name": "max", "sizes": {"batch": 9}, "seed": 1, "skipped": "no room", "outputs": []},
)
LOCALIZATION = {
    "stage": "export",
    "said": "it leaves the model",
    "weights": [{"name": "a.weight", "max_abs": None}],
    "left": {
        "module": "a",
        "class": "Linear",
        "source": "net.py:3",
        "figures": FIGURES,
        "missing": ["b"],
    },
}
REFUSALS = (Refusal(name="batch 10: above max 9", ok=False, said="was answered"),)
FAILURE = BuildError(
    "it broke",
    target="first/cpu",
    where="models.yaml:3:1",
    cause="because",
    hint="mend it",
    log=Path("build.log"),
)
FINDINGS = (
    Finding(
        "compiler", "fail", "it is broken", cause="it said so", fix="CXX=/usr/bin/g++", stops=True
    ),
    Finding("device", "unavailable", "there is none", "cuda"),
)
TENSOR = {"name": "x", "dtype": "float32", "shape": [2, 4]}
RUN = {
    **RAN,
    "inputs": [{**TENSOR, "nonfinite": 0, "min": -1.0, "max": 1.0, "mean": 0.0, "std": 0.5}],
    "outputs": [TENSOR],
    "top": [
        {
            "output": "output",
            "images": [
                [
                    {"index": 1, "name": "cat", "probability": 0.75},
                    {"index": 0, "name": None, "probability": 0.25},
                ]
            ],
            "unnamed": "classes.txt names 3 classes, this output has 2",
        }
    ],
    "check": "eager",
    "verdicts": [FIGURES],
    "saved": "/tmp/out.npz",  # noqa: S108 - no file is made
    "seconds": {"load": 0.1, "first": 0.01, "reference": 0.2},
}
SIGNATURE = {
    "inputs": [
        {"name": "x", "dtype": "float32", "shape": ["batch", 4]},
        {"name": "scale", "constant": "2.0"},
    ],
    "outputs": [{"name": "output", "dtype": "float32", "shape": ["batch", 4]}],
    "dims": {"batch": {"min": 1, "max": 8, "multiple_of": 1}},
    "mutates": {"inputs": [], "buffers": ["cache"]},
}
Document = dict[str, Any]


@pytest.fixture
def two(tmp_path: Path) -> Project:
    """Two targets, nothing built."""
    return write_project(tmp_path / "project", TWO_MODELS)


@pytest.fixture(scope="module")
def documents_as_json(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `documents` holds, made once for all tests."""
    tmp_path = tmp_path_factory.mktemp("documents")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AOTI_BUILD_CACHE", str(tmp_path / "build"))
        patch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        return json.dumps(_documents(tmp_path))


@pytest.fixture
def documents(documents_as_json: str) -> Mapping[str, list[Document]]:
    """Format -> documents as the package makes them, with values that use every field."""
    documents: dict[str, list[Document]] = json.loads(documents_as_json)
    return documents


def _documents(tmp_path: Path) -> dict[str, list[Document]]:
    two = write_project(tmp_path / "project", TWO_MODELS)
    full = full_project(tmp_path / "full")
    stored = _store_records(two)
    working_state = {
        "aoti-build/store-root": _store_roots(two),
        "aoti-build/index": [_index(two)],
        "aoti-build/tuning": [_tuning(tmp_path)],
        "aoti-build/project-cache": [_project_cache(two)],
        "aoti-build/why": [why(two, two.targets).as_json()],
        "aoti-build/report": [
            report(two, two.targets).as_json(),
            report(full, full.targets, history=History({"resnet18/cpu": history()})).as_json(),
        ],
        "aoti-build/gc": [gc(two, max_size=0, dry_run=True).as_json()],
    }
    manifest = _manifest(two)
    return {
        **working_state,
        "aoti-build/manifest": [
            manifest.as_json(),
            _cuda(manifest).as_json(),
            _unverified(manifest).as_json(),
            *stored,
        ],
        "aoti-build/reference-data": [_reference_data()],
        "aoti-build/verdict": [_verdict_on_disk(two)],
        "aoti-build/stat-cache": [_stat_cache(tmp_path)],
        "aoti-build/unpacked": [_unpacked(tmp_path)],
        "aoti-build/build": [_build(two, manifest).as_json()],
        "aoti-build/plan": [
            PlanReport(_plan(two, manifest), check=True).as_json(),
            PlanReport(_plan(two, manifest)).as_json(),
        ],
        "aoti-build/verify": [VerifyReport(_verdicts(two)).as_json()],
        "aoti-build/run": [_run(two).as_json(), *_received_runs(two, manifest)],
        "aoti-build/status": [_status(two, manifest).as_json()],
        "aoti-build/tune": [_tune(two).as_json()],
        "aoti-build/bench": [bench_json(_bench_record(two))],
        "aoti-build/bench-report": [_bench(two).as_json()],
        "aoti-build/export": [_export(two).as_json(), export(two, two.targets, "out").as_json()],
        "aoti-build/release": [release_json(_release_record(two, manifest))],
        "aoti-build/release-report": [
            _release(two, manifest).as_json(),
            ReleaseReport("out", "1.4", _build(two, manifest)).as_json(),
        ],
        "aoti-build/release-verification": list(_received(two, manifest)),
        "aoti-build/release-diff": _release_diffs(two, manifest),
        "aoti-build/release-push": [_push(two, manifest).as_json()],
        "aoti-build/release-pull": [_pull(two, manifest).as_json()],
        "aoti-build/ci-cache": [ci_cache(two, two.targets).as_json()],
        "aoti-build/init": [_init(tmp_path / "new")],
        "aoti-build/version": [version().as_json(), VersionReport(None, "3.12.3").as_json()],
        "aoti-build/inspect": [_inspect(tmp_path / "inspected")],
        "aoti-build/inspect-diff": [_inspect_diff(tmp_path)],
        "aoti-build/clean": [CleanReport(("artifacts/first/cpu",), 12, dry_run=True).as_json()],
        "aoti-build/error": list(_errors(two)),
        "aoti-build/doctor": [DoctorReport(FINDINGS).as_json()],
        "aoti-build/passed-checks": [_passed_checks(two)],
        "aoti-build/durations": [_durations(two)],
        "aoti-build/history": _history(tmp_path / "history"),
        "aoti-build/bench-history": [bench_history(tmp_path / "history").as_json()],
    }


def _init(root: Path) -> Document:
    root.mkdir()
    (root / "tasks.py").touch()
    (root / ".gitignore").write_text("*.pyc\n")
    return init(look(root), Wishes(shapes=("2,4",))).as_json()


def test_every_schema_is_one() -> None:
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


def test_every_format_in_the_source_has_a_schema() -> None:
    sources = [path.read_text() for path in PACKAGE.rglob("*.py")]
    named = {name for source in sources for name in re.findall(r'"(aoti-build/[\w-]+)"', source)}
    without = set(re.findall(r"`(aoti-build/[\w-]+)`", _section("Versions")))
    assert named - without == set(KINDS)
    assert not without & set(KINDS), "a format with a schema is not one of those without"


def test_the_words_are_those_of_the_code() -> None:
    parts = _common_parts()
    assert set(parts["reason"]["properties"]["reason"]["enum"]) == {
        kind.value for kind in ReasonKind
    }
    assert set(parts["error"]["properties"]["kind"]["enum"]) == set(_error_kinds(AotiBuildError))


def test_the_devices_are_those_of_the_code() -> None:
    target = _common_parts()["target"]["pattern"]
    listed = [re.findall(r"\(([\w|]+)\)", target)[0].split("|")]
    listed += [json.loads(names) for names in re.findall(r'"device": {"enum": (.*?)}', FORMATS)]
    assert len(listed) > 1
    for names in listed:
        assert {name for name in names if name is not None} == set(device_names())


def test_every_format_is_held_against_a_document(documents: Mapping[str, list[Document]]) -> None:
    assert set(documents) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_document_fits(kind: str, documents: Mapping[str, list[Document]]) -> None:
    for document in documents[kind]:
        assert document["format"] == kind
        assert not errors(kind, document)


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_that_lacks_a_field_is_refused(
    kind: str, documents: Mapping[str, list[Document]]
) -> None:
    document = documents[kind][0]
    optional = set(SCHEMAS[kind]["properties"]) - set(SCHEMAS[kind]["required"])
    for field in set(document) - optional:
        assert errors(kind, {name: value for name, value in document.items() if name != field}), (
            field
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_with_a_surplus_field_is_refused(
    kind: str, documents: Mapping[str, list[Document]]
) -> None:
    assert errors(kind, {**documents[kind][0], "surplus": 1})


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_of_another_version_is_refused(
    kind: str, documents: Mapping[str, list[Document]]
) -> None:
    assert errors(kind, {**documents[kind][0], "format_version": 99})


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("aoti-build/manifest", ("files", MODEL, "sha256"), "short"),
        ("aoti-build/manifest", ("requires", "surplus"), 1),
        ("aoti-build/manifest", ("check", "passed"), False),
        ("aoti-build/manifest", ("check", "passed"), None),
        ("aoti-build/manifest", ("check", "why"), "this processor lacks amx_tile"),
        ("aoti-build/manifest", ("source", "surplus"), {}),
        ("aoti-build/manifest", ("signature", "dims", "batch", "example"), 2),
        ("aoti-build/manifest", ("weights", "external"), True),
        ("aoti-build/manifest", ("action",), "rechecked"),
        ("aoti-build/stat-cache", ("files", "/old", 1), "1"),
        ("aoti-build/index", ("targets", "first/cpu", "files", "model.py"), 1),
        ("aoti-build/index", ("targets", "first/cpu", "surplus"), 1),
        ("aoti-build/project-cache", ("stamp", 0), 1),
        ("aoti-build/project-cache", ("targets", 0, "surplus"), 1),
        ("aoti-build/why", ("targets", 0, "state"), "reused"),
        ("aoti-build/why", ("targets", 0, "last_build", "action"), "rechecked"),
        ("aoti-build/why", ("targets", 0, "nearest_stored", "surplus"), 1),
        ("aoti-build/gc", ("removed",), -1),
        ("aoti-build/build", ("targets", 0, "surplus"), 1),
        ("aoti-build/build", ("targets", 0, "action"), "built"),
        ("aoti-build/build", ("targets", 0, "seconds", "surplus"), 1.0),
        ("aoti-build/build", ("targets", 0, "reasons", 0, "surplus"), 1),
        ("aoti-build/plan", ("targets", 0, "action"), "compiled"),
        ("aoti-build/verify", ("targets", 0, "verdict"), "fine"),
        ("aoti-build/verify", ("targets", 0, "cases", 0, "outputs", 0, "surplus"), 1),
        ("aoti-build/run", ("targets", 0, "verdict"), "fine"),
        ("aoti-build/run", ("targets", 0, "runs", 0, "surplus"), 1),
        ("aoti-build/run", ("targets", 0, "runs", 0, "inputs", 0, "shape", 0), "batch"),
        ("aoti-build/run", ("targets", 0, "runs", 0, "top", 0, "images", 0, 0, "probability"), 2),
        ("aoti-build/run", ("targets", 0, "runs", 0, "timing", "surplus"), 1.0),
        ("aoti-build/run", ("targets", 0, "runs", 0, "error"), {}),
        ("aoti-build/run", ("targets", 0, "runs", 1, "error"), None),
        ("aoti-build/status", ("targets", 0, "key"), "short"),
        ("aoti-build/tune", ("targets", 0, "entry"), "fine"),
        ("aoti-build/tune", ("targets", 0, "candidates", 1, "comparison", "verdict"), "faster"),
        ("aoti-build/tune", ("targets", 0, "candidates", 0, "surplus"), 1),
        ("aoti-build/bench", ("rows", 0, "way"), "by hand"),
        ("aoti-build/bench", ("rows", 0, "samples", 0, "surplus"), 1),
        ("aoti-build/bench", ("base", "comparisons", 0, "verdict"), "slower"),
        ("aoti-build/bench-report", ("targets", 0, "bench", "surplus"), 1),
        ("aoti-build/history", ("series", 0, "metric"), "speed"),
        ("aoti-build/history", ("series", 0, "median"), 0),
        ("aoti-build/bench-history", ("targets", 0, "series", 0, "surplus"), 1),
        ("aoti-build/bench-history", ("targets", 0, "series", 0, "steps", 0, "ratio"), 0),
        ("aoti-build/doctor", ("checks", 0, "outcome"), "fine"),
        ("aoti-build/doctor", ("checks", 0, "stops"), True),
        ("aoti-build/passed-checks", ("keys", 0), "short"),
        ("aoti-build/inspect", ("artifacts", 0, "state"), "fine"),
        ("aoti-build/inspect", ("artifacts", 0, "manifest", "surplus"), 1),
        ("aoti-build/inspect", ("artifacts", 2, "package", "models", 0, "kernels", 1, "arch"), 90),
        ("aoti-build/inspect", ("artifacts", 2, "package", "members", 0, "crc32"), 12),
        ("aoti-build/inspect-diff", ("differences", 0, "what"), None),
        ("aoti-build/error", ("ok",), True),
        ("aoti-build/error", ("error", "surplus"), 1),
        ("aoti-build/reference-data", ("cases", "example", "outputs"), "1"),
    ],
)
def test_a_wrong_value_inside_is_refused(
    kind: str, path: tuple[str | int, ...], value: object, documents: Mapping[str, list[Document]]
) -> None:
    document = copy.deepcopy(documents[kind][0])
    assert not errors(kind, document)
    inner: Any = document
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    assert errors(kind, document)


def test_the_readme_has_the_commands_that_ci_runs() -> None:
    for marker in ("build-command", "test-command"):
        assert len(re.findall(rf"^<!-- {marker} -->\n```sh\n[^\n]+\n```$", README, re.M)) == 1


def errors(kind: str, document: Document) -> list[str]:
    return [
        error.message
        for error in Draft202012Validator(SCHEMAS[kind], registry=REGISTRY).iter_errors(document)
    ]


def _common_parts() -> dict[str, Any]:
    schema = REGISTRY.contents("urn:aoti-build:common:1")
    parts: dict[str, Any] = schema["$defs"]
    return parts


def _error_kinds(error: type[AotiBuildError]) -> Iterator[str]:
    """The kinds of an error and of all those that are derived from it."""
    yield error.kind
    for derived in error.__subclasses__():
        yield from _error_kinds(derived)


def _section(title: str) -> str:
    match = re.search(rf"^## {title}\n(.*?)(?=^## )", FORMATS, re.M | re.S)
    assert match is not None
    return match[1]


def _manifest(project: Project) -> Manifest:
    return publish_fake(
        project,
        project.targets[0],
        signature=SIGNATURE,
        check={
            **CHECK,
            "tolerance": {"atol": 1e-4, "rtol": None, "outputs": {}},
            "cases": list(CASES),
            "seconds": 0.1,
            "latency": {"artifact": 0.0012, "eager": 0.0034},
        },
        seconds={"export": 0.5, "compile": 1.0, "check": 0.1, "total": 2.0},
        reasons=tuple(reason.as_json() for reason in REASONS),
        provenance={
            "aoti_build": "0.1.0",
            "created": "2024-01-01T00:00:00+00:00",
            "git_commit": None,
            "git_dirty": None,
        },
    )


def _cuda(manifest: Manifest) -> Manifest:
    fields = dict(manifest.__dict__)
    fields["requires"] = {**manifest.requires, "device": "cuda", "compute_capability": "8.0"}
    fields["requires"]["gpu_code"] = ["sm_80", "compute_80"]
    fields["files"] = {name: FileRecord("0" * 64, 0) for name in (MODEL, REFERENCE_DATA)}
    return Manifest(**fields)


def _unverified(manifest: Manifest) -> Manifest:
    why = "this processor lacks avx512f"
    return replace(
        manifest, check={**CHECK, "passed": None, "why": why, "cases": [], "vacuous": []}
    )


def _build(project: Project, manifest: Manifest) -> BuildReport:
    first, second = project.targets
    published = Published(manifest.key, manifest.files[MODEL].sha256, manifest.files[MODEL].size)
    trace = Trace()
    trace.started(first)
    trace.phase(first, "compile")
    trace.interval(Interval(first.name, 7, "program", "g++ a.o", 0.0, 1.0))
    trace.close()
    return BuildReport(
        project,
        (
            Outcome(
                first,
                "compiled",
                REASONS,
                published,
                manifest.seconds,
                latency={"artifact": 0.0012, "eager": None},
            ),
            Outcome(first, "reproduced", (), published),
            Outcome(
                first, "compiled", REASONS, published, unverified="this processor lacks avx512f"
            ),
            Outcome(second, "failed", (Reason("forced"),), error=FAILURE),
            Outcome(second, "unavailable", (Reason("no-device", "cuda"),)),
        ),
        trace,
        profiled=True,
    )


def _verdicts(project: Project) -> tuple[Verdict, ...]:
    first, second = project.targets
    return (
        Verdict(
            first,
            "mismatch",
            REASONS,
            cases=tuple(typed(case, CallFigures) for case in CASES),
            refusals=REFUSALS,
            vacuous=(Vacuous(output="output", of="inputs"),),
            no_fp64="too large",
            localization=typed({"type": "localize-result", **LOCALIZATION}, LocalizeResult),
            seconds=1.5,
            package=FileRecord("a" * 64, 12),
            path="artifacts/first/cpu/model.pt2",
        ),
        Verdict(
            first, "unavailable", (Reason("lacks-architecture", "this processor lacks avx512f"),)
        ),
        Verdict(
            second, "missing", error=VerificationError("there is no artifact", target=second.name)
        ),
    )


def _run(project: Project) -> RunReport:
    first, second = project.targets
    runs = (
        Run(("a.png", "b.png"), None, typed(RUN, RunFigures)),
        Run(("random",), 1, None, FAILURE),
    )
    return RunReport(
        (TargetRuns(first, runs, REASONS), TargetRuns(second, error=FAILURE, available=False))
    )


def _inspect(root: Path) -> Document:
    """A target that was built, one that was not, foreign files for a GPU and of no use."""
    project = write_project(root, TWO_MODELS)
    publish_package(project)
    kernel = {f"{FOLDER}one.cubin": cubin(0x06005A04, 8, "release 13.3, V13.3.33\0-arch sm_90a ")}
    foreign = write(root / "foreign.pt2", {**members(here(), AOTI_BUILD_KEY="a"), **kernel})
    (root / "bad.pt2").touch()
    files = (inspect_file(foreign), inspect_file(root / "bad.pt2"))
    found = inspect(project, project.targets, host=True)
    return InspectReport((*found.artifacts, *files), found.choices).as_json()


def _inspect_diff(directory: Path) -> Document:
    one = write(directory / "one.pt2", members(here(), AOTI_CPU_ISA="NEON"))
    return diff(
        inspect_file(one), inspect_file(write(directory / "two.pt2", members(here())))
    ).as_json()


def _status(project: Project, manifest: Manifest) -> StatusReport:
    return StatusReport(project, _plan(project, manifest), ("gone/cpu",))


def _received_releases(two: Project, manifest: Manifest) -> Iterator[ReceivedRelease]:
    record = _release_record(two, manifest)
    signer = Signer("certificate", "root.pem", "ab" * 32, "CN=us", datetime(2026, 1, 2))
    keyless = Signer("sigstore", "me@us.example", "ab" * 32, provider="https://us.example")
    for who in (signer, Signer("key", "signer.pem", "ab" * 32), keyless, None):
        yield ReceivedRelease("out", record, "cd" * 32, 12, who)


def _received(two: Project, manifest: Manifest) -> Iterator[Document]:
    for release in _received_releases(two, manifest):
        yield ReleaseVerification(release, VerifyReport(_verdicts(two))).as_json()


def _received_runs(two: Project, manifest: Manifest) -> Iterator[Document]:
    for release in _received_releases(two, manifest):
        yield replace(_run(two), release=release).as_json()


def _release_record(two: Project, manifest: Manifest) -> ReleaseRecord:
    cases = tuple(typed(case, CallFigures) for case in CASES)
    artifact = ReleasedArtifact(manifest, Verdict(two.targets[0], VerdictKind.PASSED, (), cases))
    target = msgspec.structs.replace(
        released_target(artifact, "2026-01-02T03:04:05Z"),
        bench="models/first/cpu/bench.json",
        licences=(Licence("MIT", "License of sympy"),),
    )
    return ReleaseRecord(
        name="shop",
        version="1.4",
        created="2026-01-02T03:04:05Z",
        aoti_build="1.0",
        source=Source("a" * 40, dirty=False, repository="https://example.org/us/shop"),
        targets=(target,),
        files={"NOTES.md": ReleaseFile("0" * 64, 5, "644")},
        previous=PreviousRelease("1.3", "0" * 64),
    )


def _release_diffs(two: Project, manifest: Manifest) -> list[Document]:
    """One of real records, which lists every limit, and one that uses every field."""
    directory = two.root / "release"
    directory.mkdir()
    record = _release_record(two, manifest)
    (directory / "release.json").write_text(json.dumps(release_json(record)))
    limits = "added>0,removed>0,changed>0,libraries>0,licences>0,size>1,drift>1e-3,steady>1"
    diff = release_diff(str(directory), str(directory), parse_policy(limits))
    outputs = (
        OutputDrift("example", "output", 0.1, 0.5, 3, 8, nonfinite=True, estimated=True),
        OutputDrift("example", "['n']", why="its shape was [3] and is [2]"),
    )
    target = replace(
        diff.targets[0],
        reasons=REASONS,
        old_size=5,
        new_size=6,
        drift=Drift(outputs, ("max: the inputs differ",)),
        packages=PackageDrift(Drift(outputs), error=BuildError("it fails", hint="see the log")),
        speed=Speed((SpeedRatio(Metric.STEADY, 1.1, {"batch": 2}, 1.05, 1.15),), side_by_side=True),
    )
    fact = NamedChange("torch", "1", None, ("first/cpu",))
    full = replace(
        diff, targets=(target,), toolchain=(fact,), libraries=(fact,), licences=(fact,),
        has_bills=True,
    )  # fmt: skip
    full = replace(full, judgements=judge(full))
    run = replace(full, old=replace(full.old, signer="release.pem"), has_run=True)
    unrun = replace(target, packages=PackageDrift(why="this host has no cuda device"))
    return [
        diff.as_json(),
        run.as_json(),
        replace(run, targets=(unrun,)).as_json(),
        replace(run, targets=(replace(target, packages=PackageDrift(is_same=True)),)).as_json(),
    ]


def _release(two: Project, manifest: Manifest) -> ReleaseReport:
    archive = ArchiveFile("out.tar.gz", "0" * 64, 5)
    released = Released(_release_record(two, manifest), "0" * 64, 5, signed=True, archive=archive)
    report = ReleaseReport("out", "1.4", _build(two, manifest), VerifyReport(_verdicts(two)))
    return replace(report, released=released, push=_push(two, manifest))


def _push(two: Project, manifest: Manifest) -> PushReport:
    record = _release_record(two, manifest)
    reference = parse_reference("oci://localhost:5000/a:1.4")
    return PushReport(reference, f"sha256:{'0' * 64}", record, 3, 30, 1, 10)


def _pull(two: Project, manifest: Manifest) -> PullReport:
    record = _release_record(two, manifest)
    reference = parse_reference(f"oci://localhost:5000/a:1.4@sha256:{'0' * 64}")
    signer = "release.pem"
    return PullReport(reference, f"sha256:{'0' * 64}", record, 3, 30, "out", True, signer)


def _export(project: Project) -> ExportReport:
    first, _ = project.targets
    package = FileRecord("a" * 64, 12)
    return ExportReport("out", (Exported(first, "first/cpu/model.pt2", package, "b" * 64),))


def _tune(project: Project) -> TuneReport:
    first, second = project.targets
    comparison = compare([(1.0, 0.5)] * 8)
    choice = Choice("fast", {"freezing": True}, tf32=True)
    rows = (
        Row("default", TuneOutcome.MEASURED, Choice("default"), 0.002, 8, 1 << 28),
        Row("fast", TuneOutcome.MEASURED, choice, 0.001, 8, 1 << 28, comparison, 1e-4),
        Row("short", TuneOutcome.MEASURED, choice, 0.001, 1, 1, compare([(1.0, 0.5)])),
        Row("broken", TuneOutcome.FAILED, choice, why="it differs from eager mode"),
    )
    peers = (Row("onnxruntime", TuneOutcome.MEASURED, None, 0.001, 8, 1, comparison),)
    tuned = Tuning(first, "this-host", rows, peers, ("openvino is not installed",), "fast")
    return TuneReport(
        (tuned, Tuning(second, None, error=FAILURE)), 12.5, changes={first.name: "written"}
    )


def _bench_record(project: Project) -> BenchRecord:
    first, _ = project.targets
    steady = steady_of([0.001, 0.002, 0.009], {"batch": 2})
    sample = Sample("2024-01-01T00:00:00+00:00", 1.5, 0.1, 0.2, 1 << 28, (steady,), (1200, 1980))
    rule = Rule(limits=parse_limits("steady>1.05"))
    questions = [
        Question(Metric.STEADY, "v1", [(1.0, 1.2)] * 8, {"batch": 2}),
        Question(Metric.FIRST, "v1", [(1.0, 1.2)]),
    ]
    compared = tuple(answers(questions, rule))
    sizes = size_answer("v1", 12, 12, rule)
    return BenchRecord(
        target=first.name,
        key="a" * 64,
        package_sha256="b" * 64,
        size=12,
        measured="2024-01-01T00:00:00+00:00",
        machine=Machine("this-host", {"processor": "fast"}, 2, (0, 1), 0.04),
        rows=(
            WayRow(Way.ARTIFACT, Cache.USED, (sample,)),
            WayRow(Way.EAGER, None, (), "it broke"),
        ),
        comparisons=compared,
        base=Base("v1", "c" * 64, "d" * 64, 12, (*compared, sizes), (sample,)),
        commit="e" * 40 + "+",
    )


def _bench(project: Project) -> BenchReport:
    first, second = project.targets
    measured = Benchmark(first, _bench_record(project), ("bench.json was not written",))
    rule = Rule(limits=parse_limits("steady>1.05"), strict=True)
    broken = Benchmark(second, error=FAILURE)
    return BenchReport((measured, broken, Benchmark(second, unavailable="no-device")), rule, 1.5)


def _plan(project: Project, manifest: Manifest) -> Plan:
    first, second = project.targets
    return Plan(
        (
            Step(first, "build", REASONS, manifest),
            Step(first, "restore", REASONS, manifest, manifest),
            Step(
                first,
                "recheck",
                (Reason("unverified", "this processor lacks avx512f"),),
                _unverified(manifest),
            ),
            Step(second, Action.UNAVAILABLE, (Reason("no-device", "cuda"),)),
        )
    )


def _errors(project: Project) -> Iterator[Document]:
    """As the task shell prints them."""
    failures: tuple[Callable[[], BuildError | ArtifactError | SpecError], ...] = (
        lambda: FAILURE,
        lambda: SpecError("models.yaml", [Problem(1, 2, "no such key")], hint="mend it"),
        lambda: ArtifactError("damaged", target=project.targets[0].name),
    )
    for failure in failures:
        yield json.loads(error_document(failure()))


def _unpacked(tmp_path: Path) -> Document:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(private.VARIABLE, str(tmp_path / "unpacked"))
        patch.setattr(directories, "code_fault", lambda path: "")
        patch.setattr(compatibility, "torch_version", lambda: "2.14.1")
        admitted = admit(*publish_zip(write_project(tmp_path / "packaged"), OPAQUE))
    document: Document = json.loads((Path(admitted.path).parent / "unpacked.json").read_text())
    return document


def _stat_cache(directory: Path) -> Document:
    """One that was written: of a file old enough to be remembered."""
    file, record = directory / "old", directory / "cache.json"
    file.write_text("old")
    os.utime(file, (1, 1))
    cache = StatCache(record)
    with pytest.MonkeyPatch.context() as patch:
        later = time.time_ns() + 10 * 10**9
        patch.setattr(time, "time_ns", lambda: later)
        cache.digest(file)
    cache.save()
    document: Document = json.loads(record.read_text())
    (entry,) = document["files"].values()
    return {**document, "files": {"/old": entry}}


def _up_to_date(project: Project) -> Manifest:
    """The first target, published with its weights apart."""
    return publish_fake(
        project,
        project.targets[0],
        signature=SIGNATURE,
        weights={"external": True, "alignment": 64},
        check={**CHECK, "cases": list(CASES)},
        provenance={
            "aoti_build": "0.1.0",
            "created": "2024-01-01T00:00:00+00:00",
            "git_commit": "a",
            "git_dirty": True,
        },
        action="restored",
    )


def _store_records(project: Project) -> list[Document]:
    """Every record that the store keeps of an artifact."""
    store = open_store(project.artifacts)
    store.put(_up_to_date(project), artifact_directory(project, project.targets[0]))
    paths = [
        path
        for kind in ("keys", "graphs", "traces")
        for path in (store.root / kind).glob("*/*.json")
    ]
    assert len(paths) == 3
    return [json.loads(path.read_text()) for path in paths]


def _tuning(directory: Path) -> Document:
    KernelCache(directory).add_tuning(
        "a", {f"cache/{'0' * 64}": '{"system": {}}', f"ab/{'c' * 51}.best_config": "{}"}
    )
    document: Document = json.loads((directory / "tuning" / "a.json").read_text())
    return document


def _store_roots(project: Project) -> list[Document]:
    store = open_store(project.artifacts)
    store.register(project.artifacts)
    return [json.loads(path.read_text()) for path in (store.root / "roots").glob("*.json")]


def _index(project: Project) -> Document:
    """As a plan leaves it that found the first target up to date."""
    plan(project, project.targets[:1])
    document: Document = json.loads(index_path(project).read_text())
    return document


def _project_cache(project: Project) -> Document:
    directory = project_cache_path(project)
    load_project(project.file, directory)
    (record,) = directory.iterdir()
    document: Document = json.loads(record.read_text())
    return document


def _durations(project: Project) -> Document:
    durations = Durations(durations_path(project))
    (target, _) = project.targets
    durations.started(target)
    durations.phase(target, "compile")
    durations.stage(target, Progress("wrapper"))
    durations.ended(Outcome(target, Done.COMPILED))
    durations.save()
    document: Document = json.loads(durations_path(project).read_text())
    return document


def _history(directory: Path) -> list[Document]:
    """Lines of a history whose package became larger, one of them broken."""
    lines = []
    for day, size in enumerate((1000, 2000)):
        made = bench_record(measured=f"2026-01-0{day + 1}T00:00:00Z", size=size)
        path = append(directory, made)
        lines.append(json.loads(path.read_text().splitlines()[-1]))
    path.write_text(path.read_text() + "{\n")
    return lines


def _passed_checks(project: Project) -> Document:
    """As the checks leave it that found nothing wrong."""
    require_fit_toolchain(project, ["cpu"], print)
    document: Document = json.loads(passed_checks_path(project.artifacts).read_text())
    return document


def _verdict_on_disk(project: Project) -> Document:
    """verify.json as `verify` writes it, with figures of ours in a worker's place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aoti_build.commands.verify.comparison.check_package", _no_check)
        patch.setattr(
            "aoti_build.commands.verify.comparison.Comparison.probe", lambda _: list(REFUSALS)
        )
        verify(project, project.targets[:1])
    document: Document = json.loads(
        (artifact_directory(project, project.targets[0]) / VERIFY).read_text()
    )
    return document


def _no_check(*_: object, **__: object) -> CheckResult:
    return CheckResult(
        passed=False,
        cases=tuple(typed(case, CallFigures) for case in CASES),
        vacuous=(Vacuous(output="output", of="inputs"),),
        no_fp64=None,
        baseline=tuple(typed(loss, Loss) for loss in LOSSES),
        seconds={"load": 0.1, "check": 0.2},
    )


def _reference_data() -> Document:
    """The document in the header of a reference file."""
    case = {
        "sizes": {"batch": 2},
        "seed": 0,
        "call": 0,
        "inputs": 2,
        "outputs": 1,
        "has_inputs": False,
        "has_outputs": True,
        "plain": {"1": "None"},
        "inputs_digest": "0" * 64,
        "digest": "1" * 64,
        "rounded_rmse": [1e-4, None],
    }
    sketch = {
        "dtype": "float32",
        "shape": [2, 70000],
        "rms": 0.5,
        "digest": "2" * 64,
        "nonfinite": "3" * 64,
    }
    kept = {
        "cases": {"example": case},
        "no_exact": None,
        "baseline": [LOSS],
        "others": ["inputs", "weights"],
        "state": {"cache": {"dtype": "float32", "shape": [1, 64], "value": "0.0"}, "total": None},
        "sketches": {"example/output/0": sketch},
    }
    head = {"format": reference_file.FORMAT, "format_version": reference_file.FORMAT_VERSION}
    return {**head, **kept}
