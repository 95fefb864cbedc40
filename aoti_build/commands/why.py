"""`why`: what differs between now and the published artifact, and the nearest stored one; and why
the last build did what it did. A diff of recorded parts, never a guess."""

from __future__ import annotations

from dataclasses import dataclass

from aoti_build.artifact.manifest import Manifest
from aoti_build.artifact.paths import stat_cache_path
from aoti_build.artifact.reasons import Reason
from aoti_build.common.json_object import JsonObject
from aoti_build.common.stat_cache import StatCache
from aoti_build.models_file.project import Project, Target
from aoti_build.planning.current_state import current_parts
from aoti_build.planning.plan import Step, plan_target
from aoti_build.store.interface import Store
from aoti_build.store.selection import open_store


@dataclass(frozen=True)
class Explanation:
    """One target: its step (whose reasons are against the published artifact), and the stored
    artifact that differs in the fewest parts, with those parts."""

    step: Step
    nearest: Manifest | None
    nearest_reasons: tuple[Reason, ...]

    def as_json(self) -> JsonObject:
        published, nearest = self.step.manifest, self.nearest
        return {
            "target": self.step.target.name,
            "state": self.step.action,
            "reasons": [reason.as_json() for reason in self.step.reasons],
            "last_build": (
                {
                    "action": published.action,
                    "reasons": [dict(reason) for reason in published.reasons],
                    "created": published.provenance.get("created"),
                    "key": published.key,
                    "graph_key": published.graph_key,
                    "unverified": published.unverified,
                }
                if published
                else None
            ),
            "nearest_stored": (
                {
                    "target": nearest.target,
                    "key": nearest.key,
                    "created": nearest.provenance.get("created"),
                    "reasons": [reason.as_json() for reason in self.nearest_reasons],
                }
                if nearest
                else None
            ),
        }


@dataclass(frozen=True)
class WhyReport:
    """An explanation for each target asked about."""

    explanations: tuple[Explanation, ...]

    def as_json(self) -> JsonObject:
        return {
            "format": "aoti-build/why",
            "format_version": 2,
            "ok": True,
            "targets": [explanation.as_json() for explanation in self.explanations],
        }


def why(project: Project, targets: tuple[Target, ...]) -> WhyReport:
    digests, store = StatCache(stat_cache_path(project)), open_store(project.artifacts)
    return WhyReport(tuple(_explain(project, target, digests, store) for target in targets))


def _explain(project: Project, target: Target, digests: StatCache, store: Store) -> Explanation:
    step = plan_target(project, target, digests, store)
    best: tuple[int, Manifest | None, tuple[Reason, ...]] = (0, None, ())
    for candidate in store.manifests():
        now = current_parts(project, target, candidate.source, digests)
        reasons = tuple(now.differences(candidate.source))
        distance = len(reasons) * 2 + (candidate.target != target.name)
        if best[1] is None or distance < best[0]:
            best = (distance, candidate, reasons)
    return Explanation(step, best[1], best[2])
