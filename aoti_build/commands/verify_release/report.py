"""The report of `verify --release`: whose release it is, and how its packages compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aoti_build.commands.conclusion import Failure, code_of, concluding_error, head
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import AotiBuildError, VerificationError

if TYPE_CHECKING:
    from aoti_build.artifact.bundle.record import ReleaseRecord
    from aoti_build.artifact.signing.verify import Signer
    from aoti_build.commands.verify.report import VerifyReport

_NEXT_STEP = (
    "do not use what failed: send this report to whoever published the release; its verify.json has"
    " the figures that they saw"
)


@dataclass(frozen=True)
class ReleaseVerification:
    """A bundle whose files are as they should be, and the comparison of its packages.

    Attributes:
        path: the bundle, as it was named.
        record: its `release.json`.
        sha256: the digest of its `release.json`.
        file_count: the number of files that were compared, without the signature.
        signer: who signed it. None if no signature was verified.
        compared: the verdicts on the packages.
    """

    path: str
    record: ReleaseRecord
    sha256: str
    file_count: int
    signer: Signer | None
    compared: VerifyReport

    @property
    def error(self) -> AotiBuildError | None:
        """The error that ends the task; None if nothing failed."""
        error = self.compared.error
        if error is not None:
            # The receiver cannot build anything.
            error.hint = _NEXT_STEP
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
            "path": self.path,
            "name": self.record.name,
            "version": self.record.version,
            "created": self.record.created,
            "sha256": self.sha256,
            "files": self.file_count,
            "signer": _signer_json(self.signer) if self.signer else None,
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


def _signer_json(signer: Signer) -> JsonObject:
    return {
        "kind": signer.kind,
        "name": signer.name,
        "fingerprint": signer.fingerprint,
        "subject": signer.subject,
        "valid_until": signer.valid_until.isoformat() if signer.valid_until else None,
        "provider": signer.provider,
    }
