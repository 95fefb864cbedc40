"""The candidates of `tune`: which settings are tried for a target, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from aoti_build.common.memory_formats import RANKS
from aoti_build.common.resources import processors
from aoti_build.errors import UsageError
from aoti_build.host.cpu import physical_cores
from aoti_build.models_file.project import (
    DEFAULT_PRESET,
    Choice,
    Model,
    Project,
    Target,
    TensorInput,
)
from aoti_build.models_file.tuned import chosen, default_choice, with_choice

Options: TypeAlias = Mapping[str, Any]

# Settings of inductor that make some models faster and others slower, by device.
_FREEZING: Options = {"freezing": True}
SEARCH = "max_autotune"
_MAX_AUTOTUNE: Options = {SEARCH: True}
BUILT_IN: Mapping[str, Mapping[str, Options]] = {
    "cpu": {
        "freezing": _FREEZING,
        "max-autotune": _MAX_AUTOTUNE,
        "freezing+max-autotune": {**_FREEZING, **_MAX_AUTOTUNE},
    },
    "cuda": {"max-autotune": _MAX_AUTOTUNE},
}
THREADS = "cpp.threads"
# What may lower the precision of outputs: the fields of `CudaOptions`.
PRECISION = ("tf32", "reduced_precision")
_OF_THE_MODEL = ("bf16", "bfloat16", "fp16", "float16", "int8", "int4", "fp8")


@dataclass(frozen=True)
class Candidate:
    """One choice to try. `target` is the artifact that is built for it."""

    choice: Choice
    target: Target

    @property
    def name(self) -> str:
        return self.choice.candidate

    @property
    def lowers_precision(self) -> bool:
        return any(self.choice.precision.values())


def check_allowed(kinds: Sequence[str]) -> None:
    """Raise UsageError for a kind of lower precision that `tune` cannot try."""
    for kind in kinds:
        if kind in PRECISION:
            continue
        if kind in _OF_THE_MODEL:
            raise UsageError(
                f"--allow {kind} is not supported",
                cause="it would change the model and the dtypes of its inputs, not only its code",
                hint=(
                    "list the narrower model in models.yaml as a model of its own, with `dtype:` or"
                    " a quantising source, and with `baseline:`, which measures its loss"
                ),
            )
        raise UsageError(f"--allow {kind} is not one of {', '.join(PRECISION)}")


def baseline_of(project: Project, target: Target) -> Candidate:
    """The preset `default`, with which all others are compared."""
    return _candidate(target, default_choice(project.presets), number=0)


def candidates(project: Project, target: Target, allowed: Sequence[str]) -> list[Candidate]:
    """Everything to try besides the baseline. What should be tried first comes first.

    `allowed` are the kinds of lower precision that the user accepts.
    """
    known = [_settings(default_choice(project.presets))]
    found: list[Candidate] = []
    choices = list(_choices(project, target, allowed))
    # A search for the fastest kernels takes minutes. A small budget must reach what needs none.
    choices.sort(key=lambda choice: bool(choice.options.get(SEARCH)))
    for choice in choices:
        settings = _settings(choice)
        if settings not in known:
            known.append(settings)
            found.append(_candidate(target, choice, number=len(found) + 1))
    # A small budget must reach the present choice, or it could not be confirmed.
    present = chosen(project, target)
    if present is not None:
        found.sort(key=lambda candidate: _settings(candidate.choice) != _settings(present))
    return found


def memory_formats(model: Model) -> list[str]:
    """The memory formats to try for a model besides its own.

    They are those of which a declared input has the rank. None are tried for a model that has a
    format already, and for one whose inputs a callable makes.
    """
    if model.memory_format is not None or not isinstance(model.inputs, tuple):
        return []
    ranks = {len(entry.shape) for entry in model.inputs if isinstance(entry, TensorInput)}
    return [name for name, rank in RANKS.items() if rank in ranks]


def _choices(project: Project, target: Target, allowed: Sequence[str]) -> Iterator[Choice]:
    presets = [default_choice(project.presets), *_presets(project, target.device)]
    for name in memory_formats(target.model):
        presets += [_with_format(choice, name) for choice in list(presets)]
    yield from presets
    # The number of threads is that of loops on the processor.
    if not target.hardware.has_kernels:
        for threads in thread_counts():
            for choice in presets:
                if THREADS not in choice.options:
                    yield _with_threads(choice, threads)
    for kind in PRECISION:
        if kind in allowed and kind in target.device_options:
            yield from (_with_precision(choice, kind) for choice in presets)


def _presets(project: Project, device: str) -> Iterator[Choice]:
    """The presets of models.yaml, then those that are built in."""
    for name, options in project.presets.items():
        if name != DEFAULT_PRESET:
            yield Choice(name, options)
    base = default_choice(project.presets).options
    for name, options in BUILT_IN.get(device, {}).items():
        shown = f"{name} (built in)" if name in project.presets else name
        yield Choice(shown, {**base, **options})


def thread_counts() -> list[int]:
    """Numbers of threads that are worth a try: a thread for each core, and half of that.

    Without the option, compiled code uses as many threads as there are processors.
    """
    cores = physical_cores() or processors()
    counts = {cores, max(1, cores // 2)} - {processors()}
    return sorted(counts, reverse=True)


def _with_threads(choice: Choice, threads: int) -> Choice:
    name = f"{choice.candidate}, {threads} thread{'' if threads == 1 else 's'}"
    return replace(choice, candidate=name, options={**choice.options, THREADS: threads})


def _with_format(choice: Choice, name: str) -> Choice:
    return replace(choice, candidate=f"{choice.candidate}, {name}", memory_format=name)


def _with_precision(choice: Choice, kind: str) -> Choice:
    name = f"{choice.candidate}, {kind}"
    if kind == "tf32":
        return replace(choice, candidate=name, tf32=True)
    return replace(choice, candidate=name, reduced_precision=True)


def _settings(choice: Choice) -> tuple[dict[str, Any], dict[str, bool], str | None]:
    """What a choice changes, without its name."""
    return dict(choice.options), choice.precision, choice.memory_format


def _candidate(target: Target, choice: Choice, *, number: int) -> Candidate:
    # The name keeps the artifact and its log apart from those of the project's targets.
    named = replace(target, preset=f"tuning-{number}")
    return Candidate(choice, with_choice(named, choice))
