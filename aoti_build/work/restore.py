"""Publishing a stored artifact that was made from exactly the present state.

Apart from `aoti_build.work.target`, because going back to an earlier state should cost little more
than the copy: no worker, none of the modules that start one.
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
    """None if the stored files turn out corrupted or gone. The caller holds the target's lock."""
    started = time.perf_counter()
    stored, target = step.stored, step.target
    if stored is None:
        return None
    with context.place(target, free_later=True) as place:
        context.on_progress(target, "restore")
        files = {place.staged / name: file for name, file in stored.files.items()}
        if not context.store.get_all(files, to_publish=True):
            return None
        place.log.write_text(f"restored from the store: {stored.key}\n")
        check = stored.check
        if not is_verified(stored, target):
            from aoti_build.work.check import check_or_say

            check = check_or_say(
                context, target, place, place.staged, stored.requires, stored.signature
            )
        reasons = tuple(reason.as_json() for reason in step.reasons)
        manifest = replace(stored, check=check, action=Done.RESTORED, reasons=reasons)
        published = context.publish(target, place, manifest, {}, started)
        if stored.unverified and not published.unverified:
            context.store.put(published, artifact_directory(context.project, target))
        return published
