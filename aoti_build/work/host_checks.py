"""The host checks of the preflight. A toolchain that has passed them is not checked again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from aoti_build.artifact.paths import inductor_cache_root, passed_checks_path
from aoti_build.common.digests import digest_json
from aoti_build.common.fields import digest, integer, list_of, loads, one_of, table
from aoti_build.common.records import read_owned, write_cache_record
from aoti_build.errors import DirectoryError, ToolchainError
from aoti_build.host import installed_torch, toolchain
from aoti_build.host.checks.compiler import check_compiler, check_openssl
from aoti_build.host.checks.directories import check_memory, check_places, check_processors
from aoti_build.host.checks.finding import FAIL, Finding
from aoti_build.host.devices import device_named
from aoti_build.models_file.project import Project
from aoti_build.store.selection import open_store

FORMAT = "aoti-build/passed-checks"
FORMAT_VERSION = 1
# Increase this number when a check covers more. All toolchains are then checked again.
CHECKS_VERSION = 2
_MAX_KEYS = 16  # one for each toolchain and set of directories that is in use, and some spare
_PASSED = table({"format": one_of(FORMAT), "format_version": integer(), "keys": list_of(digest)})


def quick_checks(
    devices: Sequence[str],
    artifacts: Path | None,
    *,
    memory: bool = True,
) -> list[Finding]:
    """The findings of all checks that compile no model and do not import torch.

    They take less than a second without a GPU. `artifacts` is the artifacts directory of a project;
    None: there is no project. With `memory`, the free memory of GPUs is checked as well.
    """
    if installed_torch.torch_directory() is None:
        # The other checks need the files of torch.
        return [_torch_missing()]
    store = open_store(artifacts) if artifacts is not None else None
    findings = [check_compiler(), check_openssl()]
    findings += check_places(artifacts)
    if store is not None:
        findings.append(store.check())
    findings += [check_memory(), check_processors()]
    for device in devices:
        findings += device_named(device).checks(memory=memory)
    return findings


def _torch_missing() -> Finding:
    return Finding(
        "torch",
        FAIL,
        "torch is not installed here",
        fix="pip install torch torchvision, then run again",
        stops=True,
    )


def require_fit_toolchain(
    project: Project,
    devices: Sequence[str],
    on_warning: Callable[[str], None],
) -> None:
    """Check that this host can compile for `devices`.

    Nothing is checked if this host has passed with the same toolchain and directories before. Each
    failure that may not stop a compile is passed to `on_warning`, as one line.

    Raises `ToolchainError` if every compile would fail.
    """
    record = passed_checks_path(project.main_artifacts)
    key = _key(project, devices)
    passed_keys = read_passed_keys(record)
    if key in passed_keys:
        return
    # The free memory of a GPU changes all the time, so it says nothing about the toolchain.
    findings = quick_checks(devices, project.main_artifacts, memory=False)
    failures = [finding for finding in findings if finding.outcome == FAIL]
    fatal = [finding for finding in failures if finding.stops]
    if fatal:
        raise _unfit_toolchain(fatal)
    for finding in failures:
        remedy = f" ({finding.fix})" if finding.fix else ""
        on_warning(f"{finding.check}: {finding.message}{remedy}")
    if not failures:
        # The record must not grow without limit. The oldest keys are dropped.
        newest = passed_keys[-(_MAX_KEYS - 1) :]
        write_passed_keys(record, [*newest, key])


def _unfit_toolchain(fatal: Sequence[Finding]) -> ToolchainError:
    """The error for one or more failures that stop every compile. The first is its message."""
    first, *others = fatal
    causes = []
    if first.cause:
        causes.append(first.cause)
    for finding in others:
        causes.append(finding.message)
    remedies = [finding.fix for finding in fatal if finding.fix]
    remedies.append("`invoke doctor` shows all checks")
    return ToolchainError(
        first.message,
        cause="\n".join(causes) or None,
        hint="\n".join(remedies),
    )


def _key(project: Project, devices: Sequence[str]) -> str:
    """A digest of everything that the checks depend on and that is quick to read."""
    directories = [
        _temporary_directories(),
        str(project.main_artifacts),
        open_store(project.main_artifacts).address,
    ]
    return digest_json(
        {
            "version": CHECKS_VERSION,
            "host": os.uname().nodename,
            "toolchain": {device: toolchain.facts(device) for device in devices},
            "environment": toolchain.environment(),
            "PATH": os.environ.get("PATH", ""),
            "places": directories,
        }
    )


def _temporary_directories() -> str:
    try:
        return f"{os.environ.get('TMPDIR')} {tempfile.gettempdir()} {inductor_cache_root()}"
    except (OSError, DirectoryError):
        # A check reports the unfit directory.
        return "none"


def read_passed_keys(record: Path) -> list[str]:
    """The keys that have passed, oldest first. An unreadable record has none."""
    try:
        document = loads(read_owned(record))
        _PASSED(document)
    except (OSError, ValueError):
        return []
    if document["format_version"] != FORMAT_VERSION:
        return []
    keys: list[str] = document["keys"]
    return keys


def write_passed_keys(record: Path, keys: Sequence[str]) -> None:
    """If the directory is read-only, nothing is written, and the next build checks again."""
    write_cache_record(record, FORMAT, FORMAT_VERSION, {"keys": list(keys)})
