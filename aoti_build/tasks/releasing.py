"""The tasks that make releases and compare them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from invoke import Context

from aoti_build.errors import UsageError
from aoti_build.models_file import check_files
from aoti_build.tasks.answer import (
    contract,
    display,
    finish,
    lines_on_stderr,
    progress,
    show,
    write_stdout,
)
from aoti_build.tasks.options import (
    documented_task,
    read_base,
    read_given,
    read_integer,
    read_list,
)
from aoti_build.tasks.project import project_of

if TYPE_CHECKING:
    from aoti_build.commands.release_diff.opened import RunOptions
    from aoti_build.commands.release_diff.report import ReleaseDiff

_STDOUT = "-"


@documented_task
def release(
    context: Context,
    version: str = "",
    out: str = "",
    target: str = "",
    sign: str | None = None,
    sign_passphrase: str = "",
    sign_certificates: str = "",
    sign_sigstore: bool = False,
    identity_token_file: str = "",
    trust_config: str = "",
    previous: str | None = None,
    allow_dirty: bool = False,
    archive: str | None = None,
    against: str | None = None,
    fail_if: str = "",
    push: str | None = None,
    insecure: bool = False,
    file: str = "",
    root: str = "",
    artifacts: str = "",
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Build and verify strictly, then write a bundle.

    The bundle appears whole or not at all.
    """
    with contract(json, debug):
        from aoti_build.commands.release import command
        from aoti_build.report.release_page import release_page
        from aoti_build.report.release_text import release_lines

        if not version or not out:
            raise UsageError(
                "a release needs a version and a directory",
                hint="`invoke release --version 1.4.0 --out DIR`",
            )
        project, targets = project_of(context, file, target, root, artifacts)
        check_files(project, targets)
        options = command.ReleaseOptions(
            version=version,
            directory=out,
            sign=read_given("--sign", sign, "give it the file of a private key"),
            passphrase=sign_passphrase,
            certificates=tuple(read_list("--sign-certificates", sign_certificates)),
            sign_sigstore=sign_sigstore,
            token_file=identity_token_file,
            trust_config=trust_config,
            previous=read_given("--previous", previous, "give it an earlier release"),
            allow_dirty=allow_dirty,
            archive=read_given("--archive", archive, "give it the name of a file"),
            against=read_base(against),
            fail_if=fail_if,
            push=read_given("--push", push, "give it an address such as oci://HOST/NAME:TAG"),
            insecure=insecure,
        )
        with display(quiet) as watch:
            report = command.release(
                project,
                targets,
                options,
                on_progress=progress(targets, quiet),
                watch=watch,
                page=release_page,
                on_line=lines_on_stderr(quiet),
            )
        show(report, release_lines(report), json)
        finish(report.error)


@documented_task
def release_diff(
    context: Context,
    old: str,
    new: str,
    fail_if: str | None = None,
    strict: bool = False,
    markdown: str = "",
    run: bool = False,
    public_key: list[str] | None = None,
    revoked: str | None = None,
    unsigned: bool = False,
    timeout: str = "",
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Compare two releases, and fail above limits.

    Nothing is loaded and no signature is verified, except with --run.
    """
    with contract(json, debug):
        from aoti_build.commands.release_diff.command import release_diff as command
        from aoti_build.commands.release_diff.limits import parse_policy
        from aoti_build.common.outputs import check_output
        from aoti_build.report.release_diff_text import release_diff_lines

        if json and markdown == _STDOUT:
            raise UsageError(
                "--json and --markdown - both print on stdout",
                hint="name a file with --markdown",
            )
        if markdown and markdown != _STDOUT:
            check_output(Path(markdown))
        options = _run_options(run, public_key, revoked, unsigned, timeout)
        limits = read_given("--fail-if", fail_if, "give it limits such as size>1.1,drift>1e-3")
        diff = command(
            old,
            new,
            parse_policy(limits, strict=strict),
            run=options,
            on_progress=progress((), quiet),
        )
        written = _write_markdown(diff, markdown)
        # A program that reads the Markdown wants nothing else.
        if markdown != _STDOUT:
            done = replace(diff, written=written)
            show(done, release_diff_lines(done), json)
        finish(diff.error)


def _run_options(
    run: bool, public_key: list[str] | None, revoked: str | None, unsigned: bool, timeout: str
) -> RunOptions | None:
    """The options of ``--run``; None without it. Raises `UsageError` for one that is about it."""
    given = {
        "--public-key": public_key,
        "--revoked": revoked,
        "--unsigned": unsigned,
        "--timeout": timeout or None,
    }
    if not run:
        for option, value in given.items():
            if value not in (None, [], False):
                raise UsageError(
                    f"{option} is for --run",
                    cause="without it nothing is loaded, and no signature is verified",
                    hint=f"call the packages: --run {option}",
                )
        return None
    from aoti_build.commands.release_diff.opened import RunOptions

    return RunOptions(
        keys=tuple(public_key or ()),
        revoked=revoked,
        unsigned=unsigned,
        limit=float(read_integer("--timeout", timeout) or 600),
    )


def _write_markdown(diff: ReleaseDiff, file: str) -> tuple[str, ...]:
    """Write the Markdown to a file or to stdout. Returns the files that were written."""
    from aoti_build.common.outputs import write_output
    from aoti_build.report.release_diff_markdown import release_diff_markdown

    if not file:
        return ()
    text = release_diff_markdown(diff)
    if file == _STDOUT:
        write_stdout(text)
        return ()
    write_output(Path(file).absolute(), text.encode(errors="backslashreplace"))
    return (file,)
