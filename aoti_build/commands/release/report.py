"""The report of `release`."""

from __future__ import annotations

from dataclasses import dataclass

from aoti_build.artifact.bundle import layout
from aoti_build.artifact.bundle.record import ReleaseRecord
from aoti_build.commands.build import BuildReport
from aoti_build.commands.conclusion import code_of, error_class, head
from aoti_build.commands.release.parts import GateReport
from aoti_build.commands.release.push import PushReport
from aoti_build.commands.verify.report import VerifyReport
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import AotiBuildError


@dataclass(frozen=True)
class ArchiveFile:
    """The archive of a bundle. `path` is written as the user named it, and `size` is in bytes."""

    path: str
    sha256: str
    size: int

    def as_json(self) -> JsonObject:
        return {"path": self.path, "sha256": self.sha256, "size": self.size}


@dataclass(frozen=True)
class Released:
    """A bundle that was written.

    `sha256` is that of its `release.json`, and `size` the bytes of all its files.
    """

    record: ReleaseRecord
    sha256: str
    size: int
    signed: bool
    archive: ArchiveFile | None = None

    def as_json(self) -> JsonObject:
        targets = []
        for target in self.record.targets:
            targets.append(
                {
                    "target": target.target,
                    "path": f"{layout.artifact_path(target.target)}/model.pt2",
                    "sha256": target.package_sha256,
                    "size": target.size,
                    "key": target.key,
                }
            )
        return {
            "record": layout.RELEASE,
            "sha256": self.sha256,
            "size": self.size,
            "commit": self.record.source.commit,
            "dirty": self.record.source.dirty,
            "created": self.record.created,
            "signature": layout.SIGNATURE if self.signed else None,
            "archive": self.archive.as_json() if self.archive else None,
            "targets": targets,
        }


@dataclass(frozen=True)
class ReleaseReport:
    """The steps of a release, up to the one that failed. `directory` is as the user named it.

    `refused` is why artifacts that were built and verified are not released all the same.
    `unpushed` is why a bundle that was written is not in the registry, and `push_again` the command
    that pushes it.
    """

    directory: str
    version: str
    build: BuildReport
    verify: VerifyReport | None = None
    gate: GateReport | None = None
    refused: AotiBuildError | None = None
    released: Released | None = None
    push: PushReport | None = None
    unpushed: AotiBuildError | None = None
    push_again: str = ""

    @property
    def exit_code(self) -> int:
        return code_of(self.error)

    @property
    def error(self) -> AotiBuildError | None:
        """The error that ends the task; None if the bundle was written, and pushed if asked."""
        if self.build.error is not None:
            return _nothing_released(self.build.error, "build")
        if self.verify is not None and self.verify.error is not None:
            return _nothing_released(self.verify.error, "verify")
        if self.gate is not None and self.gate.error is not None:
            return _nothing_released(self.gate.error)
        if self.refused is not None:
            return _nothing_released(self.refused)
        if self.unpushed is not None:
            return _not_pushed(self.unpushed, self.push_again)
        return None

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/release-report", 1, self.error),
            "directory": self.directory,
            "version": self.version,
            "build": self.build.as_json(),
            "verify": self.verify.as_json() if self.verify else None,
            "bench": self.gate.as_json() if self.gate else None,
            "release": self.released.as_json() if self.released else None,
            "push": self.push.facts() if self.push else None,
        }


def _nothing_released(error: AotiBuildError, task: str | None = None) -> AotiBuildError:
    """The error of a step as that of the release. `task` is the one that shows it again."""
    hint = error.hint
    # The step's own hint speaks of --strict, which a release cannot omit.
    if task is not None:
        hint = (
            f"`invoke {task} --strict` shows it again; `invoke release --target` releases others"
            " without it"
        )
    return error_class(error.exit_code)(
        f"nothing was released: {error.message}",
        target=error.target,
        cause=error.cause,
        hint=hint,
        log=error.log,
    )


def next_push(command: str) -> str:
    """The next step for a bundle that was written and not pushed, which `command` pushes."""
    return f"`{command}` pushes it"


def _not_pushed(error: AotiBuildError, push_again: str) -> AotiBuildError:
    """The error of a push after the bundle was written, which another push can use."""
    again = next_push(push_again)
    # No error of a push has a constructor of its own. Its class keeps the kind in JSON.
    return type(error)(
        f"the release was written and not pushed: {error.message}",
        where=error.where,
        cause=error.cause,
        hint=f"{error.hint}\n{again}" if error.hint else again,
    )
