"""`doctor`: checks whether this host can compile, load and run artifacts.

Quick checks come first. Then a small model is built for each device as `build` does it: compiled,
checked in a fresh process, and published in a temporary directory of its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aoti_build.artifact.paths import outside_logs
from aoti_build.commands.conclusion import Failure, code_of, concluding_error, head, of_total
from aoti_build.commands.doctor.failures import explain
from aoti_build.commands.json_values import json_list
from aoti_build.common.json_object import JsonObject
from aoti_build.common.stat_cache import StatCache
from aoti_build.common.writing import copy_atomic
from aoti_build.errors import AotiBuildError, DirectoryError, Interrupted, ToolchainError
from aoti_build.host.checks.finding import FAIL, OK, SKIPPED, UNAVAILABLE, Finding
from aoti_build.host.devices import device_names
from aoti_build.models_file import load_project
from aoti_build.models_file.project import Target
from aoti_build.planning.actions import Action
from aoti_build.planning.plan import Step
from aoti_build.store.local import LocalStore
from aoti_build.work.context import BuildContext
from aoti_build.work.host_checks import quick_checks
from aoti_build.work.processes import allow_starts
from aoti_build.work.schedule import Builder
from aoti_build.work.watch import Phases

OnProgress = Callable[[Target, str], None]

_MODELS_FILE = """\
version: 1
models:
  doctor:
    source: model.py:build
    inputs: [{{shape: [4, 16]}}]
    devices: [{device}]
"""
# Torch's library does the matrix products. The compiler, or Triton, writes the loops.
_MODEL_SOURCE = """\
from torch import nn


def build():
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4), nn.Softmax(-1))
"""


@dataclass(frozen=True)
class DoctorReport:
    """The findings in the order of the checks."""

    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        return code_of(self.error)

    @property
    def error(self) -> AotiBuildError | None:
        """The error that ends the task; None if no check failed."""
        failed = [finding for finding in self.findings if finding.outcome == FAIL]
        if not failed:
            return None
        failures = []
        for finding in failed:
            device = f" ({finding.device})" if finding.device else ""
            failures.append(Failure(f"{finding.check}{device}", finding.message))
        return concluding_error(
            ToolchainError,
            f"{of_total(len(failed), len(self.findings), 'check')} failed",
            failures,
            hint="do what the report says of each check, then run `invoke doctor` again",
        )

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/doctor", 1, self.error),
            "checks": json_list(self.findings),
        }


def doctor(
    devices: Sequence[str] = (),
    *,
    artifacts: Path | None = None,
    quick: bool = False,
    strict: bool = False,
    on_progress: OnProgress = lambda target, phase: None,
) -> DoctorReport:
    """Check this host for `devices`, or for every device; also a project's directory `artifacts`.

    With `quick` no model is compiled. A missing device is a failure if `devices` names it, or with
    `strict`. Raises `Interrupted`.
    """
    chosen = tuple(devices) or device_names()
    findings = list(quick_checks(chosen, artifacts))
    if strict or devices:
        findings = [_strict_finding(finding) for finding in findings]
    if not quick:
        for device in chosen:
            if not _is_absent(device, findings):
                findings.append(_check_small_model(device, findings, on_progress))
    return DoctorReport(tuple(findings))


def _strict_finding(finding: Finding) -> Finding:
    """The finding, with an absent device as a failure."""
    return replace(finding, outcome=FAIL) if finding.outcome == UNAVAILABLE else finding


def _is_absent(device: str, findings: Sequence[Finding]) -> bool:
    """Whether the checks of `device` ended with its absence, so that "device" is the only one."""
    checks = [finding.check for finding in findings if finding.device == device]
    return checks == ["device"]


def _check_small_model(
    device: str, findings: Sequence[Finding], on_progress: OnProgress
) -> Finding:
    """Build the small model for one device. It is not tried if a finding is sure to stop it."""
    obstacles = []
    for finding in findings:
        if finding.outcome == FAIL and finding.stops and finding.device in (None, device):
            obstacles.append(finding.check)
    if obstacles:
        return Finding("model", SKIPPED, f"not tried: {', '.join(obstacles)} failed", device)
    started = time.perf_counter()
    phases: list[str] = []

    def on_phase(target: Target, phase: str) -> None:
        # The phase "localize" looks for the cause after a failure, so nothing fails in it.
        if phase != "localize":
            phases.append(phase)
        on_progress(target, phase)

    try:
        error = _build_small_model(device, on_phase)
    except OSError as refusal:
        message = "the small model's directory cannot be made"
        return Finding("model", FAIL, message, device, str(refusal))
    if error is not None:
        return explain(error, device, phases)
    seconds = time.perf_counter() - started
    message = f"compiled, loaded in a fresh process and equal to eager in {seconds:.0f} s"
    return Finding("model", OK, message, device)


def _build_small_model(device: str, on_progress: OnProgress) -> AotiBuildError | None:
    """Build the model as `build` does, with a store of its own. Returns the error of the build.

    Raises:
        Interrupted: Ctrl-C was pressed.
        OSError: The directory of the model cannot be made.
    """
    with tempfile.TemporaryDirectory(prefix="aoti_build-doctor-") as directory:
        root = Path(directory)
        (root / "models.yaml").write_text(_MODELS_FILE.format(device=device))
        (root / "model.py").write_text(_MODEL_SOURCE)
        project = load_project(root / "models.yaml")
        # With a store of its own, it never restores an earlier result, which would prove nothing.
        digests = StatCache(root / "stat-cache.json")
        watcher = Phases(on_progress)
        context = BuildContext(project, digests, LocalStore(root / "store"), watcher=watcher)
        builder = Builder(context, force=True, check_reproducible=False)
        # An interrupted command in the same process has forbidden new workers.
        allow_starts()
        step = Step(project.targets[0], Action.BUILD, ())
        try:
            error = builder(step).error
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None
        if isinstance(error, Interrupted):
            raise error
        if error is not None and error.log is not None:
            error.log = _preserve_log(error.log, device)
        return error


def _preserve_log(log: Path, device: str) -> Path | None:
    """Copy the log out of the model's directory, which is about to be removed."""
    try:
        copy = outside_logs() / f"doctor@{device}.log"
        copy_atomic(log, copy)
    except (OSError, DirectoryError):
        return None
    return copy
