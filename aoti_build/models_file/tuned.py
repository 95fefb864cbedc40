"""tuned.yaml: the options that `tune` found to be the fastest, by target and class of hosts.

The file is next to models.yaml. A target with the preset `tuned` has the options of its entry for
the host that builds. This module imports no yaml: a no-op build applies cached entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from aoti_build.common.memory_formats import applied_format
from aoti_build.common.reading import TEXT_LIMIT, read_bytes
from aoti_build.errors import UsageError, with_task_names
from aoti_build.models_file.project import (
    DEFAULT_PRESET,
    TUNED_PRESET,
    Choice,
    ConstantInput,
    Model,
    Project,
    Target,
    TensorInput,
)
from aoti_build.models_file.records import with_digest

TUNED_FILE = "tuned.yaml"


@dataclass(frozen=True)
class Evidence:
    """The measurement that a choice follows from.

    `ratio` is the time of the choice divided by that of the preset `default`, with the ends of its
    interval. `default_ms` and `tuned_ms` are medians in milliseconds a call. `loss` is the relative
    RMSE of the worst output, for a choice that lowers the precision. `created` is a date.
    `cuda_graphs` is set if the calls were replayed from CUDA graphs.
    """

    ratio: float
    low: float
    high: float
    pairs: int
    default_ms: float
    tuned_ms: float
    torch: str
    created: str
    loss: float | None = None
    cuda_graphs: bool | None = None


@dataclass(frozen=True)
class Entry:
    """One entry of tuned.yaml."""

    choice: Choice
    evidence: Evidence


# Entries by the name of the target and the class of hosts.
Entries: TypeAlias = Mapping[str, Mapping[str, Entry]]


def tuned_path(models_file: Path) -> Path:
    return models_file.parent / TUNED_FILE


def read_tuned_file(models_file: Path) -> bytes:
    """The bytes of the tuned.yaml next to `models_file`; empty if there is none.

    Raises UsageError if it cannot be read.
    """
    path = tuned_path(models_file)
    try:
        return read_bytes(path, TEXT_LIMIT)
    except FileNotFoundError:
        return b""
    except OSError as error:
        cause = error.strerror or str(error)
        raise UsageError(f"{path} cannot be read", cause=cause) from None


def choices_of(entries: Entries) -> dict[str, dict[str, Choice]]:
    """The choices without their evidence."""
    choices: dict[str, dict[str, Choice]] = {}
    for target, by_host in entries.items():
        choices[target] = {host: entry.choice for host, entry in by_host.items()}
    return choices


def with_tuned_options(project: Project) -> Project:
    """The project whose tuned targets have the options that tuned.yaml has for this host.

    A target without an entry has the options of the preset `default`.
    """
    if not any(project.is_tuned(target) for target in project.targets):
        return project
    targets = []
    for target in project.targets:
        if project.is_tuned(target):
            targets.append(with_choice(target, _choice(project, target)))
        else:
            targets.append(target)
    return replace(project, targets=tuple(targets), described=project.targets)


def with_choice(target: Target, choice: Choice) -> Target:
    """The target with the options of a choice."""
    model = target.model
    if choice.memory_format is not None:
        model = with_memory_format(model, choice.memory_format)
    if choice.precision:
        model = replace(model, cuda=replace(model.cuda, **choice.precision))
    return with_digest(replace(target, model=model, inductor_config=choice.options))


def with_memory_format(model: Model, name: str) -> Model:
    """The model with a memory format, and with it all declared inputs that can have it."""
    inputs = model.inputs
    if isinstance(inputs, tuple):
        inputs = tuple(_formatted(entry, name) for entry in inputs)
    return replace(model, memory_format=name, inputs=inputs)


def _formatted(entry: TensorInput | ConstantInput, name: str) -> TensorInput | ConstantInput:
    if isinstance(entry, ConstantInput):
        return entry
    return replace(entry, memory_format=applied_format(name, len(entry.shape)))


def default_choice(presets: Mapping[str, Mapping[str, Any]]) -> Choice:
    """The options with which every other choice is compared."""
    return Choice(DEFAULT_PRESET, presets.get(DEFAULT_PRESET, {}))


def tuned_target(target: Target) -> Target:
    """The target with the same model, device and architecture, and the preset `tuned`."""
    return replace(target, preset=TUNED_PRESET)


def chosen(project: Project, target: Target) -> Choice | None:
    """The entry of tuned.yaml for a tuned target on this host, if there is one."""
    by_host = project.tuned.get(target.name)
    if not by_host:
        return None
    return by_host.get(target.hardware.host_class() or "")


def missing_entry(project: Project, target: Target) -> str | None:
    """A sentence if a tuned target has no entry for this host."""
    if not project.is_tuned(target) or chosen(project, target) is not None:
        return None
    host = target.hardware.host_class()
    if host is None:  # it cannot be built here anyway
        return None
    command = with_task_names(f"invoke tune --target {target.name}")
    return (
        f"{target.name}: {TUNED_FILE} has no entry for {host}, so the options of the preset"
        f" {DEFAULT_PRESET} are used ({command})"
    )


def missing_entries(project: Project, targets: Iterable[Target]) -> tuple[str, ...]:
    """The sentences of `missing_entry` about `targets`."""
    sentences = [missing_entry(project, target) for target in targets]
    return tuple(sentence for sentence in sentences if sentence is not None)


def _choice(project: Project, target: Target) -> Choice:
    return chosen(project, target) or default_choice(project.presets)
