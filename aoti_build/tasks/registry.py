"""The tasks that exchange releases with registries. They need no models.yaml."""

from __future__ import annotations

from invoke import Context

from aoti_build.errors import UsageError
from aoti_build.tasks.answer import contract, lines_on_stderr, show
from aoti_build.tasks.options import documented_task, read_given, read_list


@documented_task
def release_push(
    context: Context,
    directory: str,
    address: str,
    replace: bool = False,
    insecure: bool = False,
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Upload a release to a registry, as an OCI artifact.

    Files that are there already are not uploaded again.
    """
    with contract(json, debug):
        from aoti_build.commands.release.push import push
        from aoti_build.report.registry_text import push_lines

        report = push(
            directory,
            address,
            insecure=insecure,
            replace=replace,
            on_line=lines_on_stderr(quiet),
        )
        show(report, push_lines(report), json)


@documented_task
def release_pull(
    context: Context,
    address: str,
    out: str = "",
    public_key: str | None = None,
    revoked: str | None = None,
    min_version: str | None = None,
    insecure: bool = False,
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Download a release from a registry, whole or not at all.

    Every file is compared with its digest, and with a signature if asked.
    """
    with contract(json, debug):
        from aoti_build.commands.release.pull import pull
        from aoti_build.report.registry_text import pull_lines

        if not out:
            raise UsageError(
                "a pull needs a new directory",
                hint="`invoke release-pull ADDRESS --out DIR`",
            )
        hint = "name a PEM file with the public key of whoever signs releases"
        keys = read_given("--public-key", public_key, hint)
        report = pull(
            address,
            out,
            public_keys=read_list("--public-key", keys),
            revoked=revoked,
            min_version=min_version,
            insecure=insecure,
            on_line=lines_on_stderr(quiet),
        )
        show(report, pull_lines(report), json)
