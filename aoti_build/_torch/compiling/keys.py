"""The keys of an exported graph: everything its compiled code depends on, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch.export import ExportedProgram

from aoti_build._torch.compiling.isa import Options, architecture_settings
from aoti_build._torch.compiling.settings import own_passes, resolved_settings
from aoti_build._torch.program.graph import (
    graph_digest,
    library_code,
    state_digest,
    uses_own_code,
)
from aoti_build._torch.program.walk import UnknownPart
from aoti_build.artifact.fingerprint import KEY_VERSION, spec_parts
from aoti_build.common.digests import digest_json
from aoti_build.messages import BuildJob, Recorded


class Keys(NamedTuple):
    """The artifact key, the graph key, and why the graph has no digest, if it has none."""

    key: str
    graph_key: str
    undigested: str | None


def keys_of(
    program: ExportedProgram,
    options: Options,
    job: BuildJob,
    used: Mapping[str, Recorded],
) -> Keys:
    """The graph key, of everything compiled code depends on, and the artifact key, of that and the
    weights.

    `used` are the recorded files and distributions. They count where the graph only names code in
    them, and where the graph has no digest.
    """
    graph, undigested = _graph(program, job, used)
    settings = {
        **resolved_settings(options),
        **architecture_settings(job.architecture_options),
    }
    graph_key = digest_json(
        {
            "key_version": KEY_VERSION,
            "graph": graph,
            "settings": settings,
            "own_code": _own_code(program, used),
            "toolchain": job.toolchain,
            "environment": job.environment,
        }
    )
    key = digest_json({"graph_key": graph_key, "weights": state_digest(program)})
    return Keys(key, graph_key, undigested)


def _graph(
    program: ExportedProgram,
    job: BuildJob,
    used: Mapping[str, Recorded],
) -> tuple[Any, str | None]:
    """What identifies the graph in the key, and why it has no digest, if it has none."""
    try:
        return graph_digest(program), None
    except UnknownPart as unknown:
        # The same sources make the same graph. The files of weights are among them, so different
        # weights do not share this code.
        sources = {"spec": spec_parts(job.target), **used}
        return sources, f"the graph has no digest, since it has {unknown}"


def _own_code(program: ExportedProgram, used: Mapping[str, Recorded]) -> Mapping[str, Any]:
    """The identities of code outside torch that the compile may run."""
    library = library_code(used["distributions"])
    if library is None or uses_own_code(program) or own_passes():
        return used
    return library
