"""The `fresh` job: make golden files anew from the model's source, for verification with other
seeds, or without what was saved at build time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aoti_build._torch.checking.baseline import losses
from aoti_build._torch.checking.reference import make_golden, save_golden_of
from aoti_build._torch.compiling.settings import set_precision
from aoti_build._torch.events import Events
from aoti_build._torch.jobs.build import prepare
from aoti_build._torch.program.writes import observed_names
from aoti_build.messages import FreshJob, FreshResult


def fresh(job: FreshJob, events: Events) -> FreshResult:
    target, root = job.target, Path(job.root)
    set_precision(target)
    with events.phase("model"):
        prepared = prepare(target.model, target.device, root, job.where)
    with events.phase("reference"), events.progress() as tell:
        subject = prepared.subject(job.signature)
        golden = make_golden(subject, target.model, job.seeds, tell=tell)
        lost = losses(subject, target.model, job.signature, root, job.where, job.seeds)
        golden, names = replace(golden, baseline=lost), observed_names(job.signature)
        save_golden_of(Path(job.golden), golden, target.model, names, limited=False)
    return FreshResult(seconds=events.seconds)
