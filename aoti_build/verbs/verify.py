"""`verify`: does every artifact do what its model did in eager mode when it was built, on this host, in a fresh
process?

Needs neither the model's source nor its weights: inputs and reference outputs lie beside the artifact. Nothing is
loaded before its digests and the host's fitness were checked; the stat cache is not trusted here, every byte is read.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aoti_build import host, toolchain
from aoti_build.digests import digest_file
from aoti_build.errors import (
    OK,
    UNFIT_ARTIFACT,
    VERIFICATION_FAILED,
    AotiBuildError,
    ArtifactError,
    Interrupted,
    VerificationError,
)
from aoti_build.files import write_json
from aoti_build.fingerprint import Reason
from aoti_build.layout import artifact_directory, reader_log_path, stat_cache_path, store_root
from aoti_build.manifest import VERIFY, Manifest, NoManifest, read_manifest
from aoti_build.plan import plan_target
from aoti_build.spec.project import Project, Target
from aoti_build.stat_cache import StatCache
from aoti_build.store import Store
from aoti_build.work.check import check_package
from aoti_build.work.worker import WorkerCrash, allow_starts, stop_all

PASSED, MISMATCH, CRASHED, MISSING, REFUSED, UNAVAILABLE = (
    "passed", "mismatch", "crashed", "missing", "refused", "unavailable",
)  # fmt: skip
OnProgress = Callable[[Target, str], None]


@dataclass(frozen=True)
class Verdict:
    """One target's result. `stale` are the reasons why the artifact is not what the sources say now; `cases` the
    figures."""

    target: Target
    verdict: str
    stale: tuple[Reason, ...] = ()
    cases: tuple[Mapping[str, Any], ...] = ()
    seconds: float = 0.0
    error: AotiBuildError | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "target": self.target.name,
            "verdict": self.verdict,
            "stale": [reason.as_json() for reason in self.stale],
            "cases": [dict(case) for case in self.cases],
            "seconds": self.seconds,
            "error": self.error.as_json() if self.error else None,
        }


@dataclass(frozen=True)
class VerifyReport:
    """Verdicts in the order of models.yaml. With `strict`, stale and unavailable count as failed."""

    verdicts: tuple[Verdict, ...]
    strict: bool = False

    @property
    def exit_code(self) -> int:
        """4 if an artifact was refused, else 3 if one failed, else 0."""
        if any(verdict.verdict == REFUSED for verdict in self.verdicts):
            return UNFIT_ARTIFACT
        return VERIFICATION_FAILED if any(map(self.failed, self.verdicts)) else OK

    def failed(self, verdict: Verdict) -> bool:
        if verdict.verdict == UNAVAILABLE:
            return self.strict
        return verdict.verdict != PASSED or (self.strict and bool(verdict.stale))

    def as_json(self) -> dict[str, Any]:
        return {
            "format": "aoti-build/verify",
            "format_version": 1,
            "ok": self.exit_code == OK,
            "targets": [verdict.as_json() for verdict in self.verdicts],
        }


def verify(
    project: Project,
    targets: tuple[Target, ...],
    *,
    jobs: int = 1,
    strict: bool = False,
    on_progress: OnProgress = lambda target, phase: None,
) -> VerifyReport:
    """Verify the artifacts of `targets`, `jobs` at a time. A failed artifact never ends the run.

    Raises `Interrupted` on Ctrl-C, after every worker has ended.
    """
    allow_starts()
    digests = StatCache(stat_cache_path(project))
    with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="verify") as pool:
        futures = [pool.submit(_verify_target, project, target, digests, on_progress) for target in targets]
        try:
            verdicts = tuple(future.result() for future in futures)
        except KeyboardInterrupt:
            stop_all()
            pool.shutdown(cancel_futures=True)
            raise Interrupted("interrupted") from None
    return VerifyReport(verdicts, strict)


def fit_artifact(project: Project, target: Target) -> Manifest:
    """The target's manifest, once it is certain that loading the artifact is safe: digests and host were checked.

    Raises:
        VerificationError: there is no artifact.
        ArtifactError: it is damaged, not what its manifest says, or unfit for this host.
    """
    directory = artifact_directory(project, target)
    manifest = read_manifest(directory)
    again = f"invoke build --target {target.name}"
    if isinstance(manifest, NoManifest):
        if not manifest.damaged:
            raise VerificationError("there is no artifact", target=target.name, hint=f"build it first: {again}")
        raise ArtifactError(
            f"the artifact is damaged: {manifest.why}", target=target.name, where=_shown(project, directory), hint=again
        )
    if manifest.target != target.name:
        raise ArtifactError(f"the artifact is {manifest.target}'s", target=target.name, hint=again)
    for name, record in manifest.files.items():
        if _digest(directory / name) != record.sha256:
            raise ArtifactError(
                f"{name} is not what the manifest says",
                target=target.name,
                where=_shown(project, directory / name),
                cause="truncated, altered or missing since it was published",
                hint=f"restore the file, or {again}",
            )
    if lacks := host.lacking(manifest.requires):
        raise ArtifactError(
            "the artifact cannot run on this host",
            target=target.name,
            cause="\n".join(lacks),
            hint="build it here, or for a portable floor such as `cpu: {isa: avx2}`",
        )
    return manifest


def _verify_target(project: Project, target: Target, digests: StatCache, on_progress: OnProgress) -> Verdict:
    if not toolchain.has_device(target.device):
        return Verdict(target, UNAVAILABLE, (Reason("no-device", target.device),))
    try:
        manifest = fit_artifact(project, target)
    except VerificationError as error:
        return Verdict(target, MISSING, error=error)
    except ArtifactError as error:
        return Verdict(target, REFUSED, error=error)
    step = plan_target(project, target, digests, Store(store_root(project)))
    verdict = _checked(project, target, manifest, step.reasons if step.action != "recheck" else (), on_progress)
    document = {"format": "aoti-build/verdict", "format_version": 1, "key": manifest.key, **verdict.as_json()}
    with contextlib.suppress(OSError):  # a serving host's artifacts may be read-only
        write_json(artifact_directory(project, target) / VERIFY, document)
    return verdict


def _checked(
    project: Project, target: Target, manifest: Manifest, stale: tuple[Reason, ...], on_progress: OnProgress
) -> Verdict:
    try:
        with tempfile.TemporaryDirectory(prefix="aoti_build-") as directory:
            result = check_package(
                project,
                target,
                artifact_directory(project, target),
                manifest.signature,
                directory=Path(directory),
                log=reader_log_path(project, target, "verify"),
                on_phase=lambda phase: on_progress(target, phase),
            )
    except WorkerCrash as error:
        error.target = target.name
        return Verdict(target, CRASHED, stale, error=error)
    except Interrupted:
        raise
    except AotiBuildError as error:
        error.target = target.name
        return Verdict(target, REFUSED if isinstance(error, ArtifactError) else CRASHED, stale, error=error)
    seconds = round(sum(result["seconds"].values()), 3)
    verdict = PASSED if result["passed"] else MISMATCH
    return Verdict(target, verdict, stale, tuple(result["cases"]), seconds)


def _digest(path: Path) -> str | None:
    try:
        return digest_file(path)
    except OSError:
        return None


def _shown(project: Project, path: Path) -> str:
    return path.relative_to(project.root).as_posix()
