"""Checking a package in a fresh process before it is published: what it must do, and the worker that tries it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aoti_build.errors import BuildError
from aoti_build.manifest import GOLDEN, MODEL
from aoti_build.plan import tolerance
from aoti_build.spec.project import Project, Target
from aoti_build.work.worker import OnPhase, Worker, run_worker
from aoti_build.work.workshop import Place, Workshop

# AOTInductor's own checks of shapes, ranges and dtypes are off unless this is set before the first use.
CHECK_ENVIRONMENT = {"AOTI_RUNTIME_CHECK_INPUTS": "1"}
_DIRECTORY = "check"


class CheckAhead(contextlib.ExitStack):
    """The process of a check, started while the export still runs when a repack is likely: importing torch takes longer
    than everything else that a repack does."""

    def __init__(self, shop: Workshop, place: Place, *, likely: bool) -> None:
        super().__init__()
        self._root, self._place, self._likely = shop.project.root, place, likely
        self.worker: Worker | None = None

    def prepare(self, phase: str) -> None:
        if phase == "export" and self._likely:
            directory = self._place.work / _DIRECTORY
            self.worker = self.enter_context(
                Worker("check", self._root, directory=directory, log=self._place.log, environment=CHECK_ENVIRONMENT)
            )

    def close(self) -> None:
        super().close()
        self.worker = None


def check_staged(
    shop: Workshop,
    target: Target,
    place: Place,
    package: Path,
    signature: Mapping[str, Any],
    worker: Worker | None = None,
) -> dict[str, Any]:
    """Check the package in the directory `package` and return the record for its manifest.

    Raises `BuildError` if its outputs are not eager's.
    """
    result = check_package(
        shop.project,
        target,
        package,
        signature,
        directory=place.work / _DIRECTORY,
        log=place.log,
        on_phase=shop.phases_of(target),
        worker=worker,
    )
    if not result["passed"]:
        raise _failed(result, place.log)
    seconds = round(sum(result["seconds"].values()), 3)
    return {"passed": True, "tolerance": tolerance(target), "cases": result["cases"], "seconds": seconds}


def check_package(
    project: Project,
    target: Target,
    package: Path,
    signature: Mapping[str, Any],
    *,
    directory: Path,
    log: Path,
    on_phase: OnPhase = lambda phase: None,
    worker: Worker | None = None,
) -> dict[str, Any]:
    """Run the `check` job on the package in the directory `package` in a fresh process; its result as it is. `worker`
    is such a process that was started ahead and waits."""
    job = {
        "root": str(project.root),
        "model": str(package / MODEL),
        "golden": str(package / GOLDEN),
        "device": target.device,
        "tolerance": tolerance(target),
        "outputs": [output["name"] for output in signature["outputs"]],
    }
    if worker is not None:
        worker.give(job)
        return worker.follow(on_phase)
    return run_worker("check", job, directory=directory, log=log, on_phase=on_phase, environment=CHECK_ENVIRONMENT)


def _failed(checked: Mapping[str, Any], log: Path) -> BuildError:
    failures = [
        f"{case['name']} inputs: {output['name']}: {output['why']}"
        for case in checked["cases"]
        for output in case["outputs"]
        if not output["ok"]
    ]
    return BuildError(
        "the compiled artifact does not do what the model does in eager mode, so it was not published",
        cause="\n".join(failures),
        hint="set `tolerance` for this model if differences of this size are expected; else this is a compiler fault",
        log=log,
    )
