"""`why`: what differs between the present state and the published artifact, and the most similar
stored one; and why the last build did what it did.

Every answer is a difference of recorded parts, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass

from aoti_build.artifact.manifest import Manifest
from aoti_build.artifact.paths import stat_cache_path
from aoti_build.artifact.reasons import Reason
from aoti_build.commands.conclusion import head
from aoti_build.commands.json_values import json_list
from aoti_build.common.json_object import JsonObject
from aoti_build.common.stat_cache import StatCache
from aoti_build.models_file.project import Project, Target
from aoti_build.planning.current_state import current_parts
from aoti_build.planning.plan import Step, plan_target
from aoti_build.store.interface import Store
from aoti_build.store.selection import open_store


@dataclass(frozen=True)
class Explanation:
    """The explanation of one target.

    The reasons of `step` are the differences from the published artifact. `nearest` is the stored
    artifact that differs in the fewest parts, and `nearest_reasons` are those differences.
    """

    step: Step
    nearest: Manifest | None
    nearest_reasons: tuple[Reason, ...]

    def as_json(self) -> JsonObject:
        return {
            "target": self.step.target.name,
            "state": self.step.action,
            "reasons": json_list(self.step.reasons),
            "last_build": self._last_build(),
            "nearest_stored": self._nearest_stored(),
        }

    def _last_build(self) -> JsonObject | None:
        published = self.step.manifest
        if published is None:
            return None
        return {
            "action": published.action,
            "reasons": [dict(reason) for reason in published.reasons],
            "created": published.provenance.get("created"),
            "key": published.key,
            "graph_key": published.graph_key,
            "unverified": published.unverified,
        }

    def _nearest_stored(self) -> JsonObject | None:
        if self.nearest is None:
            return None
        return {
            "target": self.nearest.target,
            "key": self.nearest.key,
            "created": self.nearest.provenance.get("created"),
            "reasons": json_list(self.nearest_reasons),
        }


@dataclass(frozen=True)
class WhyReport:
    """An explanation for each target."""

    explanations: tuple[Explanation, ...]

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/why", 2),
            "targets": json_list(self.explanations),
        }


def why(project: Project, targets: tuple[Target, ...]) -> WhyReport:
    """Explain the state of `targets`."""
    digests = StatCache(stat_cache_path(project))
    store = open_store(project.main_artifacts)
    explanations = []
    for target in targets:
        explanations.append(_explain(project, target, digests, store))
    return WhyReport(tuple(explanations))


def _explain(
    project: Project,
    target: Target,
    digests: StatCache,
    store: Store,
) -> Explanation:
    step = plan_target(project, target, digests, store)
    # Every stored artifact is compared, of all targets: models often share weights and sources.
    nearest: Manifest | None = None
    nearest_reasons: tuple[Reason, ...] = ()
    nearest_distance = 0
    for candidate in store.manifests():
        current = current_parts(project, target, candidate.source, digests)
        reasons = tuple(current.differences(candidate.source))
        # Of two that differ in as many parts, the target's own is nearer.
        distance = 2 * len(reasons) + (candidate.target != target.name)
        if nearest is None or distance < nearest_distance:
            nearest = candidate
            nearest_reasons = reasons
            nearest_distance = distance
    return Explanation(step, nearest, nearest_reasons)
