"""Building one target: compile job, check in another fresh process, inputs looked at again, manifest, publish.

The artifact directory is exchanged as a whole and last, so whatever happens before leaves the published one as it was.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aoti_build import __version__, host
from aoti_build.digests import digest_file
from aoti_build.errors import BuildError
from aoti_build.files import publish_directory, staging
from aoti_build.fingerprint import Fingerprint, Parts, spec_parts
from aoti_build.layout import (
    artifact_directory,
    inductor_cache_root,
    log_path,
    staging_prefix,
    staging_root,
)
from aoti_build.manifest import GOLDEN, LOG, MODEL, FileRecord, Manifest
from aoti_build.plan import ISA_OPTIONS, Step, current_parts, tolerance, toolchain_parts, weight_parts
from aoti_build.spec.project import Project, Target
from aoti_build.spec.records import target_to_json
from aoti_build.stat_cache import StatCache
from aoti_build.worker import run_worker

OnPhase = Callable[[str], None]
# AOTInductor's own checks of shapes, ranges and dtypes are off unless this is set before the first use.
CHECK_ENVIRONMENT = {"AOTI_RUNTIME_CHECK_INPUTS": "1"}


def build_target(project: Project, step: Step, digests: StatCache, on_phase: OnPhase) -> Manifest:
    """Build `step.target` and publish it. The caller holds the target's lock.

    Raises:
        AotiBuildError: of the worker; or `BuildError` when the check fails or an input was edited meanwhile.
    """
    target, log = step.target, log_path(project, step.target)
    started = time.perf_counter()
    _clear_abandoned(project, target)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    with staging(staging_root(project), staging_prefix(target)) as work:
        staged = work / "artifact"
        staged.mkdir()
        before: Parts = {**toolchain_parts(target), "weights": weight_parts(project, target, digests)}
        made = run_worker(
            "build",
            _build_job(project, target, work, staged, before),
            directory=work / "build",
            log=log,
            on_phase=on_phase,
        )
        checked = check_package(
            project, target, staged, made["signature"], directory=work / "check", log=log, on_phase=on_phase
        )
        seconds = {**made["seconds"], "check": sum(checked["seconds"].values())}
        if not checked["passed"]:
            raise _failed_check(checked, log)
        on_phase("publish")
        source = _source_parts(target, before, made)
        _refuse_edited(project, target, source, digests)
        shutil.copyfile(log, staged / LOG)
        manifest = Manifest(
            target=target.name,
            key=made["key"],
            graph_key=made["graph_key"],
            source=source,
            files={name: _file_record(staged / name) for name in (MODEL, GOLDEN)},
            requires=host.requirements(target),
            signature=made["signature"],
            check=_check_record(target, checked),
            seconds={**seconds, "total": round(time.perf_counter() - started, 3)},
            action="compiled",
            reasons=tuple(reason.as_json() for reason in step.reasons),
            provenance=_provenance(project.root),
        )
        manifest.write(staged)
        publish_directory(staged, artifact_directory(project, target))
    return manifest


def recheck_target(project: Project, step: Step, on_phase: OnPhase) -> Manifest:
    """The tolerance changed: check the published artifact against it and record that. The caller holds the lock."""
    manifest = step.manifest
    if manifest is None:
        raise ValueError("only a published artifact can be checked again")
    target, log = step.target, log_path(project, step.target)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    directory = artifact_directory(project, target)
    with staging(staging_root(project), staging_prefix(target)) as work:
        checked = check_package(
            project, target, directory, manifest.signature, directory=work, log=log, on_phase=on_phase
        )
    if not checked["passed"]:
        raise _failed_check(checked, log)
    renewed = replace(manifest, check=_check_record(target, checked))
    renewed.write(directory)
    return renewed


def check_package(
    project: Project,
    target: Target,
    package: Path,
    signature: Mapping[str, Any],
    *,
    directory: Path,
    log: Path,
    on_phase: OnPhase = lambda phase: None,
) -> dict[str, Any]:
    """Run the `check` job on the package in the directory `package` in a fresh process; its result as it is."""
    job = {
        "root": str(project.root),
        "model": str(package / MODEL),
        "golden": str(package / GOLDEN),
        "device": target.device,
        "tolerance": tolerance(target),
        "outputs": [output["name"] for output in signature["outputs"]],
    }
    return run_worker("check", job, directory=directory, log=log, on_phase=on_phase, environment=CHECK_ENVIRONMENT)


def places(project: Project, target: Target) -> dict[str, str]:
    """Where in models.yaml each thing is that can turn out wrong only in a worker."""
    fields = {
        "source": ("source",),
        "kwargs": ("kwargs", "source"),
        "weights": ("weights",),
        "inputs": ("inputs",),
        "inductor_configs": ("inductor_configs",),
    }
    return {name: project.where(target.model, *path) for name, path in fields.items()}


def _build_job(project: Project, target: Target, work: Path, staged: Path, before: Parts) -> dict[str, Any]:
    clock = work / "clock"
    clock.touch()
    return {
        "root": str(project.root),
        "target": target_to_json(target),
        "staged": str(staged),
        "cache_root": str(inductor_cache_root()),
        "isa_patches": dict(ISA_OPTIONS[target.model.cpu.isa]) if target.device == "cpu" else {},
        "where": places(project, target),
        "toolchain": before["toolchain"],
        "environment": before["environment"],
        # Now, by the clock of the file system that the sources are on, which need not be this host's.
        "started_ns": clock.stat().st_mtime_ns,
    }


def _source_parts(target: Target, before: Parts, made: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {
        "spec": spec_parts(target),
        "config": dict(target.inductor_config),
        "sources": {name: digest for name, digest in made["sources"].items() if name not in before["weights"]},
        "distributions": made["distributions"],
        **before,
    }


def _refuse_edited(project: Project, target: Target, source: Parts, digests: StatCache) -> None:
    """What was built is of what was read; publishing it as the state of now would be a lie if an input changed
    since."""
    now = current_parts(project, target, source, digests)
    changed = list(now.differences(Fingerprint(source).parts))
    if changed:
        raise BuildError(
            f"{changed[0].what} was edited while this target was built, so nothing was published",
            cause="\n".join(map(str, changed)),
            hint="build again",
        )


def _failed_check(checked: Mapping[str, Any], log: Path) -> BuildError:
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


def _check_record(target: Target, checked: Mapping[str, Any]) -> dict[str, Any]:
    return {"passed": True, "tolerance": tolerance(target), "cases": checked["cases"]}


def _file_record(path: Path) -> FileRecord:
    return FileRecord(digest_file(path), path.stat().st_size)


def _clear_abandoned(project: Project, target: Target) -> None:
    """Staging directories of this target that a killed build left; nobody else works on it while we hold its lock."""
    for left in staging_root(project).glob(f"{staging_prefix(target)}*"):
        shutil.rmtree(left, ignore_errors=True)


def _provenance(root: Path) -> dict[str, Any]:
    commit = _git(root, "rev-parse", "HEAD")
    return {
        "aoti_build": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git_commit": commit,
        "git_dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no")) if commit else None,
    }


def _git(root: Path, *words: str) -> str | None:
    """Git's answer, or None without git or outside a repository."""
    try:
        answer = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
