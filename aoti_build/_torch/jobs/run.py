"""The `run` job: call a package with inputs of the reference data or of the user, compare the
outputs, describe them, and time the calls."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor

from aoti_build._torch.checking.eager import Subject, references
from aoti_build._torch.checking.float64 import Float64Model
from aoti_build._torch.checking.reference_data import Case, ReferenceData
from aoti_build._torch.checking.reference_reader import load_reference_data
from aoti_build._torch.checking.returned import as_returned
from aoti_build._torch.checking.state import restored_state
from aoti_build._torch.data.image import Images, images, top_classes
from aoti_build._torch.data.read import describe_inputs, read
from aoti_build._torch.events import Events
from aoti_build._torch.jobs.check import verdicts
from aoti_build._torch.jobs.described import describe
from aoti_build._torch.jobs.drawn import Draw
from aoti_build._torch.jobs.latency import eager_calls, first_calls
from aoti_build._torch.jobs.prepared import Prepared, prepare
from aoti_build._torch.jobs.saving import save
from aoti_build._torch.packages.graphed import GraphedPackage
from aoti_build._torch.packages.imports import import_for
from aoti_build._torch.packages.loaded import LoadedPackage, PackageLacks, in_compiled_layout
from aoti_build._torch.program.inputs import Sizes
from aoti_build._torch.program.memory_formats import in_signature_formats
from aoti_build._torch.program.permitted import set_precision
from aoti_build._torch.program.writes import Writes
from aoti_build.artifact.manifest import tensor_inputs
from aoti_build.common.percentiles import nearest_rank
from aoti_build.errors import AotiBuildError, BuildError, UsageError, VerificationError
from aoti_build.figures import (
    Basis,
    OutputFigures,
    RunFigures,
    RunSeconds,
    Timing,
    TopClasses,
    typed,
)
from aoti_build.messages import ErrorRecord, RunJob, RunOutcome, RunRequest, RunResult
from aoti_build.models_file.presence import source_is_here
from aoti_build.models_file.project import Source, Target
from aoti_build.runtime.raw import synchronize

# Calls before the timed ones, including the first. Caches, thread pools and the allocator of CUDA
# settle in them.
WARM_UP = 3
# The most seconds that calls in eager mode may take together, for comparison.
EAGER_SECONDS = 5.0


def run(job: RunJob, events: Events) -> RunResult:
    """Run the package once for each request. A run that fails does not end the others."""
    set_precision(job.target)
    session = Session(job, job.target, events)
    outcomes = [session.outcome(request) for request in job.runs]
    return RunResult(runs=tuple(outcomes))


@dataclass
class Session:
    """The runs of one job. They share the eager model, which is made when it is first needed."""

    job: RunJob
    target: Target
    events: Events

    def outcome(self, request: RunRequest) -> RunOutcome:
        self.events.seconds = {}
        try:
            return RunOutcome(figures=self.run(request))
        except AotiBuildError as error:
            traceback.print_exc()
            return RunOutcome(error=ErrorRecord.of(error))

    def run(self, request: RunRequest) -> RunFigures:
        signature = self.job.signature
        calls = [in_signature_formats(inputs, signature) for inputs in self.calls(request)]
        # Loaded again for each request: a model may keep state in its buffers.
        package = self.load()
        with self.events.phase("first"):
            observed = self.call(package, calls[:1])
        if len(calls) > 1:
            observed = self.call(package, calls)
        outputs = self.output_tensors(observed[0])
        if request.output:
            save(Path(request.output), outputs)
        expected, basis = self.expected(request, calls)
        checked = self.verdicts(expected, observed)
        entries = tensor_inputs(signature)
        inputs = zip(entries, calls[0], strict=True)
        seconds = self.events.seconds
        return RunFigures(
            inputs=tuple(describe(entry["name"], value) for entry, value in inputs),
            outputs=tuple(describe(name, value) for name, value in outputs.items()),
            top=self.top(request, outputs),
            check=basis,
            passed=all(figures.ok for figures in checked),
            verdicts=checked,
            saved=request.output,
            timing=self.timed(package, calls[0]),
            # Only if the model is here anyway: to make it may take longer than all else.
            eager_timing=self.eager_timed(calls[0]) if basis == "eager" else None,
            seconds=RunSeconds(
                load=seconds.get("load"),
                first=seconds.get("first"),
                reference=seconds.get("reference"),
            ),
        )

    def output_tensors(self, observed: list[Any]) -> dict[str, Tensor]:
        """The tensors among the outputs of one call, by name."""
        tensors = {}
        names = [entry["name"] for entry in self.job.signature["outputs"]]
        # `observed` goes on with the inputs and buffers that the call wrote into.
        for name, value in zip(names, observed, strict=False):
            if isinstance(value, Tensor):
                tensors[name] = value
        return tensors

    def verdicts(
        self, expected: list[Case], observed: list[list[Any]]
    ) -> tuple[OutputFigures, ...]:
        """The figures of all values after each call. Those of a later call name the call."""
        figures = []
        for case, values in zip(expected, observed, strict=False):
            suffix = f" (call {case.call + 1})" if case.call else ""
            for entry in verdicts(case, values, self.job.signature, self.job.tolerance):
                figures.append(replace(entry, name=f"{entry.name}{suffix}"))
        return tuple(figures)

    def calls(self, request: RunRequest) -> list[list[Tensor]]:
        """The inputs of each call: those of the reference data, random ones, those of a file, or
        images. A model with state is called several times, with the same inputs if need be."""
        if request.kind == "reference_data":
            return [self.reference_inputs(case) for case in self.reference_cases]
        count = self.writes.calls
        if request.kind == "random":
            first_seed = self.job.seed
            sizes = {dim.name: dim.example for dim in self.target.model.dims}
            calls = []
            for seed in range(first_seed, first_seed + count):
                calls.append(self.drawn(sizes, seed, "the random input"))
            return calls
        paths = [Path(path) for path in request.paths]
        if request.kind == "tensors":
            inputs = read(paths[0], self.job.signature)
        else:
            inputs = [self.images.batch(paths, self.job.signature)]
        return [inputs] * count

    def reference_inputs(self, case: Case) -> list[Tensor]:
        if case.inputs is not None:
            return case.inputs
        return self.drawn(case.sizes, case.seed, "the reference input")

    def drawn(self, sizes: Sizes, seed: int, name: str) -> list[Tensor]:
        if not self.job.has_sources and isinstance(self.target.model.inputs, Source):
            raise UsageError(
                f"{name} is made by {self.target.model.inputs}, which is not in the release",
                hint="run it on a file of tensors",
            )
        draw = Draw(self.target.model, Path(self.job.root), self.job.where["inputs"])
        return draw(sizes, seed, self.job.signature, name)

    def load(self) -> LoadedPackage:
        with self.events.phase("load"):
            import_for(self.job)
            path = Path(self.job.model)
            device = self.target.device
            state = in_compiled_layout(self.reference_data.state, self.job.signature)
            try:
                if self.job.cuda_graphs:
                    return GraphedPackage(path, device, self.job.signature, state)
                return LoadedPackage(path, device, self.writes, state)
            except RuntimeError as error:
                raise VerificationError(
                    "the package cannot be loaded",
                    cause=_first_line(error),
                    hint="see the log",
                ) from error

    def call(self, package: LoadedPackage, sequence: list[list[Tensor]]) -> list[list[Any]]:
        """The values after each call, beginning with the package's first state. The inputs do not
        change."""
        try:
            results = package.calls(sequence)
            return [as_returned(result, self.job.signature) for result in results]
        except PackageLacks as error:
            raise VerificationError(error.message, hint="run it without --cuda-graphs") from error
        except RuntimeError as error:
            raise VerificationError(
                "the artifact refused or failed on these inputs",
                cause=_first_line(error),
                hint=describe_inputs(self.job.signature),
            ) from error

    def expected(self, request: RunRequest, calls: list[list[Tensor]]) -> tuple[list[Case], Basis]:
        """The cases to compare with, and where they come from: the reference data for its own
        inputs, else eager mode if the source is here."""
        if request.kind == "reference_data":
            cases = self.reference_cases
            if all(case.outputs is not None for case in cases):
                return cases, "reference_data"
        if not self.has_sources():
            return [], "none"
        with self.events.phase("reference"):
            try:
                return self.eager_cases(calls), "eager"
            except BuildError as error:
                raise VerificationError(
                    f"there is nothing to compare with: {error.message}",
                    cause=error.cause,
                    hint=error.hint,
                ) from error

    def has_sources(self) -> bool:
        """Whether the model can be made in eager mode."""
        if not self.job.has_sources:
            # A module of the same name may be installed. It need not be the source of this model.
            return False
        return source_is_here(self.target.model, Path(self.job.root), self.job.python_path)

    def eager_cases(self, calls: list[list[Tensor]]) -> list[Case]:
        """The eager-mode values after each call, in float64 as well where the model can."""
        example = self.eager.example
        declared_count = len(example.tensors())
        if declared_count != len(calls[0]):
            raise BuildError(
                f"models.yaml has {declared_count} input tensors now, the artifact takes"
                f" {len(calls[0])}",
                hint=f"build it again: invoke build --target {self.target.name}",
            )
        on_device = [example.with_tensors(inputs).to(self.target.device) for inputs in calls]
        cases = []
        for number, call in enumerate(on_device):
            cases.append((Case("given", None, None, call=number), call))
        references_of_calls = references(self.subject, cases)
        return self.float64_model.add_references(references_of_calls, on_device)

    def top(self, request: RunRequest, outputs: Mapping[str, Tensor]) -> tuple[TopClasses, ...]:
        """The most probable classes of images; none for other inputs."""
        if request.kind != "images":
            return ()
        classes = []
        for name, value in outputs.items():
            entry = top_classes(name, value, len(request.paths), self.images)
            if entry is not None:
                classes.append(typed(entry, TopClasses))
        return tuple(classes)

    def timed(self, package: LoadedPackage, inputs: list[Tensor]) -> Timing:
        """Seconds of `repeat` calls, with inputs that are on the device before."""
        on_device = [value.to(self.target.device) for value in inputs]
        samples = []
        with self.events.phase("timing"):
            for _ in range(WARM_UP - 1 + self.job.repeat):
                # The model may write into its inputs.
                copies = [value.clone() for value in on_device]
                synchronize(self.target.device)
                started = time.perf_counter()
                package.run_in_place(copies)
                samples.append(time.perf_counter() - started)
        return summary(samples[WARM_UP - 1 :])

    def eager_timed(self, inputs: list[Tensor]) -> Timing:
        """Seconds of calls in eager mode: as many as of the package, if they take no longer than
        `EAGER_SECONDS`."""
        call = self.eager.example.with_tensors(inputs)
        with self.events.phase("timing"):
            calls = eager_calls(self.subject, call.to(self.target.device))
            count = WARM_UP - 1 + self.job.repeat
            with restored_state(self.subject.module):
                made = first_calls(calls, EAGER_SECONDS, count)
        times = [entry.seconds for entry in made]
        return summary(times[min(WARM_UP - 1, len(times) - 1) :])

    @property
    def writes(self) -> Writes:
        return Writes.of_signature(self.job.signature)

    @cached_property
    def reference_data(self) -> ReferenceData:
        return load_reference_data(Path(self.job.reference_data))

    @property
    def reference_cases(self) -> list[Case]:
        """The calls of the first case."""
        return next(self.reference_data.sequences())

    @cached_property
    def eager(self) -> Prepared:
        return prepare(self.target.model, self.target.device, Path(self.job.root), self.job.where)

    @cached_property
    def subject(self) -> Subject:
        return self.eager.subject(self.job.signature)

    @cached_property
    def float64_model(self) -> Float64Model:
        return Float64Model(self.subject)

    @cached_property
    def images(self) -> Images:
        image = self.target.model.image
        if image is None:
            raise UsageError(f"{self.target.model.name} has no `image:`")
        return images(image, Path(self.job.root), self.job.where["image"])


def summary(samples: list[float]) -> Timing:
    """Order statistics in seconds. They are by nearest rank, so every figure was measured."""
    ordered = sorted(samples)

    def rank(part: float) -> float:
        return round(nearest_rank(ordered, part), 7)

    return Timing(
        repeat=len(samples),
        min=rank(1 / len(ordered)),
        median=rank(0.5),
        p90=rank(0.9),
        p99=rank(0.99),
        max=rank(1.0),
        threads=torch.get_num_threads(),
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
