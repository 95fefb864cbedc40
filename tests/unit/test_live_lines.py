"""What a build shows while it works, as a function of its state, the time and the width."""

from __future__ import annotations

import re

import pytest

from aoti_build.planning.actions import Action
from aoti_build.report.live.lines import clock_text, frame, heartbeat, total_line
from aoti_build.report.live.state import Running, State, estimate
from aoti_build.work.watch import Expected, Progress, StageClock

EARLIER: Expected = {
    "resnet18/cpu": {
        "start": 4,
        "export": 6,
        "reference": 2,
        "codegen": 5,
        "wrapper": 20,
        "kernels": 10,
        "link": 1,
        "check": 2,
        "repack": 3,
    },
    "encoder/cpu": {"start": 4, "export": 3, "wrapper": 5, "check": 1},
}


def running(name: str, began: float, *stages: tuple[str, float]) -> Running:
    """A target that entered these stages at these times."""
    found = Running(name, began, StageClock(began))
    for stage, entered in stages:
        found.clock.enter(stage, entered)
        found.progress = Progress(stage)
    return found


def state(*targets: Running, waiting: dict[str, str] | None = None, jobs: int = 2) -> State:
    return State(
        began=0.0,
        jobs=jobs,
        expected=EARLIER,
        waiting=waiting or {},
        running={target.name: target for target in targets},
    )


def test_a_line_tells_stage_elapsed_and_expected_time() -> None:
    target = running("resnet18/cpu", 0, ("export", 4), ("codegen", 10), ("wrapper", 15))
    (line, total) = frame(state(target), now=23, width=80, height=24)
    assert re.split("  +", line) == [
        "resnet18/cpu",
        "wrapper",
        "8 s of ~20 s",
        # 23 s, and 12 of the wrapper, 10 of the kernels, 1 and 2.
        "(23 s of ~48 s)",
    ]
    assert total == "0 of 1 done, 1 running; 23 s, about 25 s left"


def test_counts_and_details_of_a_stage() -> None:
    target = running("a/cpu", 0, ("kernels", 1))
    target.progress = Progress("kernels", 3, 12)
    assert "kernels 3/12" in frame(state(target), 2, 80, 24)[0]
    target = running("a/cpu", 0, ("reference", 1))
    target.progress = Progress("reference", detail="the max inputs in float64\x1b[2J")
    line = frame(state(target), 2, 120, 24)[0]
    assert "reference: the max inputs in float64" in line
    assert "\x1b" not in line


def test_a_first_build_claims_no_time() -> None:
    lines = frame(state(running("new/cpu", 0, ("model", 1))), 3, 80, 24)
    assert re.split("  +", lines[0]) == ["new/cpu", "model", "2 s", "(3 s)"]
    assert lines[1].endswith("time left unknown")


def test_a_stage_that_is_overdue_leaves_the_later_ones() -> None:
    target = running("encoder/cpu", 0, ("wrapper", 7))
    assert estimate(state(target), now=100).seconds == 1
    late = running("encoder/cpu", 0, ("check", 7))
    assert total_line(state(late), now=100).endswith("longer than the last time")


def test_a_compile_that_was_not_needed_counts_no_more() -> None:
    """Weights were exchanged, or the store had the package."""
    repacked = running("resnet18/cpu", 0, ("repack", 10))
    assert estimate(state(repacked), now=11).seconds == 2 + 2  # repack and check
    checked = running("resnet18/cpu", 0, ("check", 10))
    assert estimate(state(checked), now=11).seconds == 1


def test_the_rest_takes_as_long_as_the_fuller_of_the_slots() -> None:
    first = running("resnet18/cpu", 0, ("check", 1))
    waiting = {"encoder/cpu": str(Action.BUILD)}
    alone = estimate(state(first, waiting=waiting, jobs=1), now=1).seconds
    beside = estimate(state(first, waiting=waiting, jobs=2), now=1).seconds
    assert (alone, beside) == (2 + 13, 13)


def test_one_unknown_target_makes_it_the_least() -> None:
    first = running("encoder/cpu", 0, ("check", 1))
    total = total_line(state(first, waiting={"new/cpu": "build"}), now=1)
    assert total.endswith("1 running, 1 waiting; 1 s, at least 1 s left")


def test_a_recheck_expects_no_compile() -> None:
    found = state(waiting={"resnet18/cpu": str(Action.RECHECK)})
    assert estimate(found, 0).seconds == 2


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("height", [3, 5, 24])
def test_a_frame_fits_the_terminal(width: int, height: int) -> None:
    targets = []
    for number in range(9):
        target = running(
            f"a-model-with-a-long-name-{number}/cuda-max-autotune", 0, ("reference", 1)
        )
        target.progress = Progress("reference", detail="the largest inputs in float64")
        targets.append(target)
    lines = frame(state(*targets, jobs=9), 3, width, height)
    assert all(len(line) < width for line in lines)
    assert len(lines) < height
    assert lines[-1].startswith("0 of 9 done"[: width - 1])


def test_at_80_columns_the_stage_and_its_time_stay() -> None:
    name = "a-model-with-a-rather-long-name/cuda-max-autotune"
    target = running(name, 0, ("kernels", 1))
    target.progress = Progress("kernels", 17, 240)
    line = frame(state(target), 70, 80, 24)[0]
    assert "kernels 17/240" in line
    assert "1 min 09 s" in line
    assert ".." in line


def test_a_heartbeat_names_what_runs_longest() -> None:
    oldest = running("resnet18/cpu", 0, ("wrapper", 15))
    text = heartbeat(state(running("encoder/cpu", 20, ("export", 24)), oldest), now=30)
    assert text.startswith("resnet18/cpu is in wrapper for 15 s of ~20 s (30 s of ~")
    assert "0 of 2 done, 2 running; 30 s, about" in text


def test_times_are_whole_seconds() -> None:
    texts = [clock_text(seconds) for seconds in (0.4, 59.9, 61, 3599, 3660)]
    assert texts == ["0 s", "59 s", "1 min 01 s", "59 min 59 s", "1 h 01 min"]
