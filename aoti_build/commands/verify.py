"""`verify`: does every artifact do what its model did in eager mode when it was built, on this
host, in a fresh process?

The package is called through torch's Python binding, or with `runtime` "cpp" from a C++ program, as
services do. Needs neither the model's source nor its weights: inputs and reference outputs lie
beside the artifact. Nothing is loaded before its digests and the host's fitness were checked; the
stat cache is not trusted here, every byte is read.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import structs

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, VERIFY, Manifest, read_manifest
from aoti_build.artifact.paths import (
    artifact_directory,
    lock_path,
    reader_log_path,
    stat_cache_path,
)
from aoti_build.artifact.reasons import Reason, ReasonKind
from aoti_build.artifact.verification import required_tolerance
from aoti_build.commands.repro import write_repro
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.common.directories import temporary_directory
from aoti_build.common.json_object import JsonObject
from aoti_build.common.locks import lock
from aoti_build.common.records import write_json
from aoti_build.common.stat_cache import StatCache
from aoti_build.errors import (
    AotiBuildError,
    ArtifactError,
    DirectoryError,
    ExitCode,
    Interrupted,
    VerificationError,
)
from aoti_build.figures import CallFigures, Loss, Refusal, Vacuous, as_json
from aoti_build.messages import CheckResult, FreshJob, Job, LocalizeResult, ProbeJob, ResultT
from aoti_build.models_file.presence import source_is_here
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.records import target_to_json
from aoti_build.planning.plan import out_of_date, plan_target
from aoti_build.store.interface import Store
from aoti_build.store.selection import open_store
from aoti_build.work.check import check_package, check_record
from aoti_build.work.check_failure import find_cause
from aoti_build.work.crash import WorkerCrash
from aoti_build.work.opened import ArchitectureMissing, OpenArtifact, fit_artifact
from aoti_build.work.processes import allow_starts, check_stopping, stop_all
from aoti_build.work.runner import compiled_runner
from aoti_build.work.worker import CHECK_ENVIRONMENT, WorkerTimeout, run_worker, yaml_positions

PYTHON, CPP = RUNTIMES = ("python", "cpp")
TIME_LIMIT = 600.0
OnProgress = Callable[[Target, str], None]


@dataclass(frozen=True)
class Verdict:
    """One target's result. `out_of_date` are the reasons why the artifact is not what the sources
    say now; `cases` the figures; `refusals` what became of inputs that must not be answered;
    `vacuous` outputs whose comparison shows nothing; `no_fp64` says why there was no float64
    reference; `baseline` what the model loses against that; `localization` where it differs from
    its model."""

    target: Target
    verdict: VerdictKind
    out_of_date: tuple[Reason, ...] = ()
    cases: tuple[CallFigures, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    vacuous: tuple[Vacuous, ...] = ()
    no_fp64: str | None = None
    localization: LocalizeResult | None = None
    seconds: float = 0.0
    error: AotiBuildError | None = None
    runtime: str = PYTHON
    baseline: tuple[Loss, ...] = ()

    def as_json(self) -> JsonObject:
        return {
            "target": self.target.name,
            "verdict": self.verdict,
            "runtime": self.runtime,
            "out_of_date": [reason.as_json() for reason in self.out_of_date],
            "cases": [as_json(case) for case in self.cases],
            "refusals": [as_json(refusal) for refusal in self.refusals],
            "vacuous": [as_json(output) for output in self.vacuous],
            "no_fp64": self.no_fp64,
            "baseline": [as_json(loss) for loss in self.baseline],
            "localization": as_json(self.localization) if self.localization else None,
            "seconds": self.seconds,
            "error": self.error.as_json() if self.error else None,
        }


@dataclass(frozen=True)
class VerifyReport:
    """Verdicts in the order of models.yaml. With `strict`, out of date, vacuous, incomplete and
    unavailable count as failed."""

    verdicts: tuple[Verdict, ...]
    strict: bool = False
    runtime: str = PYTHON

    @property
    def exit_code(self) -> int:
        """4 if an artifact was refused, else 3 if one failed, else 0."""
        if any(verdict.verdict == VerdictKind.REFUSED for verdict in self.verdicts):
            return ExitCode.UNFIT_ARTIFACT
        return ExitCode.VERIFICATION_FAILED if any(map(self.failed, self.verdicts)) else ExitCode.OK

    def failed(self, verdict: Verdict) -> bool:
        if verdict.verdict in (VerdictKind.UNAVAILABLE, VerdictKind.INCOMPLETE):
            return self.strict
        return verdict.verdict != VerdictKind.PASSED or (
            self.strict and bool(verdict.out_of_date or verdict.vacuous)
        )

    def as_json(self) -> JsonObject:
        return {
            "format": "aoti-build/verify",
            "format_version": 2,
            "ok": self.exit_code == ExitCode.OK,
            "strict": self.strict,
            "runtime": self.runtime,
            "targets": [verdict.as_json() for verdict in self.verdicts],
        }


def verify(
    project: Project,
    targets: tuple[Target, ...],
    *,
    jobs: int = 1,
    strict: bool = False,
    fresh: bool = False,
    seeds: int = 1,
    limit: float = TIME_LIMIT,
    localize: bool = False,
    repro: Path | None = None,
    runtime: str = PYTHON,
    on_progress: OnProgress = lambda target, phase: None,
) -> VerifyReport:
    """Verify the artifacts of `targets`, `jobs` at a time. A failed artifact never ends the run.

    Of a failed one, `localize` finds where it differs from its model, and a reproduction is written
    below the directory `repro`. With `fresh`, or more than one of `seeds`, eager gives the
    references now, which needs the model's source. Each process may take `limit` seconds. With the
    `runtime` "cpp" packages are called from C++. Raises `Interrupted` on Ctrl-C, after every worker
    has ended, `ToolchainError` if the C++ runner cannot be compiled, and `DirectoryError` if the
    temporary directory is unfit.
    """
    allow_starts()
    temporary_directory()
    runners = _runners(project, targets, on_progress) if runtime == CPP else {}
    digests = StatCache(stat_cache_path(project))
    verifier = _Verifier(
        project,
        digests,
        open_store(project.artifacts),
        fresh or seeds > 1,
        seeds,
        limit,
        localize,
        repro,
        on_progress,
        runtime,
        runners,
    )
    with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="verify") as pool:
        try:
            futures = [pool.submit(verifier, target) for target in targets]
            verdicts = tuple(future.result() for future in futures)
        except KeyboardInterrupt:
            stop_all()
            pool.shutdown(cancel_futures=True)
            raise Interrupted("interrupted") from None
    return VerifyReport(verdicts, strict, runtime)


def _runners(
    project: Project, targets: tuple[Target, ...], on_progress: OnProgress
) -> dict[str, Path]:
    """The C++ runner for each device that artifacts of `targets` are for."""
    runners: dict[str, Path] = {}
    for target in targets:
        present = (
            target.hardware.count() and (artifact_directory(project, target) / MODEL).is_file()
        )
        if present and target.device not in runners:
            on_progress(target, "runner")
            runners[target.device] = compiled_runner(target.device)
    return runners


@dataclass(frozen=True)
class _Verifier:
    """Verifies one target after another, each in processes of its own."""

    project: Project
    digests: StatCache
    store: Store
    fresh: bool
    seeds: int
    limit: float
    localize: bool
    repro: Path | None
    on_progress: OnProgress
    runtime: str
    runners: Mapping[str, Path]

    def __call__(self, target: Target) -> Verdict:
        return replace(self._verdict(target), runtime=self.runtime)

    def _verdict(self, target: Target) -> Verdict:
        if not target.hardware.count():
            return Verdict(
                target, VerdictKind.UNAVAILABLE, (Reason(ReasonKind.NO_DEVICE, target.device),)
            )
        with contextlib.ExitStack() as opened:
            try:
                artifact = opened.enter_context(fit_artifact(self.project, target))
            except VerificationError as error:
                if why := target.hardware.cannot_build(target.architecture):
                    return Verdict(
                        target, VerdictKind.UNAVAILABLE, (Reason(ReasonKind.NO_DEVICE, why),)
                    )
                return Verdict(target, VerdictKind.MISSING, error=error)
            except ArchitectureMissing as error:
                return Verdict(
                    target,
                    VerdictKind.UNAVAILABLE,
                    (Reason(ReasonKind.LACKS_ARCHITECTURE, error.cause or ""),),
                )
            except ArtifactError as error:
                return Verdict(target, VerdictKind.REFUSED, error=error)
            return self._recorded(target, artifact)

    def _recorded(self, target: Target, artifact: OpenArtifact) -> Verdict:
        """The verdict on an open artifact, written beside it; refused if another one has taken its
        place meanwhile."""
        manifest = artifact.manifest
        step = plan_target(self.project, target, self.digests, self.store)
        checked = self._checked(target, artifact)
        verdict = replace(
            checked, runtime=self.runtime, out_of_date=(*checked.out_of_date, *out_of_date(step))
        )
        if not artifact.is_still_published():
            return _exchanged(target) if verdict.verdict == VerdictKind.PASSED else verdict
        document = {
            "format": "aoti-build/verdict",
            "format_version": 2,
            "key": manifest.key,
            **verdict.as_json(),
        }
        with contextlib.suppress(OSError):  # a serving host's artifacts may be read-only
            write_json(artifact.opened / VERIFY, document)
        # With fresh references an out-of-date artifact was compared with another state of its
        # model.
        if (
            manifest.unverified
            and verdict.verdict == VerdictKind.PASSED
            and not (self.fresh and verdict.out_of_date)
        ):
            self._settle(target, artifact, verdict)
        return verdict

    def _settle(self, target: Target, artifact: OpenArtifact, verdict: Verdict) -> None:
        """Let the manifest of an artifact that its build host could not run say that it is
        right."""
        found = CheckResult(
            passed=True,
            cases=verdict.cases,
            vacuous=verdict.vacuous,
            no_fp64=verdict.no_fp64,
            baseline=verdict.baseline or None,
            seconds={"verify": verdict.seconds},
        )
        check = check_record(target, found)
        try:
            with lock(lock_path(self.project, target), check_stopping):
                if read_manifest(artifact.directory) != artifact.manifest:
                    return  # a build has just published another one
                renewed = replace(artifact.manifest, check=check)
                renewed.write(artifact.opened)
                self.store.put(renewed, artifact.files)
            self.on_progress(
                target, "compared with eager for the first time; the manifest says so now"
            )
        except OSError as error:
            self.on_progress(
                target, f"passed, but its manifest cannot be written: {error.strerror or error}"
            )

    def _checked(self, target: Target, artifact: OpenArtifact) -> Verdict:
        try:
            with tempfile.TemporaryDirectory(prefix="aoti_build-") as directory:
                return self._figures(target, artifact, Path(directory))
        except (Interrupted, DirectoryError):
            raise
        except AotiBuildError as error:
            error.target = target.name
            return Verdict(target, _verdict_of(error), error=error)

    def _figures(self, target: Target, artifact: OpenArtifact, work: Path) -> Verdict:
        reference_data = (
            self._fresh_reference_data(target, artifact.manifest, work) if self.fresh else None
        )
        result = check_package(
            self.project,
            target,
            artifact.files,
            artifact.manifest.signature,
            directory=work / "check",
            log=self._log(target),
            on_phase=lambda phase: self.on_progress(target, phase),
            reference_data=reference_data,
            runner=self.runners.get(target.device),
            limit=self.limit,
            imports=artifact.manifest.imports,
        )
        if result.unavailable is not None:
            return Verdict(
                target,
                VerdictKind.UNAVAILABLE,
                (Reason(ReasonKind.NOT_IN_CPP, result.unavailable),),
            )
        refusals = self._refusals(target, artifact, work)
        verdict = _verdict(result, refusals)
        if verdict == VerdictKind.MISMATCH and self.repro is not None:
            manifest = artifact.manifest
            write_repro(
                self.repro,
                target,
                artifact.files,
                reference_data,
                manifest.signature,
                manifest.imports,
            )
        return Verdict(
            target,
            verdict,
            cases=result.cases,
            refusals=tuple(refusals),
            vacuous=result.vacuous,
            no_fp64=result.no_fp64,
            baseline=result.baseline or (),
            localization=self._cause(target, artifact, work)
            if verdict == VerdictKind.MISMATCH and self.localize
            else None,
            seconds=round(sum(result.seconds.values()), 3),
        )

    def _cause(self, target: Target, artifact: OpenArtifact, work: Path) -> LocalizeResult:
        if not source_is_here(target.model, self.project.root):
            said = "the model's source is not here"
            return LocalizeResult(stage="none", said=said, weights=(), left=None)
        return find_cause(
            self.project,
            target,
            artifact.files,
            artifact.manifest.weights.get("alignment"),
            directory=work / "localize",
            log=self._log(target),
            bisect=True,
            limit=self.limit,
            on_phase=lambda phase: self.on_progress(target, phase),
        )

    def _fresh_reference_data(self, target: Target, manifest: Manifest, work: Path) -> Path:
        """Reference data made now. Raises `VerificationError` without the model's source."""
        if not source_is_here(target.model, self.project.root):
            raise VerificationError(
                "references cannot be made: the model's source or weights are not here",
                hint="verify without --fresh and --seeds, against what was saved at build time",
            )
        reference_data = work / "reference.safetensors"
        job = FreshJob(
            root=str(self.project.root),
            target_document=target_to_json(target),
            where=yaml_positions(self.project, target),
            reference_data=str(reference_data),
            signature=manifest.signature,
            seeds=self.seeds,
        )
        self._run(target, job, work / "fresh")
        return reference_data

    def _refusals(self, target: Target, artifact: OpenArtifact, work: Path) -> list[Refusal]:
        """What became of each probe. One that crashes takes its process with it; another tries the
        rest."""
        runner = self.runners.get(target.device)
        job = ProbeJob(
            root=str(self.project.root),
            model=str(artifact.files / MODEL),
            reference_data=str(artifact.files / REFERENCE_DATA),
            target_document=target_to_json(target),
            tolerance=required_tolerance(target),
            signature=artifact.manifest.signature,
            imports=tuple(artifact.manifest.imports),
            runner=str(runner) if runner else None,
            skip=(),
        )
        crashed: dict[int, Refusal] = {}
        while True:
            begun: list[str] = []
            rest = structs.replace(job, skip=tuple(crashed))
            try:
                self.on_progress(target, "probe")
                result = self._run(target, rest, work / f"probe-{len(crashed)}", begun.append)
            except (WorkerCrash, WorkerTimeout) as crash:
                if not begun:
                    raise
                _, number, name = begun[-1].split(" ", 2)
                crashed[int(number)] = Refusal(name=name, ok=False, said=crash.message)
                continue
            found = {**dict(result.probes), **crashed}
            return [found[number] for number in sorted(found)]

    def _run(
        self,
        target: Target,
        job: Job[ResultT],
        directory: Path,
        also: Callable[[str], None] = lambda phase: None,
    ) -> ResultT:
        def on_phase(phase: str) -> None:
            also(phase)
            if not phase.startswith("probe "):
                self.on_progress(target, phase)

        return run_worker(
            job,
            directory=directory,
            log=self._log(target),
            on_phase=on_phase,
            environment=CHECK_ENVIRONMENT,
            limit=self.limit,
        )

    def _log(self, target: Target) -> Path:
        return reader_log_path(self.project, target, "verify")


def _verdict(result: CheckResult, refusals: Sequence[Refusal]) -> VerdictKind:
    """What the figures of a check and of the probes come to. A case that was left out did not
    pass."""
    skipped = [case.skipped is not None for case in result.cases]
    unread = any(case.unread for case in result.cases)
    if result.passed and all(refusal.ok for refusal in refusals):
        return VerdictKind.INCOMPLETE if unread or any(skipped) else VerdictKind.PASSED
    return VerdictKind.UNVERIFIED if all(skipped) else VerdictKind.MISMATCH


def _verdict_of(error: AotiBuildError) -> VerdictKind:
    kinds = {
        ArtifactError: VerdictKind.REFUSED,
        WorkerTimeout: VerdictKind.TIMEOUT,
        VerificationError: VerdictKind.UNVERIFIED,
    }
    return next(
        (verdict for kind, verdict in kinds.items() if isinstance(error, kind)), VerdictKind.CRASHED
    )


def _exchanged(target: Target) -> Verdict:
    error = ArtifactError(
        "another artifact took its place while it was verified",
        target=target.name,
        cause="the one that was verified passed; nothing is known of what is there now",
        hint=f"verify it: invoke verify --target {target.name}",
    )
    return Verdict(target, VerdictKind.REFUSED, error=error)
