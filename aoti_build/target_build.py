"""Building one target: from the store, or by a worker; check in another fresh process, inputs looked at again, publish.

The artifact directory is exchanged as a whole and last, so whatever happens before leaves the published one as it was.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aoti_build import host
from aoti_build.digests import digest_file
from aoti_build.errors import BuildError, EditedMeanwhile
from aoti_build.files import lock, publish_directory, staging
from aoti_build.fingerprint import Fingerprint, Parts, Reason, spec_parts
from aoti_build.layout import (
    artifact_directory,
    inductor_cache_root,
    log_path,
    staging_prefix,
    staging_root,
)
from aoti_build.manifest import GOLDEN, LOG, MODEL, FileRecord, Manifest
from aoti_build.plan import ISA_OPTIONS, Step, current_parts, tolerance, toolchain_parts, weight_parts
from aoti_build.provenance import provenance
from aoti_build.spec.project import Project, Target
from aoti_build.spec.records import target_to_json
from aoti_build.stat_cache import StatCache
from aoti_build.store import Store
from aoti_build.worker import OnPhase, Worker, check_stopping, run_worker

# AOTInductor's own checks of shapes, ranges and dtypes are off unless this is set before the first use.
CHECK_ENVIRONMENT = {"AOTI_RUNTIME_CHECK_INPUTS": "1"}
CHECK_DIRECTORY = "check"
TAKE, REPACK, COMPILE = "take", "repack", "compile"


@dataclass(frozen=True)
class TargetBuilder:
    """Builds one target after another; the caller holds the target's lock. Raises the worker's errors and
    `BuildError`."""

    project: Project
    digests: StatCache
    store: Store
    on_progress: Callable[[Target, str], None]

    def build(self, step: Step, *, from_nothing: bool = False) -> Manifest:
        """Export, then take, repack or compile as the keys allow; with `from_nothing` the store is not looked into."""
        started = time.perf_counter()
        target = step.target
        with contextlib.ExitStack() as resources:
            place = resources.enter_context(self._workplace(target))
            before = self._before(target)
            desk = resources.enter_context(_Desk(self.store, place, from_nothing, self._on_phase(target)))
            checker = resources.enter_context(
                _Checker(self.project, place, likely=_repack_is_likely(step) and not from_nothing)
            )
            made = self._work(target, place, before, desk.answer, checker.prepare)
            if desk.action != REPACK:
                checker.close()
            source = _source_parts(target, before, made)
            manifest = Manifest(
                target=target.name,
                models_file=self.project.file.name,
                key=made["key"],
                graph_key=made["graph_key"],
                weights=desk.weights if desk.weights is not None else made["weights"],
                inputs_digest=made["inputs_digest"],
                source=source,
                files={},
                requires=host.requirements(target),
                signature=made["signature"],
                check=self._check(target, place, made["signature"], desk.checked, checker.worker),
                action=_action(desk.action, step, made["graph_key"]),
                reasons=tuple(reason.as_json() for reason in _explained(step, desk.action, made["graph_key"])),
                provenance=provenance(self.project.root),
            )
            seconds = {**made["seconds"], "check": manifest.check["seconds"]}
            self._refuse_edited(target, source)
            return self._publish(target, place, manifest, seconds, started)

    def restore(self, step: Step) -> Manifest | None:
        """Publish the stored artifact that the step found; None if its files turn out corrupted or gone."""
        started = time.perf_counter()
        stored, target = step.stored, step.target
        if stored is None:
            return None
        with self._workplace(target) as place:
            self.on_progress(target, "restore")
            if not all(self.store.fetch(file.sha256, place.staged / name) for name, file in stored.files.items()):
                return None
            place.log.write_text(f"restored from the store: {stored.key}\n")
            manifest = replace(
                stored,
                target=target.name,
                models_file=self.project.file.name,
                check=self._check(target, place, stored.signature, stored.check),
                action="restored",
                reasons=tuple(reason.as_json() for reason in step.reasons),
            )
            self._refuse_edited(target, stored.source)
            return self._publish(target, place, manifest, {}, started)

    def recheck(self, step: Step) -> Manifest:
        """The tolerance changed: check the published artifact against it and record that."""
        manifest, target = step.manifest, step.target
        if manifest is None:
            raise ValueError("only a published artifact can be checked again")
        with self._workplace(target) as place:
            published = replace(place, staged=artifact_directory(self.project, target))
            renewed = replace(manifest, check=self._check(target, published, manifest.signature, None))
        renewed.write(artifact_directory(self.project, target))
        return renewed

    def reproduce(self, step: Step) -> None:
        """Compile the published artifact's sources again from nothing; raise `BuildError` unless the bytes are the
        same."""
        published, target = step.manifest, step.target
        if published is None:
            raise BuildError("there is no artifact to reproduce", target=target.name)
        with self._workplace(target) as place:
            with _Desk(self.store, place, True, self._on_phase(target)) as desk:
                made = self._work(target, place, self._before(target), desk.answer)
            digest = digest_file(place.staged / MODEL)
            if digest != published.files[MODEL].sha256:
                raise BuildError(
                    "building it again gave other bytes",
                    cause=f"{MODEL} was {published.files[MODEL].sha256[:12]}, is {digest[:12]}; "
                    f"key was {published.key[:12]}, is {made['key'][:12]}",
                    hint="autotuning on a GPU and memory-mapped weights are not reproducible; see docs/architecture.md",
                    log=place.log,
                )

    def _work(
        self,
        target: Target,
        place: _Place,
        before: Parts,
        answer: Callable[..., Any],
        also: OnPhase = lambda phase: None,
    ) -> dict[str, Any]:
        def on_phase(phase: str) -> None:
            self.on_progress(target, phase)
            also(phase)

        job = self._job(target, place, before)
        return run_worker("build", job, directory=place.work / "build", log=place.log, on_phase=on_phase, answer=answer)

    def _check(
        self,
        target: Target,
        place: _Place,
        signature: Mapping[str, Any],
        known: Mapping[str, Any] | None,
        worker: Worker | None = None,
    ) -> dict[str, Any]:
        """The check's record; `known` is that of an earlier check of these very bytes, good if the tolerance is the
        same."""
        if known is not None and known.get("tolerance") == tolerance(target):
            return {**known, "seconds": 0.0}
        result = check_package(
            self.project,
            target,
            place.staged,
            signature,
            directory=place.work / CHECK_DIRECTORY,
            log=place.log,
            on_phase=self._on_phase(target),
            worker=worker,
        )
        if not result["passed"]:
            raise _failed_check(result, place.log)
        seconds = round(sum(result["seconds"].values()), 3)
        return {"passed": True, "tolerance": tolerance(target), "cases": result["cases"], "seconds": seconds}

    def _publish(
        self, target: Target, place: _Place, manifest: Manifest, seconds: Mapping[str, float], started: float
    ) -> Manifest:
        self.on_progress(target, "publish")
        shutil.copyfile(place.log, place.staged / LOG)
        final = replace(
            manifest,
            files=manifest.files or {name: _file_record(place.staged / name) for name in (MODEL, GOLDEN)},
            seconds={**seconds, "total": round(time.perf_counter() - started, 3)},
        )
        final.write(place.staged)
        directory = artifact_directory(self.project, target)
        publish_directory(place.staged, directory)
        if final.action != "restored":
            self.store.add(final, directory)
        self.store.register(self.project.artifacts)
        return final

    def _refuse_edited(self, target: Target, source: Parts) -> None:
        """What was built is of what was read; publishing it as today's state would be a lie if an input changed
        since."""
        now = current_parts(self.project, target, source, self.digests)
        changed = list(now.differences(Fingerprint(source).parts))
        if changed:
            raise EditedMeanwhile(changed[0].what, cause="\n".join(map(str, changed)))

    @contextlib.contextmanager
    def _workplace(self, target: Target) -> Iterator[_Place]:
        """A staging directory and an empty log; what a killed build of this target left is removed first."""
        log, root = log_path(self.project, target), staging_root(self.project)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        for left in root.glob(f"{staging_prefix(target)}*"):
            shutil.rmtree(left, ignore_errors=True)
        with staging(root, staging_prefix(target)) as work:
            staged = work / "artifact"
            staged.mkdir()
            yield _Place(work, staged, log)

    def _before(self, target: Target) -> Parts:
        """The parts of the source key that are known before the worker reports what it used."""
        return {**toolchain_parts(target), "weights": weight_parts(self.project, target, self.digests)}

    def _job(self, target: Target, place: _Place, before: Parts) -> dict[str, Any]:
        clock = place.work / "clock"
        clock.touch()
        return {
            "root": str(self.project.root),
            "target": target_to_json(target),
            "staged": str(place.staged),
            "cache_root": str(inductor_cache_root()),
            "isa_patches": dict(ISA_OPTIONS[target.model.cpu.isa]) if target.device == "cpu" else {},
            "where": places(self.project, target),
            "toolchain": before["toolchain"],
            "environment": before["environment"],
            # Now, by the clock of the file system that the sources are on, which need not be this host's.
            "started_ns": clock.stat().st_mtime_ns,
        }

    def _on_phase(self, target: Target) -> OnPhase:
        def on_phase(phase: str) -> None:
            self.on_progress(target, phase)

        return on_phase


@dataclass(frozen=True)
class _Place:
    """Where one target is worked on: `work` is removed at the end, `staged` in it becomes the artifact."""

    work: Path
    staged: Path
    log: Path


class _Desk(contextlib.ExitStack):
    """Answers the worker's question what to do, from its keys: the store's package, its code, or a compile.

    Who compiles a graph holds its lock until the artifact is in the store (the desk is closed then), so that another
    target or build with the same graph waits and takes the code from there.
    """

    def __init__(self, store: Store, place: _Place, from_nothing: bool, on_phase: OnPhase) -> None:
        super().__init__()
        self.store, self.place, self.from_nothing, self.on_phase = store, place, from_nothing, on_phase
        self.action = COMPILE
        self.weights: Mapping[str, Any] | None = None
        self.checked: Mapping[str, Any] | None = None

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        if self.from_nothing:
            return {"action": COMPILE, "golden": True}
        stored = self._take(question) or self._repack(question)
        if stored is None:
            waited = self._wait_for(self.store.compile_lock(question["graph_key"]))
            stored = (self._take(question) or self._repack(question)) if waited else None
        return stored or {"action": COMPILE, "golden": True}

    def _wait_for(self, path: Path) -> bool:
        """Take the lock; whether somebody else held it."""
        waited = False

        def on_wait() -> None:
            nonlocal waited
            check_stopping()
            if not waited:
                self.on_phase("waiting for the same graph's compile")
            waited = True

        try:
            self.enter_context(lock(path, on_wait))
        except OSError:
            return False  # a store that cannot be written to: the worst is that two compile the same
        return waited

    def _take(self, question: Mapping[str, Any]) -> dict[str, Any] | None:
        """The very package, and its golden files if those are of the same inputs."""
        hit = self.store.by_key(question["key"])
        if hit is None or not self.store.fetch(hit.files[MODEL].sha256, self.place.staged / MODEL):
            return None
        self.action, self.weights = TAKE, hit.weights
        same_inputs = hit.inputs_digest == question["inputs_digest"]
        if same_inputs and self.store.fetch(hit.files[GOLDEN].sha256, self.place.staged / GOLDEN):
            self.checked = hit.check
        return {"action": TAKE, "golden": self.checked is None}

    def _repack(self, question: Mapping[str, Any]) -> dict[str, Any] | None:
        """A package of the same graph whose weights can be exchanged."""
        hit, template = self.store.by_graph(question["graph_key"]), self.place.work / "template.pt2"
        if hit is None or not self.store.fetch(hit.files[MODEL].sha256, template):
            return None
        self.action, self.weights = REPACK, hit.weights
        return {"action": REPACK, "template": str(template), "alignment": hit.weights["alignment"], "golden": True}


class _Checker(contextlib.ExitStack):
    """The process of a check, started while the export still runs when a repack is likely: importing torch takes longer
    than everything else that a repack does."""

    def __init__(self, project: Project, place: _Place, *, likely: bool) -> None:
        super().__init__()
        self._project, self._place, self._likely = project, place, likely
        self.worker: Worker | None = None

    def prepare(self, phase: str) -> None:
        if phase == "export" and self._likely:
            directory = self._place.work / CHECK_DIRECTORY
            self.worker = self.enter_context(
                Worker(
                    "check",
                    self._project.root,
                    directory=directory,
                    log=self._place.log,
                    environment=CHECK_ENVIRONMENT,
                )
            )

    def close(self) -> None:
        super().close()
        self.worker = None


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


def _repack_is_likely(step: Step) -> bool:
    """The published code could take other weights, and code, options and toolchain seem to be the same."""
    apart = step.manifest is not None and bool(step.manifest.weights.get("apart"))
    kinds = {reason.reason for reason in step.reasons}
    return apart and not kinds & {"config-changed", "toolchain-changed", "forced"} and not kinds <= {"source-changed"}


def _action(done: str, step: Step, graph_key: str) -> str:
    """The contract's word for what was done: weights-only when this target's own code was kept."""
    if done == COMPILE:
        return "compiled"
    if done == REPACK and step.manifest is not None and step.manifest.graph_key == graph_key:
        return "repacked"
    return "reused"


def _explained(step: Step, done: str, graph_key: str) -> tuple[Reason, ...]:
    """The step's reasons, and why new weights needed a compile where only they are new."""
    old = step.manifest
    if done == COMPILE and old is not None and old.graph_key == graph_key and old.weights.get("apart") is False:
        return (*step.reasons, Reason("weights-in-code", str(old.weights.get("why"))))
    return step.reasons


def _source_parts(target: Target, before: Parts, made: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {
        "spec": spec_parts(target),
        "config": dict(target.inductor_config),
        "sources": {name: digest for name, digest in made["sources"].items() if name not in before["weights"]},
        "distributions": made["distributions"],
        "variables": made["variables"],
        **before,
    }


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


def _file_record(path: Path) -> FileRecord:
    return FileRecord(digest_file(path), path.stat().st_size)
