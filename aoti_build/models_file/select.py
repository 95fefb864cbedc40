"""Which targets a command means: ``--target`` globs over target names, in the order of
models.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from aoti_build.errors import UsageError
from aoti_build.models_file.project import Target
from aoti_build.models_file.wording import did_you_mean, nearest

LISTED_TARGETS = 20


def select(targets: Iterable[Target], pattern: str | None) -> tuple[Target, ...]:
    """The targets that any of the comma separated globs in `pattern` matches; all of them without a
    pattern.

    A model's name alone means all its targets. A glob that matches nothing is an error: in a
    release script it is a typing mistake, and doing nothing in silence would pass for success.
    """
    candidates = tuple(targets)
    if not pattern:
        return candidates
    globs = [glob for part in pattern.split(",") if (glob := part.strip())]
    idle = [glob for glob in globs if not any(_matches(target, glob) for target in candidates)]
    if idle or not globs:
        raise _no_match(idle or [pattern], candidates)
    return tuple(target for target in candidates if any(_matches(target, glob) for glob in globs))


def _matches(target: Target, glob: str) -> bool:
    return fnmatchcase(target.name, glob) or fnmatchcase(target.name, f"{glob}/*")


def _no_match(globs: Sequence[str], targets: Sequence[Target]) -> UsageError:
    names = [target.name for target in targets]
    options = [*names, *{target.model.name: None for target in targets}]
    missed = ", ".join(
        repr(glob) + did_you_mean(nearest(glob, options, count=3, among=10_000)) for glob in globs
    )
    if len(names) <= LISTED_TARGETS:
        hint = "the targets are: " + ", ".join(names)
    else:
        hint = f"there are {len(names)} targets; `invoke status` lists them"
    return UsageError(f"no target matches {missed}", hint=hint)
