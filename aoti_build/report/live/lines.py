"""The lines that a build shows while it works, as functions of its state."""

from __future__ import annotations

from collections.abc import Sequence

from aoti_build.report.live.state import Running, State, estimate, stage_seconds, target_left

_LEAST_STAGE = 18
_LEAST_NAME = 16
_GAP = 2


def frame(state: State, now: float, width: int, height: int) -> list[str]:
    """A line for each running target, the oldest first, and a total line.

    No line is longer than `width` - 1, so that no terminal wraps it. There are fewer than `height`
    lines.
    """
    rows = [_cells(running, state, now) for running in state.running.values()]
    most = max(1, height - 2)
    left_out = 0
    if len(rows) > most:
        left_out = len(rows) - most + 1
        rows = rows[: most - 1]
    lines = _aligned(rows, width - 1)
    if left_out:
        lines.append(f"and {left_out} more")
    lines.append(total_line(state, now))
    return [line[: width - 1] for line in lines]


def _cells(running: Running, state: State, now: float) -> list[str]:
    """The target's name, its stage, how long that lasts, and how long the target does."""
    stages = state.expected.get(running.name, {})
    in_stage = clock_text(stage_seconds(running, now))
    if running.stage in stages:
        in_stage += f" of ~{clock_text(stages[running.stage])}"
    elapsed = now - running.began
    in_all = clock_text(elapsed)
    left = target_left(running, state.expected, now)
    if left is not None:
        in_all += f" of ~{clock_text(elapsed + left)}"
    return [running.name, running.stage_text, in_stage, f"({in_all})"]


def _aligned(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """The rows as columns. If they do not fit, the text of the stage gets shorter first, then the
    name, and then the time of the whole target is left out."""
    if not rows:
        return []
    widths = [max(len(row[index]) for row in rows) for index in range(4)]
    # So that the columns do not move with each stage.
    widths[1] = max(widths[1], _LEAST_STAGE)
    for column, least in ((1, _LEAST_STAGE), (0, _LEAST_NAME)):
        excess = sum(widths) + 3 * _GAP - width
        if excess > 0:
            widths[column] = max(min(least, widths[column]), widths[column] - excess)
    if sum(widths) + 3 * _GAP > width:
        widths = widths[:3]
    gap = " " * _GAP
    lines = []
    for row in rows:
        cells = []
        for cell, size in zip(row, widths, strict=False):
            cells.append(_cut(cell, size).ljust(size))
        lines.append(gap.join(cells).rstrip())
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 2)] + ".."


def total_line(state: State, now: float) -> str:
    """How many targets are done, and how long the rest will take."""
    counts = [f"{state.ended} of {state.total} done"]
    if state.failed:
        counts.append(f"{state.failed} failed")
    counts.append(f"{len(state.running)} running")
    if state.waiting:
        counts.append(f"{len(state.waiting)} waiting")
    return f"{', '.join(counts)}; {clock_text(now - state.began)}, {left_text(state, now)}"


def left_text(state: State, now: float) -> str:
    left = estimate(state, now)
    if left.seconds is None:
        return "time left unknown"
    if left.seconds < 1:
        return "longer than the last time" if left.is_whole else "the rest is not known"
    word = "about" if left.is_whole else "at least"
    return f"{word} {clock_text(left.seconds)} left"


def heartbeat(state: State, now: float) -> str:
    """What runs longest, and how far the build is, in one line."""
    total = total_line(state, now)
    if not state.running:
        return total
    oldest = min(state.running.values(), key=lambda running: running.began)
    name, stage, in_stage, in_all = _cells(oldest, state, now)
    return f"{name} is in {stage} for {in_stage} {in_all}; {total}"


def ended_line(name: str, action: str, seconds: float) -> str:
    """``resnet18/cpu compiled in 44.4 s``."""
    word = "after" if action == "failed" else "in"
    return f"{name} {action} {word} {seconds:.1f} s"


def clock_text(seconds: float) -> str:
    """Whole seconds, so that a line changes once a second: ``8 s``, ``2 min 05 s``, ``1 h 02
    min``."""
    whole = int(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
