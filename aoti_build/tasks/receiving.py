"""`verify --release` and `run --release`, which take a bundle and no project."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aoti_build.errors import UsageError
from aoti_build.tasks.answer import finish, progress, show, write_reports

if TYPE_CHECKING:
    from aoti_build.commands.received.options import ReceiverOptions
    from aoti_build.commands.verify_release.options import VerifyReleaseOptions

# Fields of `ReceiverOptions` that say what a release must be, with their options.
_OF_RELEASES: Mapping[str, str] = {
    "keys": "--public-key",
    "revoked": "--revoked",
    "identity": "--identity",
    "identity_provider": "--identity-provider",
    "trusted_root": "--trusted-root",
    "min_version": "--min-version",
    "unsigned": "--unsigned",
}


def verify_received(
    options: VerifyReleaseOptions, *, junit: str, html: str, json: bool, quiet: bool
) -> None:
    """Verify a bundle, show the report, and end the task."""
    for option, file in (("--junit", junit), ("--html", html)):
        _require_outside(options.directory, option, file)
    from aoti_build.commands.verify_release.command import verify_release
    from aoti_build.report.release_verification_text import release_verification_lines

    report = verify_release(options, on_progress=progress((), quiet))
    write_reports(report.compared, junit, html)
    show(report, release_verification_lines(report), json)
    finish(report.error)


def run_received(
    options: ReceiverOptions,
    *,
    inputs: Sequence[str],
    output: str,
    seed: int,
    repeat: int,
    cuda_graphs: bool,
    json: bool,
    quiet: bool,
) -> None:
    """Run the packages of a bundle, show the report, and end the task."""
    from aoti_build.commands.run.release import run_release
    from aoti_build.report.run_text import run_lines

    report = run_release(
        options,
        inputs=inputs,
        output=output,
        seed=seed,
        repeat=repeat,
        cuda_graphs=cuda_graphs,
        on_progress=progress((), quiet),
    )
    show(report, run_lines(report), json)
    finish(report.error)


def _require_outside(release: Path, option: str, file: str) -> None:
    """Raise `UsageError` for a report in the release, which would be a file that nobody signed."""
    if file and Path(os.path.realpath(file)).is_relative_to(os.path.realpath(release)):
        raise UsageError(
            f"{option} {file} lies in the release, which must not change",
            hint="name a file outside of it",
        )


def refuse_with_release(given: Mapping[str, object]) -> None:
    """Raise `UsageError` for options that need sources or models.yaml."""
    for option, value in given.items():
        if value:
            raise UsageError(
                f"--release and {option} exclude each other",
                cause="a release is used without sources and without models.yaml",
                hint=f"omit {option}",
            )


def refuse_without_release(options: ReceiverOptions) -> None:
    """Raise `UsageError` for options that only a release has."""
    for field, option in _OF_RELEASES.items():
        if getattr(options, field) not in (None, (), False):
            raise UsageError(
                f"{option} is for releases",
                hint=f"name the directory of the release: --release DIR {option}",
            )
