"""All jobs of worker processes by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aoti_build.messages.building import BuildJob, CompileJob, LocalizeJob
from aoti_build.messages.checking import CheckJob, FreshJob, OutputsJob, ProbeJob, RunJob
from aoti_build.messages.job import Job
from aoti_build.messages.measuring import BenchJob, CallsJob, MeasureJob, PeerJob

JOBS: Mapping[str, type[Job[Any]]] = {
    job.job_name(): job
    for job in (
        CallsJob,
        BenchJob,
        BuildJob,
        CheckJob,
        CompileJob,
        FreshJob,
        LocalizeJob,
        MeasureJob,
        OutputsJob,
        PeerJob,
        ProbeJob,
        RunJob,
    )
}
