"""The checks that a build makes before it compiles: the quick ones, once for each toolchain,
remembered when passed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from aoti_build.artifact.paths import inductor_cache_root, passed_checks_path, store_directory
from aoti_build.common.digests import digest_json
from aoti_build.common.fields import digest, list_of, loads, one_of, table, whole
from aoti_build.common.records import read_owned, write_cache_record
from aoti_build.errors import DirectoryError, ToolchainError
from aoti_build.host import installed_torch, toolchain
from aoti_build.host.checks.compiler import check_compiler, check_openssl
from aoti_build.host.checks.directories import check_memory, check_places, check_processors
from aoti_build.host.checks.finding import FAIL, Finding
from aoti_build.host.devices import device_named
from aoti_build.models_file.project import Project

FORMAT = "aoti-build/passed-checks"
FORMAT_VERSION = 1
# Raise it when the checks see more than before: what passed the old ones is then checked again.
CHECKS_VERSION = 2
_KEPT = 16
_PASSED = table({"format": one_of(FORMAT), "format_version": whole(), "keys": list_of(digest)})


def quick_checks(
    devices: Sequence[str], artifacts: Path | None, *, memory: bool = True
) -> list[Finding]:
    """All checks that compile no model and import no torch; less than a second without a GPU.
    `artifacts` is a project's directory, None outside one."""
    if installed_torch.torch_directory() is None:
        fix = "pip install torch torchvision, then run again"
        return [Finding("torch", FAIL, "torch is not installed here", fix=fix, stops=True)]
    store = store_directory(artifacts) if artifacts is not None else None
    findings = [
        check_compiler(),
        check_openssl(),
        *check_places(artifacts, store),
        check_memory(),
        check_processors(),
    ]
    for device in devices:
        findings += device_named(device).checks(memory=memory)
    return findings


def require_fit_toolchain(
    project: Project, devices: Sequence[str], on_warning: Callable[[str], None]
) -> None:
    """Raise `ToolchainError` if a compile for one of `devices` is sure to fail; other doubts go to
    `on_warning`.

    What has passed on this host, with this toolchain and in these directories, is not checked
    again.
    """
    record, key = passed_checks_path(project.artifacts), _key(project, devices)
    passed = _read(record)
    if key in passed:
        return
    failed = [
        finding
        for finding in quick_checks(devices, project.artifacts, memory=False)
        if finding.outcome == FAIL
    ]
    if stopping := [finding for finding in failed if finding.stops]:
        first = stopping[0]
        raise ToolchainError(
            first.said,
            cause="\n".join(
                filter(None, [first.cause, *(finding.said for finding in stopping[1:])])
            )
            or None,
            hint="\n".join(
                [
                    *(finding.fix for finding in stopping if finding.fix),
                    "`invoke doctor` shows all checks",
                ]
            ),
        )
    for finding in failed:
        on_warning(
            f"{finding.check}: {finding.said}" + (f" ({finding.fix})" if finding.fix else "")
        )
    if not failed:
        _write(record, [*passed[-_KEPT + 1 :], key])


def _key(project: Project, devices: Sequence[str]) -> str:
    """Everything that the checks look at and that can be told cheaply."""
    return digest_json(
        {
            "version": CHECKS_VERSION,
            "host": os.uname().nodename,
            "toolchain": {device: toolchain.facts(device) for device in devices},
            "environment": toolchain.environment(),
            "PATH": os.environ.get("PATH", ""),
            "places": [
                _temporary(),
                str(project.artifacts),
                str(store_directory(project.artifacts)),
            ],
        }
    )


def _temporary() -> str:
    try:
        return f"{os.environ.get('TMPDIR')} {tempfile.gettempdir()} {inductor_cache_root()}"
    except (OSError, DirectoryError):
        return "none"


def _read(record: Path) -> list[str]:
    """The keys that passed, oldest first."""
    try:
        document = loads(read_owned(record))
        _PASSED(document)
    except (OSError, ValueError):
        return []
    keys: list[str] = document["keys"]
    return keys if document["format_version"] == FORMAT_VERSION else []


def _write(record: Path, keys: Sequence[str]) -> None:
    """A directory that refuses costs the next build its checks, no more."""
    write_cache_record(record, FORMAT, FORMAT_VERSION, {"keys": list(keys)})
