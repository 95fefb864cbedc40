"""`verify`: compares every artifact, in a fresh process on this host, with what its model did in
eager mode when it was built.

Torch's Python binding calls the package, or with the runtime "cpp" a C++ program, as services do.
Neither the model's source nor its weights are necessary: inputs and reference outputs are stored
with the artifact. The digest of every file and the fitness of this host are checked before anything
is loaded. The stat cache is not trusted here; every byte is read.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from aoti_build.artifact.manifest import MODEL, VERIFY, read_manifest
from aoti_build.artifact.paths import artifact_directory, lock_path, stat_cache_path
from aoti_build.artifact.reasons import Reason, ReasonKind
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.commands.verify.comparison import Comparison, VerifyOptions
from aoti_build.commands.verify.report import (
    CPP,
    CUDA_GRAPHS,
    PYTHON,
    RUNTIMES,
    Verdict,
    VerifyReport,
)
from aoti_build.common.directories import temporary_directory
from aoti_build.common.locks import lock
from aoti_build.common.records import write_json
from aoti_build.common.stat_cache import StatCache
from aoti_build.errors import (
    AotiBuildError,
    ArtifactError,
    DirectoryError,
    Interrupted,
    VerificationError,
)
from aoti_build.messages import CheckResult
from aoti_build.models_file.project import Project, Target
from aoti_build.planning.plan import out_of_date, plan_target
from aoti_build.store.interface import Store
from aoti_build.store.selection import open_store
from aoti_build.work.check import check_record
from aoti_build.work.opened import ArchitectureMissing, OpenArtifact, fit_artifact
from aoti_build.work.processes import allow_starts, check_stopping, stop_all
from aoti_build.work.runner import compiled_runner
from aoti_build.work.worker import WorkerTimeout

__all__ = [
    "CPP",
    "CUDA_GRAPHS",
    "PYTHON",
    "RUNTIMES",
    "TIME_LIMIT",
    "Verdict",
    "VerifyReport",
    "verify",
]

# Seconds that each process may take.
TIME_LIMIT = 600.0
OnProgress = Callable[[Target, str], None]


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
    """Verify the artifacts of `targets`, `jobs` at a time. A failed artifact does not stop the
    others.

    For a mismatch, `localize` finds where the artifact differs from its model, and a reproduction
    is written below the directory `repro`. With `fresh`, or with more than one of `seeds`, eager
    mode makes the reference data now, which needs the model's source. Each process may take `limit`
    seconds. With the `runtime` "cpp" a C++ program calls the packages. With "cuda-graphs" those of
    a GPU are replayed from CUDA graphs, and the others called as usual.

    Raises:
        Interrupted: Ctrl-C was pressed. Every worker has ended.
        ToolchainError: The C++ runner cannot be compiled.
        DirectoryError: The temporary directory is unfit.
    """
    # An interrupted command in the same process has forbidden new workers.
    allow_starts()
    # An unfit temporary directory ends the command, and is no verdict about an artifact.
    temporary_directory()
    runners = _compile_runners(project, targets, on_progress) if runtime == CPP else {}
    options = VerifyOptions(
        fresh=fresh or seeds > 1,
        seeds=seeds,
        limit=limit,
        localize=localize,
        repro=repro,
        runtime=runtime,
    )
    verifier = _Verifier(
        project=project,
        digests=StatCache(stat_cache_path(project)),
        store=open_store(project.main_artifacts),
        options=options,
        runners=runners,
        on_progress=on_progress,
    )
    with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="verify") as pool:
        try:
            futures = [pool.submit(verifier.verify, target) for target in targets]
            verdicts = tuple(future.result() for future in futures)
        except KeyboardInterrupt:
            # The threads wait for workers, so these are ended first.
            stop_all()
            pool.shutdown(cancel_futures=True)
            raise Interrupted("interrupted") from None
    return VerifyReport(verdicts, strict, runtime)


def _compile_runners(
    project: Project, targets: tuple[Target, ...], on_progress: OnProgress
) -> dict[str, Path]:
    """The C++ runner for each device that has a package among the artifacts of `targets`."""
    runners: dict[str, Path] = {}
    for target in targets:
        package = artifact_directory(project, target) / MODEL
        is_needed = target.hardware.count() > 0 and package.is_file()
        if is_needed and target.device not in runners:
            on_progress(target, "runner")
            runners[target.device] = compiled_runner(target.device)
    return runners


@dataclass(frozen=True)
class _Verifier:
    """Verifies one target after another, each in processes of its own."""

    project: Project
    digests: StatCache
    store: Store
    options: VerifyOptions
    # The C++ program for each device. Without one, torch's Python binding calls the packages.
    runners: Mapping[str, Path]
    on_progress: OnProgress

    def verify(self, target: Target) -> Verdict:
        return replace(self._verify(target), runtime=self._runtime(target))

    def _runtime(self, target: Target) -> str:
        """What calls the package of `target`."""
        runtime = self.options.runtime
        if runtime == CUDA_GRAPHS and not target.hardware.has_graphs:
            return PYTHON
        return runtime

    def _verify(self, target: Target) -> Verdict:
        if not target.hardware.count():
            return _unavailable(target, ReasonKind.NO_DEVICE, target.device)
        # Only opening the artifact may end in these verdicts, so the `with` statement stays out of
        # the `try`.
        with contextlib.ExitStack() as resources:
            try:
                artifact = resources.enter_context(fit_artifact(self.project, target))
            except VerificationError as error:
                obstacle = target.hardware.cannot_build(target.architecture)
                if obstacle:
                    return _unavailable(target, ReasonKind.NO_DEVICE, obstacle)
                return Verdict(target, VerdictKind.MISSING, error=error)
            except ArchitectureMissing as error:
                return _unavailable(target, ReasonKind.LACKS_ARCHITECTURE, error.cause or "")
            except ArtifactError as error:
                return Verdict(target, VerdictKind.REFUSED, error=error)
            return self._verify_open(target, artifact)

    def _verify_open(self, target: Target, artifact: OpenArtifact) -> Verdict:
        """Compare an open artifact and write the verdict into its directory. It is refused if
        another artifact has replaced it by then."""
        step = plan_target(self.project, target, self.digests, self.store)
        verdict = self._compare(target, artifact)
        verdict = replace(
            verdict,
            package=artifact.manifest.files[MODEL],
            path=self.project.shown(artifact.directory / MODEL),
            runtime=self._runtime(target),
            out_of_date=(*verdict.out_of_date, *out_of_date(step)),
        )
        if not artifact.is_still_published():
            if verdict.verdict == VerdictKind.PASSED:
                return _replaced(target)
            return verdict
        document = {
            "format": "aoti-build/verdict",
            "format_version": 2,
            "key": artifact.manifest.key,
            **verdict.as_json(),
        }
        # The artifacts of a serving host may be read-only.
        with contextlib.suppress(OSError):
            write_json(artifact.opened / VERIFY, document)
        if artifact.manifest.unverified and self._settles_check(verdict):
            self._record_check(target, artifact, verdict)
        return verdict

    def _compare(self, target: Target, artifact: OpenArtifact) -> Verdict:
        try:
            with tempfile.TemporaryDirectory(prefix="aoti_build-") as work:
                comparison = Comparison(
                    project=self.project,
                    target=target,
                    artifact=artifact,
                    options=self.options,
                    runner=self.runners.get(target.device),
                    cuda_graphs=self._runtime(target) == CUDA_GRAPHS,
                    work=Path(work),
                    on_phase=lambda phase: self.on_progress(target, phase),
                )
                return comparison.verdict()
        except (Interrupted, DirectoryError):
            # The user or the host is at fault, and not this artifact: the command ends.
            raise
        except AotiBuildError as error:
            error.target = target.name
            return Verdict(target, verdict_of(error), error=error)

    def _settles_check(self, verdict: Verdict) -> bool:
        """Whether the verdict stands for the check that the build host could not make."""
        if verdict.verdict != VerdictKind.PASSED:
            return False
        # New references come from the present state of the model, which is another one than that of
        # an artifact that is out of date.
        return not (self.options.fresh and verdict.out_of_date)

    def _record_check(self, target: Target, artifact: OpenArtifact, verdict: Verdict) -> None:
        """Write into the manifest, and into the store, that the artifact was compared with eager
        mode."""
        result = CheckResult(
            passed=True,
            cases=verdict.cases,
            vacuous=verdict.vacuous,
            no_fp64=verdict.no_fp64,
            baseline=verdict.baseline or None,
            seconds={"verify": verdict.seconds},
        )
        check = check_record(target, result)
        try:
            with lock(lock_path(self.project, target), check_stopping):
                if read_manifest(artifact.directory) != artifact.manifest:
                    return  # a build has just published another one
                manifest = replace(artifact.manifest, check=check)
                manifest.write(artifact.opened)
                self.store.put(manifest, artifact.files)
        except OSError as error:
            message = (
                f"warning: passed, but its manifest cannot be written: {error.strerror or error}"
            )
        else:
            message = "compared with eager for the first time; the manifest says so now"
        self.on_progress(target, message)


def verdict_of(error: AotiBuildError) -> VerdictKind:
    """The verdict on an artifact whose comparison ended with `error`."""
    if isinstance(error, ArtifactError):
        return VerdictKind.REFUSED
    if isinstance(error, WorkerTimeout):
        return VerdictKind.TIMEOUT
    if isinstance(error, VerificationError):
        return VerdictKind.UNVERIFIED
    return VerdictKind.CRASHED


def _unavailable(target: Target, kind: ReasonKind, what: str) -> Verdict:
    return Verdict(target, VerdictKind.UNAVAILABLE, (Reason(kind, what),))


def _replaced(target: Target) -> Verdict:
    """The verdict on an artifact that passed and is no longer the published one."""
    error = ArtifactError(
        "another artifact took its place while it was verified",
        target=target.name,
        cause="the verified artifact passed; the present one has not been verified",
        hint=f"verify it: invoke verify --target {target.name}",
    )
    return Verdict(target, VerdictKind.REFUSED, error=error)
