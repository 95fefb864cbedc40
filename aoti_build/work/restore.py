"""Restores a stored artifact that was made from exactly the present state.

This is not a part of `aoti_build.work.target`. To go back to an earlier state should cost little
more than the copy, so it starts no worker and imports no module that starts one.
"""

from __future__ import annotations

import time
from dataclasses import replace

from aoti_build.artifact.manifest import Manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.artifact.verification import is_verified
from aoti_build.planning.actions import Done
from aoti_build.planning.plan import Step
from aoti_build.work.context import BuildContext


def restore(context: BuildContext, step: Step) -> Manifest | None:
    """Publish the stored artifact of a step and return its manifest.

    Returns None if stored files are missing or corrupted. The caller holds the target's lock.
    """
    started = time.perf_counter()
    stored, target = step.stored, step.target
    if stored is None:
        return None
    with context.stage(target, free_later=True) as staging:
        context.watcher.phase(target, "restore")
        files = {staging.artifact / name: record for name, record in stored.files.items()}
        # Each file is digested while it is copied, so a corrupted store is noticed here.
        if not context.store.get_all(files, to_publish=True):
            return None
        staging.log.write_text(f"restored from the store: {stored.key}\n")
        check = stored.check
        if not is_verified(stored, target):
            # Imported here because most restores need no check.
            from aoti_build.work.check import Checker

            checker = Checker(context, target, staging)
            check = checker.check(staging.artifact, stored.requires, stored.signature)
        reasons = tuple(reason.as_json() for reason in step.reasons)
        manifest = replace(stored, check=check, action=Done.RESTORED, reasons=reasons)
        published = context.publish(target, staging, manifest, {}, started)
        if stored.unverified and not published.unverified:
            # Another restore need not make this check again.
            context.store.put(published, artifact_directory(context.project, target))
        return published
