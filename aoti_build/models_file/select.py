"""The option ``--target``: globs over target names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from aoti_build.errors import UsageError
from aoti_build.models_file.project import Target
from aoti_build.models_file.wording import did_you_mean, nearest

MAX_LISTED_TARGETS = 20
# The user waits for one message only, so more names are compared than while parsing.
MAX_COMPARED_TARGETS = 10_000


def select(targets: Iterable[Target], pattern: str | None) -> tuple[Target, ...]:
    """Return the targets that match `pattern`, in their order. Without a pattern, return all.

    `pattern` is a list of globs, separated by commas. The name of a model selects all its targets.

    Raises:
        UsageError: a glob matches no target. In a release script this is a typing mistake, and an
            empty selection would look like success.
    """
    candidates = tuple(targets)
    if not pattern:
        return candidates
    stripped_parts = [part.strip() for part in pattern.split(",")]
    globs = [part for part in stripped_parts if part]
    if not globs:
        raise _no_match([pattern], candidates)
    selected: set[str] = set()
    unmatched_globs = []
    for glob in globs:
        matches = [target.name for target in candidates if _matches(target, glob)]
        selected.update(matches)
        if not matches:
            unmatched_globs.append(glob)
    if unmatched_globs:
        raise _no_match(unmatched_globs, candidates)
    return tuple(target for target in candidates if target.name in selected)


def _matches(target: Target, glob: str) -> bool:
    return fnmatchcase(target.name, glob) or fnmatchcase(target.name, f"{glob}/*")


def _no_match(globs: Sequence[str], targets: Sequence[Target]) -> UsageError:
    target_names = [target.name for target in targets]
    model_names = dict.fromkeys(target.model.name for target in targets)
    options = [*target_names, *model_names]
    complaints = []
    for glob in globs:
        matches = nearest(glob, options, count=3, max_options=MAX_COMPARED_TARGETS)
        complaints.append(repr(glob) + did_you_mean(matches))
    if len(target_names) <= MAX_LISTED_TARGETS:
        hint = "the targets are: " + ", ".join(target_names)
    else:
        hint = f"there are {len(target_names)} targets; `invoke status` lists them"
    return UsageError(f"no target matches {', '.join(complaints)}", hint=hint)
