"""The manifest of an artifact that was just built."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from aoti_build.artifact.fingerprint import Parts, spec_parts
from aoti_build.artifact.manifest import Manifest
from aoti_build.artifact.manifest_types import (
    CheckRecord,
    Requires,
    SignatureRecord,
    WeightsRecord,
)
from aoti_build.artifact.provenance import provenance
from aoti_build.artifact.reasons import Reason, ReasonKind
from aoti_build.errors import MessageError
from aoti_build.messages import Answer, BuildResult, Compile, Recorded, Repack
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.weights import weights_files
from aoti_build.planning.actions import Done
from aoti_build.planning.plan import Step
from aoti_build.work.reuse import ReuseDecision


def built_manifest(
    project: Project,
    step: Step,
    result: BuildResult,
    decision: ReuseDecision,
    *,
    early_parts: Parts,
    requires: Requires,
    check: CheckRecord,
) -> Manifest:
    """The manifest without `files` and `seconds`, which publication adds.

    Args:
        early_parts: the parts of the source key that were known before the build.
        requires: what a host must have to run the artifact.
        check: the record of the check.
    """
    target = step.target
    reasons = _reasons(step, decision.chosen, result.graph_key)
    return Manifest(
        target=target.name,
        models_file=project.name,
        key=result.key,
        graph_key=result.graph_key,
        weights=_weights(result, decision),
        source=_source_parts(target, project.root, early_parts, result),
        files={},
        requires=requires,
        signature=cast("SignatureRecord", result.signature),
        check=check,
        action=_action(decision.chosen, step, result.graph_key),
        reasons=tuple(reason.as_json() for reason in reasons),
        provenance=provenance(project.root),
    )


def _action(answer: Answer, step: Step, graph_key: str) -> Done:
    """What was done, in the words of the reports.

    It is `repacked` if the target kept its own code and `reused` if the code came from elsewhere.
    """
    if isinstance(answer, Compile):
        return Done.COMPILED
    published = step.manifest
    has_same_graph = published is not None and published.graph_key == graph_key
    if isinstance(answer, Repack) and has_same_graph:
        return Done.REPACKED
    return Done.REUSED


def _reasons(step: Step, answer: Answer, graph_key: str) -> tuple[Reason, ...]:
    """The reasons of the step. `weights-in-code` is added if only new weights led to a compile."""
    published = step.manifest
    if not isinstance(answer, Compile) or published is None:
        return step.reasons
    if published.weights.get("external") is not False:
        return step.reasons
    kinds = {reason.reason for reason in step.reasons}
    # The graph key may change with embedded weights.
    only_weights_changed = kinds == {ReasonKind.WEIGHTS_CHANGED}
    if published.graph_key != graph_key and not only_weights_changed:
        return step.reasons
    explanation = str(published.weights.get("why"))
    return (*step.reasons, Reason(ReasonKind.WEIGHTS_IN_CODE, explanation))


def _weights(result: BuildResult, decision: ReuseDecision) -> WeightsRecord:
    """Where the weights are: from the stored package, or from the worker that compiled."""
    if decision.weights is not None:
        return decision.weights
    if result.weights is None:
        raise MessageError("a worker compiled a graph and did not report where its weights are")
    return cast("WeightsRecord", result.weights)


def _source_parts(
    target: Target, root: Path, early_parts: Parts, result: BuildResult
) -> dict[str, Mapping[str, Any]]:
    return {
        "spec": spec_parts(target),
        "config": dict(target.inductor_config),
        "sources": _without_weights(result.sources, target, root),
        "distributions": result.distributions,
        "modules": result.modules,
        "variables": result.variables,
        **early_parts,
    }


def _without_weights(sources: Recorded, target: Target, root: Path) -> Recorded:
    """The digests of the files that were read, without the target's weights.

    Weights are a part of their own. A file that was read through a link is recorded with the name
    of the link and the name of the file.
    """
    weights = target.model.weights
    if weights is None:
        return sources
    weight_paths = set()
    for path in weights_files(weights, root).values():
        weight_paths.add(os.path.normpath(path))
        weight_paths.add(os.path.realpath(path))
    roots = (root, os.path.realpath(root))
    others = {}
    for name, digest in sources.items():
        paths = {os.path.join(directory, name) for directory in roots}
        if paths.isdisjoint(weight_paths):
            others[name] = digest
    return others
