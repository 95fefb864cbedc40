"""The `fresh` job: make reference data again from the model's source, for a verification with other
seeds, or without the reference data of the build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aoti_build._torch.checking.baseline import losses
from aoti_build._torch.checking.reference import make_reference_data, save_reference_data_of
from aoti_build._torch.events import Events, tell_stage
from aoti_build._torch.jobs.prepared import prepare
from aoti_build._torch.program.permitted import set_precision
from aoti_build.artifact.reference_file import observed_names
from aoti_build.messages import FreshJob, FreshResult


def fresh(job: FreshJob, events: Events) -> FreshResult:
    """Write reference data for the job's seeds, without a size limit."""
    model = job.target.model
    root = Path(job.root)
    set_precision(job.target)
    with events.phase("model"):
        prepared = prepare(model, job.target.device, root, job.where)
    with events.phase("reference"):
        subject = prepared.subject(job.signature)
        reference_data = make_reference_data(subject, model, job.seeds, tell=tell_stage(events))
        baseline_losses = losses(subject, model, job.signature, root, job.where, job.seeds)
        save_reference_data_of(
            Path(job.reference_data),
            replace(reference_data, baseline=baseline_losses),
            model,
            observed_names(job.signature),
            limited=False,
        )
    return FreshResult(seconds=events.seconds)
