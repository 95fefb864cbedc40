"""`release`: builds and verifies targets strictly, then writes them and the evidence as a bundle.

The bundle appears whole or not at all. It is written into a staging directory beside its final
place, and renamed at the end. Nothing in it depends on when or where it was written, but on the
artifacts, the version, the commit and SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aoti_build.artifact.bundle import layout
from aoti_build.artifact.manifest import Manifest
from aoti_build.commands.build import build, plan
from aoti_build.commands.export import Exported, ExportReport, copy_fit, fitness
from aoti_build.commands.release.bundle import (
    Origin,
    Signer,
    add_findings,
    bundle_size,
    write_evidence,
    write_signature,
)
from aoti_build.commands.release.checks import (
    checked_source,
    new_path,
    origin_of,
    read_previous,
    require_newer,
)
from aoti_build.commands.release.parts import Gate, Page, bench_gate, keyless_signer, signer
from aoti_build.commands.release.push import OnLine, push, push_target, require_access
from aoti_build.commands.release.report import (
    ArchiveFile,
    Released,
    ReleaseReport,
    next_push,
)
from aoti_build.commands.release.target import ReleasedArtifact
from aoti_build.commands.verify.command import verify
from aoti_build.commands.verify.report import Verdict, VerifyReport
from aoti_build.common.archives import require_archive_name, staged_archive
from aoti_build.common.digests import digest_file
from aoti_build.common.publication import publish_new_directory, staging
from aoti_build.common.writing import fsync
from aoti_build.errors import AotiBuildError, Interrupted, OutOfDateError, UsageError
from aoti_build.models_file.project import Project, Target
from aoti_build.planning.plan import Step
from aoti_build.work.processes import allow_starts

if TYPE_CHECKING:
    from aoti_build.work.watch import Watcher

OnProgress = Callable[[Target, str], None]


@dataclass(frozen=True)
class ReleaseOptions:
    """The options of `release`. Empty texts are options that are not set.

    Attributes:
        version: of the release; see `bundle.versions`.
        directory: the bundle, which must not exist.
        sign: the file of a private key.
        passphrase: the environment variable with the passphrase of that key.
        certificates: PEM files, the first with the signer's certificate.
        sign_sigstore: sign with Sigstore, without a key.
        token_file: the file with the identity token for that.
        trust_config: the file with the configuration of a Sigstore instance.
        previous: the bundle of the release before, or its `release.json`.
        allow_dirty: release also what no commit has.
        archive: a file that ends in ``.tar.zst`` or ``.tar.gz``.
        against: what to compare the speed with.
        fail_if: when that comparison ends the release.
        push: the address in a registry to which the bundle is uploaded too.
        insecure: ask that registry over http.
    """

    version: str
    directory: str
    sign: str = ""
    passphrase: str = ""
    certificates: tuple[str, ...] = ()
    sign_sigstore: bool = False
    token_file: str = ""
    trust_config: str = ""
    previous: str = ""
    allow_dirty: bool = False
    archive: str = ""
    against: str = ""
    fail_if: str = ""
    push: str = ""
    insecure: bool = False


@dataclass(frozen=True)
class _Plan:
    """What is known before the build."""

    final: Path
    archive: Path | None
    origin: Origin
    sign: Signer | None
    gate: Gate | None


def release(
    project: Project,
    targets: tuple[Target, ...],
    options: ReleaseOptions,
    *,
    on_progress: OnProgress = lambda target, phase: None,
    watch: Callable[[], Watcher] | None = None,
    page: Page | None = None,
    on_line: OnLine = lambda line: None,
) -> ReleaseReport:
    """Release `targets`. What keeps a release from being made is in the report.

    `page` makes the content of `report.html`. Without it the bundle has no such file. `on_line`
    receives the progress of an upload.

    Raises:
        UsageError: an option is wrong, the bundle is there already, or the project is not as a
            commit has it, or a registry refuses access. Nothing was released.
        ArtifactError: ``--previous`` is no release.
        ToolchainError: the host cannot build or verify.
        Interrupted: Ctrl-C was pressed. Nothing was released.
    """
    # An interrupted command in the same process has forbidden new workers and copies.
    allow_starts()
    prepared = _prepare(project, options, on_line)
    built = build(project, targets, strict=True, watch=watch)
    report = ReleaseReport(options.directory, options.version, built)
    if built.error is not None:
        return report
    verified = verify(project, targets, strict=True, on_progress=on_progress)
    report = replace(report, verify=verified)
    if verified.error is not None:
        return report
    if prepared.gate is not None:
        report = replace(report, gate=prepared.gate(project, targets))
        if report.error is not None:
            return report
    steps = plan(project, targets, quick=False).steps
    refused = _refusal(options, fitness(project, steps))
    if refused is not None:
        return replace(report, refused=refused)
    writer = _Writer(project, options, prepared, steps, verified, page)
    try:
        report = writer.write(report)
    except OSError as error:
        raise UsageError(
            f"{options.directory} cannot be written",
            cause=error.strerror or str(error),
            hint="name another directory with --out",
        ) from error
    if options.push and report.error is None:
        return _pushed(report, options, on_line)
    return report


def _pushed(report: ReleaseReport, options: ReleaseOptions, on_line: OnLine) -> ReleaseReport:
    """Push the bundle that was written. It stays if that fails."""
    try:
        pushed = push(
            options.directory,
            options.push,
            insecure=options.insecure,
            on_line=on_line,
        )
    except (KeyboardInterrupt, Interrupted) as error:
        raise Interrupted(
            "interrupted; the release was written and not pushed",
            where=options.directory,
            hint=next_push(_push_again(options)),
        ) from error
    except AotiBuildError as error:
        return replace(report, unpushed=error, push_again=_push_again(options))
    return replace(report, push=pushed)


def _push_again(options: ReleaseOptions) -> str:
    flag = " --insecure" if options.insecure else ""
    return f"invoke release-push {shlex.quote(options.directory)} {options.push}{flag}"


def _prepare(project: Project, options: ReleaseOptions, on_line: OnLine) -> _Plan:
    """Check all that can be checked before a build, which may take long."""
    previous = read_previous(options.previous)
    require_newer(options.version, previous)
    final = new_path(project, "--out DIR", options.directory)
    archive = None
    if options.archive:
        require_archive_name(options.archive)
        archive = new_path(project, "--archive FILE", options.archive)
        if archive.is_relative_to(final):
            raise UsageError("--archive lies in --out", hint="name a file outside of the bundle")
    if options.push:
        require_access(push_target(options.push), insecure=options.insecure)
    elif options.insecure:
        raise UsageError(
            "--insecure is for the registry of --push",
            hint="name one with --push ADDRESS, or omit --insecure",
        )
    return _Plan(
        final=final,
        archive=archive,
        origin=origin_of(project, options.version, previous, allow_dirty=options.allow_dirty),
        sign=_signer(options, on_line),
        gate=bench_gate(options.against, options.fail_if),
    )


def _signer(options: ReleaseOptions, on_line: OnLine) -> Signer | None:
    if not options.sign_sigstore:
        if options.token_file or options.trust_config:
            raise UsageError(
                "there is an option of Sigstore, and no --sign-sigstore",
                hint="add --sign-sigstore, or omit --identity-token-file and --trust-config",
            )
        return signer(options.sign, options.passphrase, options.certificates)
    if options.sign or options.passphrase or options.certificates:
        raise UsageError(
            "--sign and --sign-sigstore exclude each other",
            cause="a release has one signature",
            hint="omit --sign-sigstore, or --sign with its options",
        )
    return keyless_signer(options.token_file, options.trust_config, on_line)


def _refusal(options: ReleaseOptions, rows: list[Exported]) -> AotiBuildError | None:
    return ExportReport(options.directory, tuple(rows)).error


@dataclass(frozen=True)
class _Writer:
    """Writes the bundle of artifacts that are fit."""

    project: Project
    options: ReleaseOptions
    prepared: _Plan
    steps: tuple[Step, ...]
    verified: VerifyReport
    page: Page | None

    def write(self, report: ReleaseReport) -> ReleaseReport:
        """Write and publish the bundle. Raises OSError, and as `release`."""
        final = self.prepared.final
        with staging(final.parent, f".{final.name}.") as parent:
            # A signature names the directory that it was made in, which must not be a random name.
            staged = parent / self._name()
            staged.mkdir()
            rows = [copy_fit(self.project, step, staged / layout.MODELS) for step in self.steps]
            refused = _refusal(self.options, rows)
            if refused is not None:
                return replace(report, refused=refused)
            artifacts = self._artifacts(staged)
            released = self._write_evidence(staged, artifacts)
            released = self._publish(staged, released)
        return replace(report, released=released)

    def _name(self) -> str:
        """The name of the release, as that of a directory."""
        origin = self.prepared.origin
        return f"{origin.name}-{origin.version}"

    def _artifacts(self, staged: Path) -> list[ReleasedArtifact]:
        """The copied artifacts, with what was found out about each."""
        verdicts = {verdict.target.name: verdict for verdict in self.verified.verdicts}
        artifacts = []
        for step in self.steps:
            manifest, target = step.manifest, step.target
            assert isinstance(manifest, Manifest)  # `fitness` refuses a step without one
            verdict = verdicts[target.name]
            _require_verified(verdict, manifest)
            bench = add_findings(self.project, target, verdict, manifest.key, staged)
            artifacts.append(ReleasedArtifact(manifest, verdict, bench))
        return artifacts

    def _write_evidence(self, staged: Path, artifacts: list[ReleasedArtifact]) -> Released:
        manifests = [artifact.manifest for artifact in artifacts]
        origin = checked_source(
            self.project,
            self.prepared.origin,
            manifests,
            allow_dirty=self.options.allow_dirty,
        )
        page = None
        if self.page is not None:
            targets = [step.target for step in self.steps]
            page = self.page(self.project, targets, origin.created)
        record = write_evidence(staged, artifacts, origin, page)
        if self.prepared.sign is not None:
            write_signature(staged, self.prepared.sign)
        return Released(
            record=record,
            sha256=digest_file(staged / layout.RELEASE),
            size=bundle_size(staged),
            signed=self.prepared.sign is not None,
        )

    def _publish(self, staged: Path, released: Released) -> Released:
        """Give the bundle its name, and then the archive, whose content is complete before that."""
        archive = self.prepared.archive
        with contextlib.ExitStack() as resources:
            staged_file = None
            if archive is not None:
                seconds = self.prepared.origin.seconds
                staged_file = resources.enter_context(
                    staged_archive(staged, archive, self._name(), seconds)
                )
                released = replace(
                    released,
                    archive=ArchiveFile(
                        path=self.options.archive,
                        sha256=digest_file(staged_file),
                        size=staged_file.stat().st_size,
                    ),
                )
            publish_new_directory(staged, self.prepared.final, umask=layout.UMASK)
            if archive is not None and staged_file is not None:
                os.rename(staged_file, archive)
                fsync(archive.parent)
        return released


def _require_verified(verdict: Verdict, manifest: Manifest) -> None:
    """Raise `OutOfDateError` unless the copied package is the one that was verified."""
    packages = manifest.files.values()
    if verdict.package is None or verdict.package not in packages:
        raise OutOfDateError(
            "another artifact took its place after it was verified",
            target=manifest.target,
            hint="run `invoke release` again",
        )
