"""`NOTES.md` of a release: what is in it, and how it differs from the release before."""

from __future__ import annotations

from aoti_build.artifact.bundle.record import ReleasedTarget, ReleaseRecord
from aoti_build.commands.release.changes import ChangeKind, change_words, target_changes

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
    lines = []
    same = 0
    for change in target_changes(previous, record):
        if change.kind == ChangeKind.SAME:
            same += 1
        elif change.kind == ChangeKind.CHANGED:
            # A record from elsewhere can name groups of its own.
            words = escaped(change_words(change))
            lines.append(f"- {escaped(change.target)}: changed, {words}")
        else:
            lines.append(f"- {escaped(change.target)}: {change.kind}")
    if same:
        noun = "target is" if same == 1 else "targets are"
        lines.append(f"- {same} {noun} the same, byte by byte")
    return lines or ["- Nothing."]


def escaped(text: str) -> str:
    """The text for a line of Markdown. Characters that a terminal obeys are replaced."""
    letters = []
    for letter in " ".join(text.split()):
        if letter in _MARKUP:
            letters.append("\\")
        letters.append(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}")
    return "".join(letters)


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
