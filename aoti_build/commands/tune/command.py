"""`tune`: measures which inductor options make a target the fastest on this host, and writes them
into tuned.yaml.

Candidates are built as any target is, into a private directory and with the project's store. One
that fails its build or its check does not count. The others are timed in fresh processes, in rounds
with the preset `default`. Only a candidate that is shown to be faster is chosen.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aoti_build.artifact.paths import TUNING, make_artifacts, tuning_lock_path, tuning_path
from aoti_build.commands.tune.candidates import (
    baseline_of,
    candidates,
    check_allowed,
)
from aoti_build.commands.tune.measure import Measured, Settings, TargetTuner
from aoti_build.commands.tune.report import Outcome, Row, TuneReport, Tuning
from aoti_build.commands.tune.write import write_choices
from aoti_build.common.directories import temporary_directory
from aoti_build.common.locks import lock
from aoti_build.common.removal import remove
from aoti_build.errors import ArtifactError, UsageError
from aoti_build.measurement.samples import Sampler
from aoti_build.measurement.statistics import BAND
from aoti_build.models_file.places import shown_file
from aoti_build.models_file.project import TUNED_PRESET, Project, Target
from aoti_build.models_file.tuned import tuned_target
from aoti_build.work.processes import allow_starts, check_stopping

BUDGET = 1200.0  # seconds
OnProgress = Callable[[Target, str], None]


def tune(
    project: Project,
    targets: tuple[Target, ...],
    *,
    budget: float = BUDGET,
    allowed: Sequence[str] = (),
    peers: bool = False,
    cuda_graphs: bool = False,
    band: float = BAND,
    dry_run: bool = False,
    on_progress: OnProgress = lambda target, phase: None,
) -> TuneReport:
    """Find the fastest options for the model, device and architecture of each of `targets`.

    Args:
        budget: seconds for everything. What does not fit is left untried.
        allowed: kinds of lower precision that may be tried: "tf32", "reduced_precision".
        peers: also time ONNX Runtime and OpenVINO, where they are installed.
        cuda_graphs: replay the calls of GPU packages from CUDA graphs.
        band: a ratio within 1 - band and 1 + band is no difference.
        dry_run: only list the candidates.

    Raises:
        UsageError: `allowed` has an unknown kind, or models.yaml defines the preset `tuned`.
        DirectoryError: the temporary directory is unfit.
        Interrupted: Ctrl-C was pressed. tuned.yaml is unchanged then.
    """
    started = time.monotonic()
    check_allowed(allowed)
    tuned = _tuned_targets(project, targets)
    if dry_run:
        listed = tuple(_listed(project, target, allowed) for target in tuned)
        return TuneReport(listed, time.monotonic() - started, dry_run=True)
    # An interrupted command in the same process has forbidden new workers.
    allow_starts()
    temporary_directory()
    settings = Settings(tuple(allowed), peers, band, on_progress)
    tunings = []
    # Two measurements at once would disturb each other.
    make_artifacts(project)
    with lock(tuning_lock_path(project), check_stopping), _workplace(project) as workplace:
        sampler = Sampler(workplace.project, workplace.scratch, cuda_graphs)
        for index, target in enumerate(tuned):
            remaining = started + budget - time.monotonic()
            share = max(0.0, remaining) / (len(tuned) - index)
            tuner = TargetTuner(workplace.project, sampler, settings, target)
            tunings.append(_tuning(project, target, tuner, share))
        changes = write_choices(project, tunings)
    return TuneReport(tuple(tunings), time.monotonic() - started, changes=changes)


def _tuned_targets(project: Project, targets: tuple[Target, ...]) -> list[Target]:
    """The target with the preset `tuned` for each model, device and architecture of `targets`."""
    if TUNED_PRESET in project.presets:
        raise UsageError(
            f"models.yaml defines a preset with the name {TUNED_PRESET}",
            where=shown_file(project.file),
            cause="targets with it follow its options, and not tuned.yaml",
            hint="give it another name",
        )
    # As models.yaml describes them: tuned.yaml may have changed the model of a tuned target.
    described = {target.name: target for target in project.described or project.targets}
    found: dict[str, Target] = {}
    for target in targets:
        tuned = tuned_target(described[target.name])
        found.setdefault(tuned.name, tuned)
    return list(found.values())


def _listed(project: Project, target: Target, allowed: Sequence[str]) -> Tuning:
    every = [baseline_of(project, target), *candidates(project, target, allowed)]
    rows = tuple(Row(candidate.name, Outcome.LISTED, candidate.choice) for candidate in every)
    return Tuning(target, target.hardware.host_class(), rows, is_used=_is_used(project, target))


@dataclass(frozen=True)
class _Workplace:
    """The project with the private directory of artifacts, and a directory for anything else."""

    project: Project
    scratch: Path


@contextlib.contextmanager
def _workplace(project: Project) -> Iterator[_Workplace]:
    """The private directories. They are removed at the end, and by the next run after a crash."""
    directory = tuning_path(project)
    remove(directory)
    with tempfile.TemporaryDirectory(prefix="aoti_build-", dir=temporary_directory()) as scratch:
        try:
            yield _Workplace(replace(project, private=TUNING), Path(scratch))
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _tuning(project: Project, target: Target, tuner: TargetTuner, seconds: float) -> Tuning:
    """Build and measure the candidates of one target within `seconds`."""
    host = target.hardware.host_class()
    is_used = _is_used(project, target)
    obstacle = target.hardware.cannot_build(target.architecture)
    if host is None or obstacle is not None:
        message = "it cannot be measured on this host"
        error = ArtifactError(message, target=target.name, cause=f"there is no {obstacle}")
        return Tuning(target, host, is_used=is_used, error=error)
    measured = tuner.measure(seconds)
    return Tuning(
        target,
        host,
        rows=measured.rows,
        peers=measured.peers,
        notes=measured.notes,
        chosen=_fastest(measured, tuner.settings.band),
        is_used=is_used,
        cuda_graphs=tuner.sampler.uses_graphs(target),
        error=measured.error,
    )


def _fastest(measured: Measured, band: float) -> str | None:
    """The fastest candidate among those that are shown to be faster than the baseline.

    Of several within the band of the fastest, the first one: it changes the least.
    """
    better = [row for row in measured.rows if row.is_better]
    if not better:
        return None
    least = min(row.ratio for row in better)
    return next(row.name for row in better if row.ratio <= least * (1 + band))


def _is_used(project: Project, target: Target) -> bool:
    return any(target.name == other.name for other in project.targets)
