"""The `outputs` job: call a package with the inputs of reference data, and write what it returns.

The file has the form of reference data, so the outputs of two packages are compared as the outputs
of eager mode in two files are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from aoti_build._torch.checking.reference_data import Case, ReferenceData
from aoti_build._torch.checking.reference_reader import load_reference_data
from aoti_build._torch.checking.reference_writer import save_reference_data
from aoti_build._torch.checking.returned import as_returned
from aoti_build._torch.events import Events
from aoti_build._torch.jobs.check import count_until_missing_inputs, gist, with_inputs
from aoti_build._torch.packages.imports import import_for
from aoti_build._torch.packages.loaded import LoadedPackage, in_compiled_layout
from aoti_build._torch.program.memory_formats import in_signature_formats
from aoti_build._torch.program.permitted import set_precision
from aoti_build._torch.program.writes import Writes
from aoti_build.messages import OutputsJob, OutputsResult

_NO_INPUTS = "the reference data had no room for its inputs"


def outputs(job: OutputsJob, events: Events) -> OutputsResult:
    """Write the outputs of all cases that the package answers.

    Outputs beyond the size limit of the target's reference data become summaries.
    """
    set_precision(job.target)
    given = load_reference_data(Path(job.inputs))
    with events.phase("load"):
        caller = _Caller(job, _load(job))
    with events.phase("run"):
        for calls in given.sequences():
            caller.sequence(calls)
    answered = ReferenceData(cases=caller.answered)
    limit = job.target.model.reference_data_limit
    save_reference_data(Path(job.outputs), answered, limit)
    return OutputsResult(missing=caller.missing)


def _load(job: OutputsJob) -> LoadedPackage:
    own = load_reference_data(Path(job.reference_data))
    state = in_compiled_layout(own.state, job.signature)
    writes = Writes.of_signature(job.signature)
    import_for(job)
    return LoadedPackage(Path(job.model), job.target.device, writes, state)


@dataclass
class _Caller:
    """Calls one package. `answered` has its outputs, `missing` why a case has none."""

    job: OutputsJob
    package: LoadedPackage
    answered: list[Case] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def sequence(self, stored: Sequence[Case]) -> None:
        """Make the calls of one sequence, which begins with the package's first state."""
        calls = [with_inputs(case, self.job.target.model) for case in stored]
        # Later calls would begin with another state than the ones before them left.
        count = count_until_missing_inputs(calls)
        for case in calls[count:]:
            self.missing[case.name] = _NO_INPUTS
        if count:
            self._call(calls[:count])

    def _call(self, calls: Sequence[Case]) -> None:
        signature = self.job.signature
        inputs = [in_signature_formats(case.inputs or [], signature) for case in calls]
        try:
            results = self.package.calls(inputs)
        except RuntimeError as error:
            for case in calls:
                self.missing[case.name] = f"the package refused its inputs: {gist(error)}"
            return
        for case, result in zip(calls, results, strict=True):
            values = as_returned(result, signature)
            # The inputs are in the file that they came from.
            answer = replace(case, inputs=[], outputs=values, exact=None, rounded_rmse=None)
            self.answered.append(answer)
