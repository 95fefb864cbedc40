"""The report of `verify --release`: whose release it is, and how its packages compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aoti_build.commands.conclusion import Failure, code_of, concluding_error, head
from aoti_build.commands.received.release import NEXT_STEP, ReceivedRelease
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import AotiBuildError, VerificationError

if TYPE_CHECKING:
    from aoti_build.commands.verify.report import VerifyReport


@dataclass(frozen=True)
class ReleaseVerification:
    """A bundle whose files are as they should be, and the verdicts on its packages."""

    release: ReceivedRelease
    compared: VerifyReport

    @property
    def error(self) -> AotiBuildError | None:
        """The error that ends the task; None if nothing failed."""
        error = self.compared.error
        if error is not None:
            error.hint = NEXT_STEP
            return error
        if not self._has_compared():
            return _nothing_compared(self.compared)
        return None

    def _has_compared(self) -> bool:
        """Whether any package was run. Each may be for other hosts than this one."""
        verdicts = self.compared.verdicts
        return any(verdict.verdict != VerdictKind.UNAVAILABLE for verdict in verdicts)

    @property
    def exit_code(self) -> int:
        return code_of(self.error)

    def as_json(self) -> JsonObject:
        compared = self.compared.as_json()
        return {
            **head("aoti-build/release-verification", 1, self.error),
            **self.release.as_json(),
            "strict": compared["strict"],
            "runtime": compared["runtime"],
            "targets": compared["targets"],
        }


def _nothing_compared(report: VerifyReport) -> AotiBuildError:
    failures = []
    for verdict in report.verdicts:
        why = "; ".join(str(reason) for reason in verdict.out_of_date)
        failures.append(Failure(verdict.target.name, why))
    return concluding_error(
        VerificationError,
        "the files of the release are right, and this host can run none of its packages",
        failures,
        hint="verify on a host like the one that will run them",
    )
