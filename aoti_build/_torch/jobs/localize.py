"""The `localize` job: find where an artifact begins to differ from its model.

It makes three comparisons, in this order. A difference in one of them explains those in the next.

1. Weights: those in the package with those of the model, by name.
2. Export: the exported program in eager mode with the model, module by module. A model that does
   something else while it is exported shows here.
3. Compile: prefixes of the program, compiled with the target's options, with the same prefixes in
   eager mode. This is a bisection with a compile for each step, and the only slow comparison.
"""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram

from aoti_build._torch.compiling import shared
from aoti_build._torch.compiling.corrections import corrected
from aoti_build._torch.compiling.isa import compiling_for
from aoti_build._torch.compiling.settings import inductor_options
from aoti_build._torch.events import Events
from aoti_build._torch.jobs.localize_compile import bisect
from aoti_build._torch.jobs.localize_export import first_difference, outputs_differ
from aoti_build._torch.jobs.prepared import prepare
from aoti_build._torch.packages.weights import in_memory_order, read_weights
from aoti_build._torch.program.export import whole_ranges
from aoti_build._torch.program.inputs import Call
from aoti_build._torch.program.permitted import set_precision
from aoti_build.figures import ModuleDifference, WrongWeight
from aoti_build.messages import LocalizeJob, LocalizeResult


def localize(job: LocalizeJob, events: Events) -> LocalizeResult:
    target = job.target
    shared.keep_below(Path(job.cache_root))
    set_precision(target)
    with events.phase("model"):
        prepared = prepare(target.model, target.device, Path(job.root), job.where)
    with contextlib.ExitStack() as stack:
        stack.enter_context(whole_ranges())
        with events.phase("export"):
            exported = prepared.exported(job.where)
            program = exported.program
            stack.enter_context(exported.tracing())
        if job.model and job.alignment:
            with events.phase("localize: weights"):
                wrong = _wrong_weights(Path(job.model), program, job.alignment)
            if wrong:
                return _weights_differ(wrong)
        with events.phase("localize: export"):
            difference = first_difference(prepared.module, program, prepared.example)
            if difference is None:
                difference = outputs_differ(prepared.module, program, prepared.example)
        if difference is not None:
            return _module_differs("export", difference, "the exported program")
        if job.bisect:
            with events.phase("localize: compile"):
                difference = _compiled_difference(job, program, prepared.example)
            if difference is not None:
                return _module_differs("compile", difference, "compiled code")
    sentence = (
        "the source now agrees at every module. The artifact was made from another source, graph"
        " or compiler"
    )
    return LocalizeResult(stage="none", said=sentence, weights=(), left=None)


def _compiled_difference(
    job: LocalizeJob, program: ExportedProgram, example: Call
) -> ModuleDifference | None:
    options = inductor_options(job.target, job.architecture_options, job.where, apart=False)
    architecture = compiling_for(job.architecture_options, options, Path(job.cache_root))
    with architecture as options_for_architecture, corrected():
        return bisect(program, example, options_for_architecture)


def _weights_differ(wrong: list[WrongWeight]) -> LocalizeResult:
    names = ", ".join(weight.name for weight in wrong[:3])
    return LocalizeResult(
        stage="weights",
        said=f"the weights {names} are not the model's",
        weights=tuple(wrong[:20]),
        left=None,
    )


def _module_differs(
    stage: Literal["export", "compile"], difference: ModuleDifference, subject: str
) -> LocalizeResult:
    sentence = _sentence(difference, subject)
    return LocalizeResult(stage=stage, said=sentence, weights=(), left=difference)


def _sentence(difference: ModuleDifference, subject: str) -> str:
    name = f"{difference.module or 'the model itself'} [{difference.class_name}]"
    sentence = f"{subject} first differs from the model at the output of {name}"
    if difference.source:
        sentence += f" ({difference.source})"
    if difference.figures and not difference.module:
        sentence += f": {difference.figures.why}"
    if difference.missing:
        modules = ", ".join(difference.missing[:3])
        sentence += f"; eager mode also runs {modules}, which the program lacks"
    return sentence


def _wrong_weights(package: Path, program: ExportedProgram, alignment: int) -> list[WrongWeight]:
    """The weights whose bytes in the package are not the program's, in the order of the
    package."""
    values = {**program.state_dict, **program.constants}
    wrong = []
    with zipfile.ZipFile(package) as archive:
        for name, stored in read_weights(archive, values, alignment):
            expected = in_memory_order(values[name].detach().cpu())
            assert expected is not None  # the others are left out
            stored_bytes = stored.view(torch.uint8)
            expected_bytes = expected.view(torch.uint8)
            if torch.equal(stored_bytes, expected_bytes):
                continue
            largest = _largest_difference(expected, stored)
            wrong.append(WrongWeight(name=name, max_abs=largest))
    return wrong


def _largest_difference(expected: Tensor, stored: Tensor) -> float | None:
    """The largest absolute difference; None if there is none that is finite."""
    difference = (expected.to(torch.float64) - stored.to(torch.float64)).abs()
    if not difference.numel() or not torch.isfinite(difference).all():
        return None
    return float(difference.max())
