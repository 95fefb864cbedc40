"""The keys of an exported graph: what its compiled code depends on, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch.export import ExportedProgram

from aoti_build._torch.compiling.isa import architecture_settings
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
from aoti_build.host.toolchain import ENVIRONMENT_OF_SOURCES
from aoti_build.messages import BuildJob, Recorded


class Keys(NamedTuple):
    """The artifact key, the graph key, and why the graph has no digest, if it has none."""

    key: str
    graph_key: str
    undigested: str | None


def _own_code(program: ExportedProgram, used: Mapping[str, Recorded]) -> Mapping[str, Any]:
    """The code beside torch's that the compile may run, by what it is known by."""
    library = library_code(used["distributions"])
    if uses_own_code(program) or own_passes() or library is None:
        return used
    return library


def keys_of(
    program: ExportedProgram,
    options: Mapping[str, Any],
    job: BuildJob,
    used: Mapping[str, Recorded],
) -> Keys:
    """The graph key (what compiled code depends on) and the artifact key (that and the weights).

    `used` are the files and distributions: they count where the graph only names code of theirs,
    and where there is no digest of the graph.
    """
    own_code = _own_code(program, used)
    environment = {
        name: value for name, value in job.environment.items() if name not in ENVIRONMENT_OF_SOURCES
    }
    undigested = None
    try:
        graph: Any = graph_digest(program)
    except UnknownPart as unknown:
        # The same sources make the same graph. Among them are the weights: no other weights share
        # this code.
        graph = {"spec": spec_parts(job.target), **used}
        undigested = f"the graph has no digest, since it has {unknown}"
    graph_key = digest_json(
        {
            "key_version": KEY_VERSION,
            "graph": graph,
            "settings": {
                **resolved_settings(options),
                **architecture_settings(job.architecture_options),
            },
            "own_code": own_code,
            "toolchain": job.toolchain,
            "environment": environment,
        }
    )
    key = digest_json({"graph_key": graph_key, "weights": state_digest(program)})
    return Keys(key, graph_key, undigested)
