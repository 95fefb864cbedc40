"""The tasks that load artifacts and compare them."""

from __future__ import annotations

from pathlib import Path

from invoke import Context

from aoti_build.errors import UsageError
from aoti_build.tasks.answer import contract, finish, progress, show, write_reports
from aoti_build.tasks.options import (
    documented_task,
    read_given,
    read_integer,
    read_list,
    require_choice,
)
from aoti_build.tasks.project import project_of


@documented_task
def verify(
    context: Context,
    target: str = "",
    file: str = "",
    root: str = "",
    artifacts: str = "",
    json: bool = False,
    jobs: str = "",
    strict: bool = False,
    fresh: bool = False,
    seeds: str = "",
    timeout: str = "",
    localize: bool = False,
    repro: str = "",
    runtime: str = "",
    cuda_graphs: bool = False,
    release: str | None = None,
    public_key: list[str] | None = None,
    revoked: str | None = None,
    identity: str | None = None,
    identity_provider: str | None = None,
    trusted_root: str | None = None,
    min_version: str | None = None,
    unsigned: bool = False,
    junit: str = "",
    html: str = "",
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Compare artifacts with eager mode, each in a fresh process.

    The comparison covers the whole range of sizes. Each artifact must also
    refuse invalid inputs. A release needs neither models.yaml nor sources.
    """
    with contract(json, debug):
        from aoti_build.common.outputs import check_output

        runtime = _runtime(runtime, cuda_graphs)
        # A verification takes long, so a file that cannot be written is refused before it.
        for path in (junit, html):
            if path:
                check_output(Path(path))
        from aoti_build.commands.verify_release.options import VerifyReleaseOptions
        from aoti_build.tasks import receiving

        # The value of a variable that is not set must not mean the project's own artifacts.
        bundle = read_given("--release", release, "name the directory of a release")
        received = VerifyReleaseOptions(
            directory=Path(bundle),
            keys=tuple(public_key or ()),
            revoked=revoked,
            identity=identity,
            identity_provider=identity_provider,
            trusted_root=trusted_root,
            unsigned=unsigned,
            min_version=min_version,
            pattern=target,
            strict=strict,
            limit=float(read_integer("--timeout", timeout) or 600),
            runtime=runtime,
        )
        if bundle:
            receiving.refuse_with_release(
                {
                    "--file": file,
                    "--root": root,
                    "--artifacts": artifacts,
                    "--jobs": jobs,
                    "--fresh": fresh,
                    "--seeds": seeds,
                    "--localize": localize,
                    "--repro": repro,
                }
            )
            receiving.verify_received(received, junit=junit, html=html, json=json, quiet=quiet)
            return
        receiving.refuse_without_release(received)
        from aoti_build.commands.verify import command
        from aoti_build.report.verify_text import verify_lines

        project, targets = project_of(context, file, target, root, artifacts)
        report = command.verify(
            project,
            targets,
            jobs=read_integer("--jobs", jobs) or 1,
            strict=strict,
            fresh=fresh,
            seeds=read_integer("--seeds", seeds) or 1,
            limit=float(read_integer("--timeout", timeout) or command.TIME_LIMIT),
            localize=localize,
            repro=Path(repro).absolute() if repro else None,
            runtime=runtime,
            on_progress=progress(targets, quiet),
        )
        write_reports(report, junit, html)
        show(report, verify_lines(report), json)
        finish(report.error)


def _runtime(runtime: str, cuda_graphs: bool) -> str:
    """What calls the packages, by the options --runtime and --cuda-graphs."""
    from aoti_build.commands.verify.report import CUDA_GRAPHS, PYTHON, RUNTIMES

    runtime = runtime or PYTHON
    require_choice("--runtime", runtime, RUNTIMES)
    if not cuda_graphs:
        return runtime
    if runtime != PYTHON:
        raise UsageError("--cuda-graphs and --runtime exclude each other")
    return CUDA_GRAPHS


@documented_task
def run(
    context: Context,
    target: str = "",
    input: str = "",
    output: str = "",
    repeat: str = "",
    seed: str = "",
    cuda_graphs: bool = False,
    file: str = "",
    root: str = "",
    artifacts: str = "",
    release: str | None = None,
    public_key: list[str] | None = None,
    revoked: str | None = None,
    identity: str | None = None,
    identity_provider: str | None = None,
    trusted_root: str | None = None,
    min_version: str | None = None,
    unsigned: bool = False,
    json: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Run artifacts, then check, time and save their outputs.

    The inputs are the reference data, random ones, or files of tensors or
    images. A release needs neither models.yaml nor sources.
    """
    with contract(json, debug):
        from aoti_build.commands.run.inputs import REPEAT, SEED

        inputs = read_list("--input", input)
        repeat_count = read_integer("--repeat", repeat) or REPEAT
        seed_number = read_integer("--seed", seed, least=0)
        if seed_number is None:  # 0 is a seed
            seed_number = SEED
        from aoti_build.commands.received.options import ReceiverOptions
        from aoti_build.tasks import receiving

        # As above: an empty value must not mean the project's own artifacts.
        bundle = read_given("--release", release, "name the directory of a release")
        received = ReceiverOptions(
            directory=Path(bundle),
            keys=tuple(public_key or ()),
            revoked=revoked,
            identity=identity,
            identity_provider=identity_provider,
            trusted_root=trusted_root,
            unsigned=unsigned,
            min_version=min_version,
            pattern=target,
        )
        if bundle:
            receiving.refuse_with_release(
                {"--file": file, "--root": root, "--artifacts": artifacts}
            )
            receiving.run_received(
                received,
                inputs=inputs,
                output=output,
                seed=seed_number,
                repeat=repeat_count,
                cuda_graphs=cuda_graphs,
                json=json,
                quiet=quiet,
            )
            return
        receiving.refuse_without_release(received)
        from aoti_build.commands.run.command import run as command
        from aoti_build.report.run_text import run_lines

        project, targets = project_of(context, file, target, root, artifacts)
        report = command(
            project,
            targets,
            inputs=inputs,
            output=output,
            seed=seed_number,
            repeat=repeat_count,
            cuda_graphs=cuda_graphs,
            on_progress=progress(targets, quiet),
        )
        show(report, run_lines(report), json)
        finish(report.error)
