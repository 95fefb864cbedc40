"""The compile of an exported program into a package, with a private cache of inductor."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from torch.export import ExportedProgram

from aoti_build._torch.compiling.isa import WIDTH, Options, compiling_for, tried_once
from aoti_build._torch.compiling.keys import Keys
from aoti_build._torch.compiling.settings import binds_weights, switches
from aoti_build._torch.compiling.stages import first_error, followed
from aoti_build._torch.events import Events
from aoti_build._torch.packages.weights import separate, shareable_members, used_state
from aoti_build.artifact.manifest import KEY_METADATA, MODEL
from aoti_build.common.digests import digest_json
from aoti_build.common.locks import lock
from aoti_build.errors import BuildError
from aoti_build.messages import BuildJob, WeightsRecord

_MAX_CAUSE_CHARACTERS = 2000


def compile_package(
    program: ExportedProgram,
    options: Options,
    job: BuildJob,
    keys: Keys,
    events: Events,
) -> WeightsRecord:
    """Compile into the staging directory. Returns whether the package's weights can be exchanged
    later."""
    package, cache_root = Path(job.staged) / MODEL, Path(job.cache_root)
    # Before the compile, which changes the program in place.
    state, constants = dict(program.state_dict), dict(program.constants)
    used = used_state(program)
    with contextlib.ExitStack() as stack:
        stack.enter_context(events.phase("compile"))
        cache = stack.enter_context(_private_cache(cache_root, keys.graph_key, events))
        if job.target.hardware.has_kernels:
            # This module imports Triton, which hosts without a GPU need not have.
            from aoti_build._torch.compiling.kernels import kept_tuning

            stack.enter_context(kept_tuning(cache, switches()))
        # For an architecture nothing is tested, and with `cpp.cxx` by another compiler than that of
        # the toolchain's digest.
        if WIDTH not in job.architecture_options and "cpp.cxx" not in options:
            events.stage("instructions")
            toolchain = digest_json([job.toolchain, job.environment])
            stack.enter_context(tried_once(toolchain, cache_root))
        architecture = compiling_for(job.architecture_options, options, cache_root)
        all_options = dict(stack.enter_context(architecture))
        all_options["aot_inductor.metadata"] = {KEY_METADATA: keys.key}
        _compile(program, package, all_options, events)
    reason = _why_embedded(options, keys)
    if reason is not None:
        return {"external": False, "why": reason}
    return separate(package, state, constants, used)


def _why_embedded(options: Options, keys: Keys) -> str | None:
    """Why other weights must not be put into the package; None if nothing forbids it."""
    setting = binds_weights(options)
    if setting:
        return f"inductor's {setting} is on"
    return keys.undigested


@contextlib.contextmanager
def _private_cache(cache_root: Path, graph_key: str, events: Events) -> Iterator[Path]:
    """An empty inductor cache of this job's own, at a path that follows from the key.

    It is private because inductor names its files by the graph's code alone: of two models with
    equal graphs and different weights, one would get the weights of the other. The path follows
    from the key because the shared library contains it.
    """
    cache = cache_root / graph_key[:32]
    with contextlib.ExitStack() as stack:
        with events.waiting("the inductor cache of this graph"):
            stack.enter_context(lock(cache_root / f"{graph_key[:32]}.lock"))
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
        try:
            yield cache
        finally:
            shutil.rmtree(cache, ignore_errors=True)


def _compile(program: ExportedProgram, path: Path, options: Options, events: Events) -> None:
    # `followed` replaces functions of the modules that this imports.
    import torch._inductor.compile_fx

    try:
        with shareable_members(), followed(events):
            torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(path),
                inductor_configs=dict(options),
            )
    except Exception as error:  # inductor, Triton and the C++ compiler each have their own types
        text = str(error).strip()
        message = "inductor could not compile the exported program"
        complaint = first_error(text)
        raise BuildError(
            f"{message}: {complaint}" if complaint else message,
            cause=f"{type(error).__name__}: {text[:_MAX_CAUSE_CHARACTERS]}",
            hint="the log has the compiler's whole output",
        ) from error
