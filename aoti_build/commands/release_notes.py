"""`NOTES.md` of a release: what is in it, and how it differs from the release before."""

from __future__ import annotations

from collections.abc import Mapping

from aoti_build.artifact.bundle.record import ReleasedTarget, ReleaseRecord
from aoti_build.artifact.reasons import REASON_OF_GROUP

# What people call the groups of key parts.
_WORDS: Mapping[str, str] = {
    "spec": "its entry in models.yaml",
    "config": "the inductor options",
    "sources": "source files",
    "distributions": "imported distributions",
    "modules": "imported modules",
    "variables": "environment variables that the code reads",
    "weights": "the weights",
    "toolchain": "the toolchain",
    "environment": "environment variables of the compiler",
}
_MIB = 1 << 20
_MARKUP = "\\`*_{}[]<>#|"


def notes(record: ReleaseRecord, previous: ReleaseRecord | None) -> str:
    """The notes as Markdown. `previous` is the record of the release before; None without one."""
    lines = [f"# {escaped(record.name)} {escaped(record.version)}", "", *_origin(record), ""]
    lines += ["## Artifacts", ""]
    lines += ["| target | size | torch | device | cases | worst relative error | sha256 |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    lines += [_row(target) for target in record.targets]
    if previous is not None:
        lines += ["", f"## Changes since {escaped(previous.version)}", ""]
        lines += changes(record, previous)
    lines += ["", "## Check it", "", "```sh", "sha256sum -c --strict SHA256SUMS", "```", ""]
    return "\n".join(lines)


def changes(record: ReleaseRecord, previous: ReleaseRecord) -> list[str]:
    """The targets that were added, removed and changed, as lines of a list, with the reasons."""
    old = {target.target: target for target in previous.targets}
    new = {target.target: target for target in record.targets}
    lines = []
    for name in sorted({*old, *new}):
        if name not in old:
            lines.append(f"- {escaped(name)}: added")
        elif name not in new:
            lines.append(f"- {escaped(name)}: removed")
        elif old[name].package_sha256 != new[name].package_sha256:
            lines.append(f"- {escaped(name)}: changed, {_why(old[name], new[name])}")
    same = sum(1 for name in new if name in old and _is_same(old[name], new[name]))
    if same:
        noun = "target is" if same == 1 else "targets are"
        lines.append(f"- {same} {noun} the same, byte by byte")
    return lines or ["- Nothing."]


def changed_groups(old: ReleasedTarget, new: ReleasedTarget) -> tuple[str, ...]:
    """The groups of key parts that differ, in the order of reports."""
    groups = (*REASON_OF_GROUP, *sorted({*old.key_parts, *new.key_parts} - {*REASON_OF_GROUP}))
    return tuple(group for group in groups if old.key_parts.get(group) != new.key_parts.get(group))


def escaped(text: str) -> str:
    """The text for a line of Markdown."""
    plain = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in _MARKUP else letter for letter in plain)


def _is_same(old: ReleasedTarget, new: ReleasedTarget) -> bool:
    return old.package_sha256 == new.package_sha256


def _why(old: ReleasedTarget, new: ReleasedTarget) -> str:
    groups = changed_groups(old, new)
    if not groups:
        return "compiled again from the same inputs"
    words = ", ".join(_WORDS.get(group, group) for group in groups)
    if old.graph_key == new.graph_key:
        return f"since these differ: {words}; the compiled code is the same"
    return f"since these differ: {words}"


def _origin(record: ReleaseRecord) -> list[str]:
    source = record.source
    lines = [f"Dated {record.created}. Made with aoti_build {escaped(record.aoti_build)}."]
    if source.commit is None:
        lines.append("The project was in no checkout.")
        return lines
    place = f" of {escaped(source.repository)}" if source.repository else ""
    lines.append(f"Built from commit `{source.commit}`{place}.")
    if source.dirty:
        lines.append("**Files differed from that commit.**")
    return lines


def _row(target: ReleasedTarget) -> str:
    worst = target.verification.worst_rmse
    cells = [
        escaped(target.target),
        f"{target.size / _MIB:.1f} MiB",
        escaped(str(target.requires.get("torch", ""))),
        escaped(str(target.requires.get("device", ""))),
        str(target.verification.cases),
        "" if worst is None else f"{worst:.2g}",
        f"`{target.package_sha256}`",
    ]
    return f"| {' | '.join(cells)} |"
