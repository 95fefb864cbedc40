"""The `fresh` job: make golden files anew from the model's source, for verification with other
seeds, or without what was saved at build time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aoti_build._torch.checking.baseline import losses
from aoti_build._torch.checking.reference import make_golden, save_golden_of
from aoti_build._torch.compiling.settings import set_precision
from aoti_build._torch.events import Events
from aoti_build._torch.jobs.build import prepare
from aoti_build._torch.program.writes import observed_names
from aoti_build.models_file.records import target_from_json


def fresh(job: Mapping[str, Any], events: Events) -> dict[str, Any]:
    """Job: target, root, where, golden (path to write), signature (the artifact's), seeds (how
    many)."""
    target = target_from_json(job["target"])
    set_precision(target)
    with events.phase("model"):
        prepared = prepare(target.model, target.device, Path(job["root"]), job["where"])
    with events.phase("reference"), events.progress() as tell:
        subject = prepared.subject(job["signature"])
        golden, names = (
            make_golden(subject, target.model, job["seeds"], tell=tell),
            observed_names(job["signature"]),
        )
        lost = losses(
            subject, target.model, job["signature"], Path(job["root"]), job["where"], job["seeds"]
        )
        golden = replace(golden, baseline=lost)
        save_golden_of(Path(job["golden"]), golden, target.model, names, limited=False)
    return {"seconds": events.seconds}
