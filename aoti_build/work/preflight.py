"""The preflight: the host checks before the first compile of a build."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence

from aoti_build.errors import ToolchainError
from aoti_build.models_file.project import Project, Target
from aoti_build.planning.plan import Step, has_own_compiler, probably_compiles
from aoti_build.work.watch import Watcher


class Preflight:
    """Checks the host once per build, when the first target needs a compile.

    A restore needs no compiler, and with a full store most targets need none. Each target
    therefore calls `require` just before its compile.
    """

    def __init__(self, project: Project, steps: Sequence[Step], watcher: Watcher) -> None:
        self._project = project
        self._steps = steps
        self._watcher = watcher
        self._lock = threading.Lock()
        self._was_checked = False
        self._error: ToolchainError | None = None

    def require(self, target: Target) -> None:
        """Raise `ToolchainError` if a compile of `target` would fail for certain."""
        # The checks know Linux only, and the compiler of the host only.
        if sys.platform != "linux" or has_own_compiler(target):
            return
        # Other threads wait here for the result of the first one.
        with self._lock:
            if not self._was_checked:
                self._error = self._check(target)
                self._was_checked = True
        if self._error is None:
            return
        # Each caller gets an error of its own, because it writes its target's name into it.
        raise ToolchainError(
            self._error.message,
            cause=self._error.cause,
            hint=self._error.hint,
        )

    def check_early(self, *, certain: Callable[[], bool]) -> None:
        """Check the host now, while workers import torch, if a target will probably be compiled.

        Raises `ToolchainError` for an unfit host only if a compile is `certain`. Otherwise the
        store may have the code. A target that does need a compile then gets the error.
        """
        target = self._first_probable_compile()
        if target is None:
            return
        try:
            self.require(target)
        except ToolchainError:
            if certain():
                raise

    def _first_probable_compile(self) -> Target | None:
        for step in self._steps:
            if probably_compiles(step):
                return step.target
        return None

    def _check(self, target: Target) -> ToolchainError | None:
        """Returns the error of an unfit host. Warnings are reported as messages of `target`."""
        # Imported here because a restore needs none of the checks.
        from aoti_build.work.host_checks import require_fit_toolchain

        def on_warning(text: str) -> None:
            self._watcher.message(target, f"warning: {text}")

        # One check covers all targets of the build, because its result is kept for all of them.
        devices = sorted({step.target.device for step in self._steps})
        try:
            require_fit_toolchain(self._project, devices, on_warning)
        except ToolchainError as error:
            return error
        return None
