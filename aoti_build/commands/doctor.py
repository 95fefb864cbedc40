"""`doctor`: can this host compile, load and run artifacts? Quick checks first, then a small model
for each device, compiled, checked in a fresh process and published as a build does it, in a
directory of its own."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aoti_build.artifact.paths import outside_logs
from aoti_build.common.json_object import JsonObject
from aoti_build.common.stat_cache import StatCache
from aoti_build.common.writing import copy_atomic
from aoti_build.errors import AotiBuildError, DirectoryError, ExitCode, Interrupted
from aoti_build.host.checks.compiler import other_compiler
from aoti_build.host.checks.finding import FAIL, OK, SKIPPED, UNAVAILABLE, Finding
from aoti_build.host.devices import device_names
from aoti_build.models_file import load_project
from aoti_build.models_file.project import Target
from aoti_build.planning.actions import Action
from aoti_build.planning.plan import Step
from aoti_build.store.local import LocalStore
from aoti_build.work.context import BuildContext
from aoti_build.work.crash import WorkerCrash
from aoti_build.work.host_checks import quick_checks
from aoti_build.work.processes import allow_starts
from aoti_build.work.schedule import Builder

OnProgress = Callable[[Target, str], None]

_MODELS = """\
version: 1
models:
  doctor:
    source: model.py:build
    inputs: [{{shape: [4, 16]}}]
    devices: [{device}]
"""
# A matrix product, which torch's library does, and loops, which the compiler or Triton writes.
_NET = """\
from torch import nn


def build():
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4), nn.Softmax(-1))
"""
_SIGNALS = {
    "SIGSEGV": "native code crashed while it was loaded or run",
    "SIGILL": (
        "the code has instructions that this processor lacks: the compiler took it for another one"
    ),
    "SIGKILL": "the system ended it, most likely for want of memory",
    "SIGBUS": "a file it had mapped was cut short, most often by a full disk or a small /dev/shm",
    "SIGABRT": "a library gave up by itself; the log says why",
}
_SIGNAL_FIXES = {
    "SIGILL": (
        "unset -march and the like in CXX; under an emulator or a live migration, build on the"
        " final host"
    ),
    "SIGKILL": "give the container more memory, or end other programs",
    "SIGBUS": "make space in the temporary directory, or set TMPDIR",
}
# What torch and the tools say -> what to do about it.
_KNOWN = (
    (
        r"no kernel image is available",
        "install a torch whose build covers this GPU (torch.cuda.get_arch_list())",
    ),
    (r"out of memory", "see with nvidia-smi what else runs on the GPU"),
    (r"No space left on device", "make space in the temporary directory, or set TMPDIR"),
    (
        r"cannot find -lcuda",
        (
            "CUDA_HOME=... of a toolkit with lib64/stubs, or a directory with libcuda.so in"
            " LIBRARY_PATH"
        ),
    ),
    (r"failed to map segment", "let TMPDIR name a directory that allows execution"),
)


@dataclass(frozen=True)
class DoctorReport:
    """What was found, in the order it was asked. With `strict`, or if they were asked for, missing
    devices fail."""

    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        return (
            ExitCode.UNFIT_TOOLCHAIN
            if any(finding.outcome == FAIL for finding in self.findings)
            else ExitCode.OK
        )

    def as_json(self) -> JsonObject:
        return {
            "format": "aoti-build/doctor",
            "format_version": 1,
            "ok": self.exit_code == ExitCode.OK,
            "checks": [finding.as_json() for finding in self.findings],
        }


def doctor(
    devices: Sequence[str] = (),
    *,
    artifacts: Path | None = None,
    quick: bool = False,
    strict: bool = False,
    on_progress: OnProgress = lambda target, phase: None,
) -> DoctorReport:
    """Check this host for `devices` (none: all there are); `artifacts` is a project's directory, to
    be checked too.

    With `quick` nothing is compiled but a few lines. A device that is not there fails if it is in
    `devices`, or with `strict`. Raises `Interrupted`.
    """
    chosen = tuple(devices) or device_names()
    found = quick_checks(chosen, artifacts)
    if strict or devices:
        found = [replace(one, outcome=FAIL) if one.outcome == UNAVAILABLE else one for one in found]
    if not quick:
        found += [
            _model(device, found, on_progress) for device in chosen if not _is_absent(device, found)
        ]
    return DoctorReport(tuple(found))


def _is_absent(device: str, found: Sequence[Finding]) -> bool:
    """Whether the only thing known of the device is that it is not there."""
    return [one.check for one in found if one.device == device] == ["device"]


def _model(device: str, found: Sequence[Finding], on_progress: OnProgress) -> Finding:
    """The small model on one device; not tried if it is known to fail."""
    if failed := [
        one.check
        for one in found
        if one.outcome == FAIL and one.stops and one.device in (None, device)
    ]:
        return Finding("model", SKIPPED, f"not tried: {', '.join(failed)} failed", device)
    started = time.perf_counter()
    phases: list[str] = []

    def progress(target: Target, phase: str) -> None:
        phases.append(phase)
        on_progress(target, phase)

    try:
        error = _build_small(device, progress)
    except OSError as refused:
        return Finding(
            "model", FAIL, "the small model's directory cannot be made", device, str(refused)
        )
    if error is None:
        took = time.perf_counter() - started
        return Finding(
            "model",
            OK,
            f"compiled, loaded in a fresh process and equal to eager in {took:.0f} s",
            device,
        )
    # Which looks for the cause.
    return explain(error, device, [phase for phase in phases if phase != "localize"])


def _build_small(device: str, on_progress: OnProgress) -> AotiBuildError | None:
    """Build the model as `build` does, with a store of its own; the error, if there was one.

    Raises `Interrupted` on Ctrl-C.
    """
    with tempfile.TemporaryDirectory(prefix="aoti_build-doctor-") as directory:
        root = Path(directory)
        (root / "models.yaml").write_text(_MODELS.format(device=device))
        (root / "model.py").write_text(_NET)
        project = load_project(root / "models.yaml")
        digests, store = StatCache(root / "stat-cache.json"), LocalStore(root / "store")
        allow_starts()
        builder = Builder(
            BuildContext(project, digests, store, on_progress), force=True, check_reproducible=False
        )
        try:
            error = builder(Step(project.targets[0], Action.BUILD, ())).error
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None
        if isinstance(error, Interrupted):
            raise error
        if error is not None and error.log is not None:
            error.log = _kept(error.log, device)
        return error


def _kept(log: Path, device: str) -> Path | None:
    """A copy of the log that stays when the model's directory goes."""
    try:
        copy = outside_logs() / f"doctor@{device}.log"
        copy_atomic(log, copy)
    except (OSError, DirectoryError):
        return None
    return copy


def explain(error: AotiBuildError, device: str, phases: Sequence[str]) -> Finding:
    """What it means that the small model failed in the last of `phases`."""
    doing = {
        "compile": "while it was compiled",
        "load": "when it was loaded",
        "check": "when it was run",
    }
    where = doing.get(
        phases[-1] if phases else "", f"in the phase {phases[-1]}" if phases else "at the start"
    )
    printed = error.cause or ""
    if isinstance(error, WorkerCrash) and error.signal_name:
        why = _SIGNALS.get(error.signal_name, "see the signal's meaning in signal(7)")
        said = f"the small model was ended by {error.signal_name} {where}: {why}"
        fix = _SIGNAL_FIXES.get(error.signal_name)
    else:
        said, fix = f"the small model failed {where}: {error.message}", None
    fix = fix or next((known for pattern, known in _KNOWN if re.search(pattern, printed)), None)
    if fix is None and phases and phases[-1] in ("load", "check"):
        # A package that was compiled and does not load speaks against the compiler.
        other = other_compiler()
        fix = f"try another compiler: {other}" if other else None
    log = f"the log is {error.log}" if error.log else ""
    return Finding(
        "model",
        FAIL,
        said,
        device,
        "\n".join(filter(None, [printed, log])) or None,
        fix or error.hint,
    )
