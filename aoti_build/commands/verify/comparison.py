"""The comparison of one open artifact with eager mode, for `verify`.

Each step runs in a worker process of its own: new reference data, the check, the probes, and the
search for the cause of a mismatch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA
from aoti_build.artifact.paths import reader_log_path
from aoti_build.artifact.reasons import Reason, ReasonKind
from aoti_build.artifact.verification import required_tolerance
from aoti_build.commands.repro import write_repro
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.commands.verify.report import Verdict
from aoti_build.errors import VerificationError
from aoti_build.figures import Refusal
from aoti_build.messages import CheckResult, FreshJob, Job, LocalizeResult, ProbeJob, ResultT
from aoti_build.models_file.presence import source_is_here
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.records import target_to_json
from aoti_build.work.check import check_package
from aoti_build.work.check_failure import find_cause
from aoti_build.work.crash import WorkerCrash
from aoti_build.work.opened import OpenArtifact
from aoti_build.work.worker import (
    CHECK_ENVIRONMENT,
    WorkerTimeout,
    run_worker,
    yaml_positions,
)

OnPhase = Callable[[str], None]


@dataclass(frozen=True)
class VerifyOptions:
    """The options of `verify` that concern each artifact.

    With `fresh`, eager mode makes the reference data now, with `seeds` seeds. Each process may take
    `limit` seconds. `localize` finds the cause of a mismatch. Reproductions go below the directory
    `repro`.
    """

    fresh: bool
    seeds: int
    limit: float
    localize: bool
    repro: Path | None
    runtime: str


@dataclass(frozen=True)
class Comparison:
    """Compares one artifact. `runner` is the C++ program that calls it, None for Python. With
    `cuda_graphs` calls are replayed. `work` is a private directory for the workers' files."""

    project: Project
    target: Target
    artifact: OpenArtifact
    options: VerifyOptions
    runner: Path | None
    cuda_graphs: bool
    work: Path
    on_phase: OnPhase

    def verdict(self) -> Verdict:
        """Compare the artifact.

        Raises:
            VerificationError: New reference data need the model's source, which is not here.
            WorkerTimeout: A process exceeded the time limit.
            WorkerCrash: A process ended without a result.
        """
        reference_data = self._new_reference_data() if self.options.fresh else None
        check = self._check(reference_data)
        if check.unavailable is not None:
            kind_of_reason = ReasonKind.NOT_IN_CPP
            if self.cuda_graphs:
                kind_of_reason = ReasonKind.NOT_IN_CUDA_GRAPHS
            reason = Reason(kind_of_reason, check.unavailable)
            return Verdict(self.target, VerdictKind.UNAVAILABLE, (reason,))
        refusals = self.probe()
        kind = _verdict_kind(check, refusals)
        # To find the cause takes long, so only a mismatch is worth it.
        localization = None
        if kind == VerdictKind.MISMATCH:
            self._write_repro(reference_data)
            if self.options.localize:
                localization = self._localize()
        return Verdict(
            self.target,
            kind,
            cases=check.cases,
            refusals=tuple(refusals),
            vacuous=check.vacuous,
            no_fp64=check.no_fp64,
            baseline=check.baseline or (),
            localization=localization,
            seconds=round(sum(check.seconds.values()), 3),
        )

    def _new_reference_data(self) -> Path:
        """Let eager mode make reference data now. Raises `VerificationError` without the model's
        source."""
        if not source_is_here(
            self.target.model, self.project.root, self.project.import_directories
        ):
            raise VerificationError(
                "references cannot be made: the model's source or weights are not here",
                hint="verify without --fresh and --seeds, against what was saved at build time",
            )
        reference_data = self.work / "reference.safetensors"
        job = FreshJob(
            root=str(self.project.root),
            python_path=self.project.import_directories,
            target_document=target_to_json(self.target),
            where=yaml_positions(self.project, self.target),
            reference_data=str(reference_data),
            signature=self.artifact.manifest.signature,
            seeds=self.options.seeds,
        )
        self._run(job, self.work / "fresh", self.on_phase)
        return reference_data

    def _check(self, reference_data: Path | None) -> CheckResult:
        return check_package(
            self.project,
            self.target,
            self.artifact.files,
            self.artifact.manifest.signature,
            directory=self.work / "check",
            log=self._log,
            on_phase=self.on_phase,
            reference_data=reference_data,
            runner=self.runner,
            cuda_graphs=self.cuda_graphs,
            limit=self.options.limit,
            imports=self.artifact.manifest.imports,
        )

    def probe(self) -> list[Refusal]:
        """Give the artifact the inputs that it must refuse, and return the result of each.

        A probe that crashes ends its process. A new process then makes the remaining probes.
        """
        job = self._probe_job()
        crashed: dict[int, Refusal] = {}
        while True:
            # Each probe announces itself as the phase "probe NUMBER NAME". There are many, so they
            # are not shown one by one.
            announced: list[str] = []
            remaining = structs.replace(job, skip=tuple(crashed))
            directory = self.work / f"probe-{len(crashed)}"
            self.on_phase("probe")
            try:
                result = self._run(remaining, directory, on_phase=announced.append)
            except (WorkerCrash, WorkerTimeout) as crash:
                # The process failed before its first probe, for instance as it loaded the package.
                if not announced:
                    raise
                _, number, name = announced[-1].split(" ", 2)
                crashed[int(number)] = Refusal(name=name, ok=False, said=crash.message)
                continue
            refusals = {**dict(result.probes), **crashed}
            return [refusals[number] for number in sorted(refusals)]

    def _probe_job(self) -> ProbeJob:
        manifest = self.artifact.manifest
        return ProbeJob(
            root=str(self.project.root),
            python_path=self.project.import_directories,
            model=str(self.artifact.files / MODEL),
            reference_data=str(self.artifact.files / REFERENCE_DATA),
            target_document=target_to_json(self.target),
            tolerance=required_tolerance(self.target),
            signature=manifest.signature,
            imports=tuple(manifest.imports),
            runner=str(self.runner) if self.runner else None,
            skip=(),
        )

    def _write_repro(self, reference_data: Path | None) -> None:
        if self.options.repro is None:
            return
        manifest = self.artifact.manifest
        write_repro(
            self.options.repro,
            self.target,
            self.artifact.files,
            reference_data=reference_data,
            signature=manifest.signature,
            imports=manifest.imports,
        )

    def _localize(self) -> LocalizeResult:
        if not source_is_here(
            self.target.model, self.project.root, self.project.import_directories
        ):
            message = "the model's source is not here"
            return LocalizeResult(
                stage="none",
                said=message,
                weights=(),
                left=None,
            )
        return find_cause(
            self.project,
            self.target,
            self.artifact.files,
            # Embedded weights have no alignment, and are not compared one by one.
            self.artifact.manifest.weights.get("alignment"),
            directory=self.work / "localize",
            log=self._log,
            bisect=True,
            limit=self.options.limit,
            on_phase=self.on_phase,
        )

    def _run(self, job: Job[ResultT], directory: Path, on_phase: OnPhase) -> ResultT:
        return run_worker(
            job,
            directory=directory,
            log=self._log,
            on_phase=on_phase,
            environment=CHECK_ENVIRONMENT,
            limit=self.options.limit,
        )

    @property
    def _log(self) -> Path:
        return reader_log_path(self.project, self.target, "verify")


def _verdict_kind(check: CheckResult, refusals: Sequence[Refusal]) -> VerdictKind:
    """The verdict on the figures of a check and of the probes."""
    skipped = [case.skipped is not None for case in check.cases]
    unread = any(case.unread for case in check.cases)
    if check.passed and all(refusal.ok for refusal in refusals):
        # A case that was left out did not pass.
        if unread or any(skipped):
            return VerdictKind.INCOMPLETE
        return VerdictKind.PASSED
    if all(skipped):
        return VerdictKind.UNVERIFIED
    return VerdictKind.MISMATCH
