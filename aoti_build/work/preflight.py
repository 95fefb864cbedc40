"""The step before the first compile of a build: is this host's compiler fit?"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence

from aoti_build.errors import ToolchainError
from aoti_build.models_file.project import Project, Target
from aoti_build.planning.plan import Step, has_own_compiler, probably_compiles

OnProgress = Callable[[Target, str], None]


class Preflight:
    """Checks the host once for a whole build, when the first target needs a compile.

    A restore needs no compiler, and most targets of a warm store do not, so `require` is called by
    the target that is about to be compiled. Threads that ask at the same time wait for one answer.
    The checks are Linux's.
    """

    def __init__(self, project: Project, steps: Sequence[Step], on_progress: OnProgress) -> None:
        self._project, self._steps, self._on_progress = project, steps, on_progress
        self._lock = threading.Lock()
        self._checked = False
        self._error: ToolchainError | None = None

    def require(self, target: Target) -> None:
        """Raise `ToolchainError` if a compile of `target` is sure to fail."""
        if sys.platform != "linux" or has_own_compiler(target):
            return
        with self._lock:
            if not self._checked:
                self._check(target)
                self._checked = True
        if self._error is not None:
            # Each caller gets an error of its own, since it writes its target's name into it.
            raise ToolchainError(
                self._error.message, cause=self._error.cause, hint=self._error.hint
            )

    def check_early(self, *, certain: Callable[[], bool]) -> None:
        """Check now if a target will probably be compiled, while workers import torch.

        An unfit host ends the build here only if a compile is `certain`. Otherwise the store may
        have the code, and a target that needs a compile after all asks again.
        """
        probable = next((step.target for step in self._steps if probably_compiles(step)), None)
        if probable is None:
            return
        try:
            self.require(probable)
        except ToolchainError:
            if certain():
                raise

    def _check(self, target: Target) -> None:
        # Imported here because a restore needs none of the checks.
        from aoti_build.work.host_checks import require_fit_toolchain

        devices = sorted({step.target.device for step in self._steps})
        try:
            require_fit_toolchain(
                self._project,
                devices,
                lambda text: self._on_progress(target, f"warning: {text}"),
            )
        except ToolchainError as error:
            self._error = error
