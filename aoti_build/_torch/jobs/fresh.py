"""The `fresh` job: make reference data anew from the model's source, for verification with other
seeds, or without what was saved at build time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aoti_build._torch.checking.baseline import losses
from aoti_build._torch.checking.reference import make_reference_data, save_reference_data_of
from aoti_build._torch.compiling.settings import set_precision
from aoti_build._torch.events import Events
from aoti_build._torch.jobs.prepared import prepare
from aoti_build._torch.program.writes import observed_names
from aoti_build.messages import FreshJob, FreshResult


def fresh(job: FreshJob, events: Events) -> FreshResult:
    target, root = job.target, Path(job.root)
    set_precision(target)
    with events.phase("model"):
        prepared = prepare(target.model, target.device, root, job.where)
    with events.phase("reference"), events.progress() as tell:
        subject = prepared.subject(job.signature)
        reference_data = make_reference_data(subject, target.model, job.seeds, tell=tell)
        lost = losses(subject, target.model, job.signature, root, job.where, job.seeds)
        reference_data, names = (
            replace(reference_data, baseline=lost),
            observed_names(job.signature),
        )
        save_reference_data_of(
            Path(job.reference_data), reference_data, target.model, names, limited=False
        )
    return FreshResult(seconds=events.seconds)
