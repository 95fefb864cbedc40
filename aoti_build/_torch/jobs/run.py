"""The `run` job: a package on the reference input or on people's own, one after another; checked,
described, timed."""

from __future__ import annotations

import io
import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor

from aoti_build._torch.checking.eager import Subject, references
from aoti_build._torch.checking.float64 import Twin
from aoti_build._torch.checking.reference_data import Case, ReferenceData, load_reference_data
from aoti_build._torch.checking.returned import as_returned
from aoti_build._torch.compiling.settings import set_precision
from aoti_build._torch.data.image import Images, images, top_classes
from aoti_build._torch.data.read import fit, read, wants
from aoti_build._torch.events import Events
from aoti_build._torch.jobs.check import verdicts
from aoti_build._torch.jobs.prepared import Prepared, prepare
from aoti_build._torch.packages.imports import import_for
from aoti_build._torch.packages.loaded import LoadedPackage
from aoti_build._torch.program.inputs import Sizes, from_callable, from_shapes
from aoti_build._torch.program.model import load_callable
from aoti_build._torch.program.writes import Writes
from aoti_build.artifact.manifest import tensor_inputs
from aoti_build.common.outputs import write_output
from aoti_build.errors import AotiBuildError, BuildError, UsageError, VerificationError
from aoti_build.figures import (
    Basis,
    OutputFigures,
    RunFigures,
    RunSeconds,
    TensorFacts,
    Timing,
    TopClasses,
    typed,
)
from aoti_build.messages import ErrorRecord, RunJob, RunOutcome, RunRequest, RunResult
from aoti_build.models_file.presence import source_is_here
from aoti_build.models_file.project import Source, Target

# Calls before the timed ones, the first included: caches, thread pools and CUDA's allocator settle.
WARM_UP = 3


def run(job: RunJob, events: Events) -> RunResult:
    """A run that fails does not end the others."""
    target = job.target
    set_precision(target)
    bench = Bench(job, target, events)
    return RunResult(runs=tuple(bench.attempt(asked) for asked in job.runs))


@dataclass
class Bench:
    """What the runs of one job have in common; the eager model is made once, when it is first
    needed."""

    job: RunJob
    target: Target
    events: Events

    def attempt(self, asked: RunRequest) -> RunOutcome:
        self.events.seconds = {}
        try:
            return RunOutcome(figures=self.run(asked))
        except AotiBuildError as error:
            traceback.print_exc()
            return RunOutcome(error=ErrorRecord.of(error))

    def run(self, asked: RunRequest) -> RunFigures:
        calls = self.calls(asked)
        inputs = calls[0]
        # Anew for each input: a model may keep state in its buffers.
        package = self.load()
        with self.events.phase("first"):
            left = self.call(package, calls[:1])
        if len(calls) > 1:
            left = self.call(package, calls)
        tensors = {
            n: v for n, v in zip(self.outputs, left[0], strict=False) if isinstance(v, Tensor)
        }
        if asked.output:
            save(Path(asked.output), tensors)
        expected, basis = self.expected(asked, calls)
        checked = self.verdicts(expected, left)
        entries = tensor_inputs(self.job.signature)
        named_inputs = [
            (entry["name"], value) for entry, value in zip(entries, inputs, strict=True)
        ]
        seconds = self.events.seconds
        return RunFigures(
            inputs=tuple(describe(name, value) for name, value in named_inputs),
            outputs=tuple(describe(name, value) for name, value in tensors.items()),
            top=self.top(asked, tensors),
            check=basis,
            passed=all(verdict.ok for verdict in checked),
            verdicts=checked,
            saved=asked.output,
            timing=self.timed(package, inputs),
            seconds=RunSeconds(
                load=seconds.get("load"),
                first=seconds.get("first"),
                reference=seconds.get("reference"),
            ),
        )

    def verdicts(self, expected: list[Case], left: list[list[Any]]) -> tuple[OutputFigures, ...]:
        """The figures of all that each call left; those of a later call say which one."""
        found = []
        for case, values in zip(expected, left, strict=False):
            later = f" (call {case.call + 1})" if case.call else ""
            for figures in verdicts(case, values, self.job.signature, self.job.tolerance):
                found.append(replace(figures, name=f"{figures.name}{later}"))
        return tuple(found)

    def calls(self, asked: RunRequest) -> list[list[Tensor]]:
        """The inputs of each call: the reference data ones, random ones, those of a file, or
        images. A model with state is called several times, with what there is."""
        signature, paths = self.job.signature, [Path(path) for path in asked.paths]
        count = self.writes.calls
        if asked.kind == "reference_data":
            return [self.reference_inputs(case) for case in self.reference_data]
        if asked.kind == "random":
            sizes = {dim.name: dim.example for dim in self.target.model.dims}
            return [
                self.drawn(sizes, self.job.seed + number, "the random input")
                for number in range(count)
            ]
        if asked.kind == "tensors":
            return [read(paths[0], signature)] * count
        return [[self.images.batch(paths, signature)]] * count

    def reference_inputs(self, case: Case) -> list[Tensor]:
        if case.inputs is not None:
            return case.inputs
        return self.drawn(case.sizes, case.seed, "the reference input")

    def drawn(self, sizes: Sizes, seed: int, name: str) -> list[Tensor]:
        """Inputs made as the build makes them, from models.yaml's shapes or callable."""
        model, where = self.target.model, self.job.where["inputs"]
        if isinstance(model.inputs, Source):
            make = from_callable(load_callable(model.inputs, Path(self.job.root), where), where)
        else:
            make = from_shapes(model.inputs)
        call = make(sizes, seed)
        by_name = not call.args and all(isinstance(value, Tensor) for value in call.kwargs.values())
        return fit(dict(call.kwargs) if by_name else call.tensors(), self.job.signature, name)

    def load(self) -> LoadedPackage:
        with self.events.phase("load"):
            import_for(self.job)
            try:
                path, device = Path(self.job.model), self.target.device
                return LoadedPackage(path, device, self.writes, self.reference_data_file.state)
            except RuntimeError as error:
                raise VerificationError(
                    "the package cannot be loaded", cause=_first_line(error), hint="see the log"
                ) from error

    def call(self, package: LoadedPackage, sequence: list[list[Tensor]]) -> list[list[Any]]:
        """All that each call leaves, the first state before the first of them. The inputs stay as
        they are."""
        try:
            return [as_returned(left, self.job.signature) for left in package.calls(sequence)]
        except RuntimeError as error:
            raise VerificationError(
                "the artifact refused or failed on these inputs",
                cause=_first_line(error),
                hint=wants(self.job.signature),
            ) from error

    def expected(self, asked: RunRequest, calls: list[list[Tensor]]) -> tuple[list[Case], Basis]:
        """What to compare with: what is reference data for the reference input, else eager where
        the source is here."""
        if asked.kind == "reference_data" and all(
            case.outputs is not None for case in self.reference_data
        ):
            return self.reference_data, "reference_data"
        if not source_is_here(self.target.model, Path(self.job.root)):
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

    def eager_cases(self, calls: list[list[Tensor]]) -> list[Case]:
        """What eager leaves now after each of the calls, in float64 as well where it can."""
        example = self.eager.example
        if len(example.tensors()) != len(calls[0]):
            raise BuildError(
                f"models.yaml has {len(example.tensors())} input tensors now, the artifact takes"
                f" {len(calls[0])}",
                hint=f"build it again: invoke build --target {self.target.name}",
            )
        given = [example.with_tensors(inputs).to(self.target.device) for inputs in calls]
        cases = [
            (Case("given", None, None, call=number), call) for number, call in enumerate(given)
        ]
        return self.twin.completed(references(self.subject, cases), given)

    def top(self, asked: RunRequest, outputs: Mapping[str, Tensor]) -> tuple[TopClasses, ...]:
        if asked.kind != "images":
            return ()
        found = (
            top_classes(name, value, len(asked.paths), self.images)
            for name, value in outputs.items()
        )
        return tuple(typed(entry, TopClasses) for entry in found if entry is not None)

    def timed(self, package: LoadedPackage, inputs: list[Tensor]) -> Timing:
        """Seconds of `repeat` calls, with the inputs on the device already."""
        here = [value.to(self.target.device) for value in inputs]
        samples = []
        with self.events.phase("timing"):
            for _ in range(WARM_UP - 1 + self.job.repeat):
                copies = [
                    value.clone() for value in here
                ]  # the model may write into what it is given
                if self.target.device == "cuda":
                    torch.cuda.synchronize()
                started = time.perf_counter()
                package.run_own(copies)
                samples.append(time.perf_counter() - started)
        return summary(samples[WARM_UP - 1 :])

    @property
    def writes(self) -> Writes:
        return Writes.of_signature(self.job.signature)

    @property
    def outputs(self) -> list[str]:
        return [entry["name"] for entry in self.job.signature["outputs"]]

    @cached_property
    def reference_data_file(self) -> ReferenceData:
        return load_reference_data(Path(self.job.reference_data))

    @property
    def reference_data(self) -> list[Case]:
        """The calls of the first case."""
        return next(self.reference_data_file.sequences())

    @cached_property
    def eager(self) -> Prepared:
        return prepare(self.target.model, self.target.device, Path(self.job.root), self.job.where)

    @cached_property
    def subject(self) -> Subject:
        return self.eager.subject(self.job.signature)

    @cached_property
    def twin(self) -> Twin:
        return Twin(self.subject)

    @cached_property
    def images(self) -> Images:
        image = self.target.model.image
        if image is None:
            raise UsageError(f"{self.target.model.name} has no `image:`")
        return images(image, Path(self.job.root), self.job.where["image"])


def summary(samples: list[float]) -> Timing:
    """Order statistics by nearest rank: every figure is a call that was measured."""
    ordered = sorted(samples)

    def rank(part: float) -> float:
        return round(ordered[math.ceil(part * len(ordered)) - 1], 7)

    return Timing(
        repeat=len(samples),
        min=rank(1 / len(ordered)),
        median=rank(0.5),
        p90=rank(0.9),
        p99=rank(0.99),
        max=rank(1.0),
        threads=torch.get_num_threads(),
    )


def save(path: Path, outputs: Mapping[str, Tensor]) -> None:
    """Write the outputs by name; a regular file is there whole or not at all. Raises
    `UsageError`."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in outputs.items()}
    write_output(path, WRITERS[path.suffix.lower()](plain))


def _safetensors(outputs: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save as packed

    return packed(outputs)


def _npz(outputs: dict[str, Tensor]) -> bytes:
    import numpy

    buffer, arrays = io.BytesIO(), {}
    for name, value in outputs.items():
        try:
            arrays[name] = value.numpy()
        except TypeError as error:
            hint = "write .safetensors or .pt instead"
            raise UsageError(
                f"{name} is {value.dtype}, which numpy does not have", hint=hint
            ) from error
    # The keywords are names of outputs; the stub takes one of them for an option.
    numpy.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _torch(outputs: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(outputs, buffer)
    return buffer.getvalue()


# suffix -> the content of a file; a further format registers here and in `commands.run_inputs`.
WRITERS: Mapping[str, Callable[[dict[str, Tensor]], bytes]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".pt": _torch,
}


def describe(name: str, value: Tensor) -> TensorFacts:
    """Shape, dtype and statistics of one tensor; statistics are of finite values, `nonfinite`
    counts the rest."""
    dtype = str(value.dtype).removeprefix("torch.")
    facts = TensorFacts(name=name, dtype=dtype, shape=tuple(value.shape))
    numbers = value.detach().cpu()
    if numbers.is_complex() or not numbers.numel():
        return facts
    wide = numbers.to(torch.float64).reshape(-1)
    finite = wide[torch.isfinite(wide)]
    facts = replace(facts, nonfinite=wide.numel() - finite.numel())
    if not finite.numel():
        return facts
    return replace(
        facts,
        min=float(finite.min()),
        max=float(finite.max()),
        mean=float(finite.mean()),
        std=float(finite.std(unbiased=False)),
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
