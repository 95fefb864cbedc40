"""Small parts of the report's page that several of its sections have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aoti_build.commands.report.verification import Verification
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.planning.actions import Action

# States, which are classes of the style sheet.
GOOD = "good"
BAD = "bad"
WARNING = "warning"
NEUTRAL = "neutral"

_STATE_OF_ACTION = {
    Action.UP_TO_DATE: GOOD,
    Action.UNAVAILABLE: NEUTRAL,
}
_STATE_OF_VERDICT = {
    VerdictKind.PASSED: GOOD,
    VerdictKind.UNVERIFIED: WARNING,
    VerdictKind.INCOMPLETE: WARNING,
    VerdictKind.UNAVAILABLE: NEUTRAL,
}
_STATE_OF_COMPARISON = {"better": GOOD, "same": NEUTRAL, "worse": BAD, "unknown": WARNING}


@dataclass(frozen=True)
class Pill:
    """A word with a state."""

    word: str
    state: str


@dataclass(frozen=True)
class Table:
    """A table with a caption. The first cell of a row is its head; `numbers` are the indices of
    columns of figures."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Pill]]
    numbers: Sequence[int] = ()


def table_of(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Pill]],
    numbers: Sequence[int] = (),
) -> Table:
    """A table without the columns that have no content. `numbers` are indices before that."""
    kept = []
    for index in range(len(columns)):
        if any(row[index] for row in rows):
            kept.append(index)
    return Table(
        caption,
        [columns[index] for index in kept],
        [[row[index] for index in kept] for row in rows],
        [place for place, index in enumerate(kept) if index in numbers],
    )


def action_pill(action: Action) -> Pill:
    """What a build would do about a target."""
    return Pill(str(action), _STATE_OF_ACTION.get(action, WARNING))


def verification_pill(verification: Verification | None) -> Pill:
    """Whether an artifact was compared with eager mode."""
    if verification is None:
        return Pill("no artifact", NEUTRAL)
    state = BAD
    for verdict, known in _STATE_OF_VERDICT.items():
        if verification.verdict == verdict:
            state = known
    return Pill(verification.verdict, state)


def verdict_pill(verdict: str) -> Pill:
    """The verdict of a comparison of times. Another release may have other words."""
    return Pill(verdict, _STATE_OF_COMPARISON.get(verdict, WARNING))
