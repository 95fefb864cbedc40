"""The trace of a build: its shape as Perfetto reads it, and what the profile makes of it."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_projects import TWO_MODELS, FakeWorker, write_project

from aoti_build.artifact.paths import durations_path, trace_path
from aoti_build.commands.build import build
from aoti_build.errors import BuildError
from aoti_build.models_file import Project
from aoti_build.report.profile_text import profile_lines
from aoti_build.report.text import build_lines
from aoti_build.work.profile import profile_of
from aoti_build.work.trace import events_of
from aoti_build.work.watch import Interval

OWN = os.getpid()
KINDS = ("phase", "process", "stage", "program", "wait")
# Two targets one after another, with what their workers said.
BUILD = (
    Interval("a/cpu", OWN, "target", "a/cpu", 10.0, 30.0),
    Interval("a/cpu", OWN, "phase", "start", 10.0, 4.0),
    Interval("a/cpu", OWN, "phase", "compile", 14.0, 20.0),
    Interval("a/cpu", OWN, "phase", "check", 34.0, 6.0),
    Interval("a/cpu", 4242, "process", "build worker", 10.0, 25.0),
    Interval("a/cpu", 4242, "phase", "compile", 14.0, 20.0),
    Interval("a/cpu", 4242, "stage", "codegen", 14.0, 5.0),
    Interval("a/cpu", 4242, "stage", "wrapper", 19.0, 15.0),
    Interval("a/cpu", 4242, "program", "g++ wrapper.o", 19.1, 14.8, {"output": "wrapper.o"}),
    Interval("a/cpu", 4243, "process", "check worker", 14.0, 26.0),
    Interval("b/cpu", OWN, "target", "b/cpu", 40.1, 5.0),
    Interval("b/cpu", OWN, "wait", "waiting for another build of this target", 40.2, 2.0),
    Interval("b/cpu", OWN, "phase", "restore", 42.2, 2.9),
)


def complete_events(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [event for event in document["traceEvents"] if event["ph"] == "X"]


def rows(events: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    by_row: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for event in events:
        by_row.setdefault((event["pid"], event["tid"]), []).append(event)
    yield from by_row.values()


def assert_nested(events: list[dict[str, Any]]) -> None:
    """In each row any two events nest or are apart. Perfetto drops others."""
    for row in rows(events):
        for first in row:
            for second in row:
                start, end = second["ts"], second["ts"] + second["dur"]
                begins_inside = first["ts"] < start < first["ts"] + first["dur"]
                if begins_inside:
                    assert end <= first["ts"] + first["dur"]


def test_every_interval_is_an_event_with_the_names_of_its_rows() -> None:
    events = list(events_of(BUILD))
    complete = [event for event in events if event["ph"] == "X"]
    assert len(complete) == len(BUILD)
    for event in complete:
        assert event.keys() == {"ph", "name", "cat", "pid", "tid", "ts", "dur", "args"}
    compiler = next(event for event in complete if event["name"] == "g++ wrapper.o")
    assert (compiler["ts"], compiler["dur"], compiler["pid"]) == (9_100_000, 14_800_000, 4242)
    assert compiler["args"] == {"target": "a/cpu", "output": "wrapper.o"}
    named = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in events
        if event["name"] == "thread_name"
    }
    assert {(event["pid"], event["tid"]) for event in complete} == named.keys()
    assert named[compiler["pid"], compiler["tid"]] == "programs"
    processes = {
        event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"
    }
    assert processes == {
        OWN: "build",
        4242: "a/cpu: build worker",
        4243: "a/cpu: check worker",
    }


def test_a_phase_is_in_the_row_of_its_process() -> None:
    complete = [event for event in events_of(BUILD) if event["ph"] == "X"]
    assert_nested(complete)
    (worker,) = [row for row in rows(complete) if row[0]["name"] == "build worker"]
    assert [event["name"] for event in worker] == ["build worker", "compile", "codegen", "wrapper"]


@given(
    st.lists(
        st.builds(
            Interval,
            target=st.sampled_from(["a/cpu", "b/cpu"]),
            process=st.sampled_from([OWN, 7]),
            kind=st.sampled_from(KINDS),
            name=st.just("x"),
            start=st.floats(0, 100),
            seconds=st.floats(0, 50),
        ),
        min_size=1,
    )
)
def test_rows_nest_whatever_overlaps(intervals: list[Interval]) -> None:
    complete = [event for event in events_of(intervals) if event["ph"] == "X"]
    assert len(complete) == len(intervals)
    assert_nested(complete)


def test_a_build_with_work_leaves_a_trace_and_another_none(
    project: Project, fake_worker: FakeWorker
) -> None:
    report = build(project, project.targets)
    path = trace_path(project)
    document = json.loads(gzip.decompress(path.read_bytes()))
    complete = complete_events(document)
    assert_nested(complete)
    names = [event["name"] for event in complete if event["cat"] == "phase"]
    assert names[0] == "start"
    assert {"export", "compile", "publish"} <= set(names)
    (whole,) = [event for event in complete if event["cat"] == "target"]
    assert whole["args"] == {"target": "small/cpu", "action": "compiled"}
    assert report.as_json()["trace"] == "artifacts/.logs/trace.json.gz"
    path.unlink()
    again = build(project, project.targets)
    assert not path.exists()
    assert "trace" not in again.as_json()


def test_a_failed_build_leaves_one_too(project: Project, fake_worker: FakeWorker) -> None:
    fake_worker.answers["build"] = BuildError("no")
    build(project, project.targets)
    document = json.loads(gzip.decompress(trace_path(project).read_bytes()))
    (whole,) = [event for event in complete_events(document) if event["cat"] == "target"]
    assert whole["args"]["action"] == "failed"
    # What did not end is no measure of how long it takes.
    assert not durations_path(project).exists()


def test_the_critical_path_goes_back_from_what_ended_last() -> None:
    profile = profile_of(BUILD)
    assert profile.seconds == pytest.approx(35.1)
    parts = [(part.target, part.phase, part.seconds) for part in profile.critical_path]
    assert parts == [
        ("a/cpu", "start", 4.0),
        ("a/cpu", "compile", 20.0),
        ("a/cpu", "check", 6.0),
        ("b/cpu", "restore", 2.9),
    ]
    assert profile.critical_path[1].stages == (("codegen", 5.0), ("wrapper", 15.0))


def test_a_target_beside_the_last_one_is_not_on_the_path() -> None:
    beside = (
        Interval("a/cpu", OWN, "target", "a/cpu", 0.0, 5.0),
        Interval("a/cpu", OWN, "phase", "compile", 0.0, 5.0),
        Interval("b/cpu", OWN, "target", "b/cpu", 0.0, 9.0),
        Interval("b/cpu", OWN, "phase", "compile", 0.0, 9.0),
    )
    assert [part.target for part in profile_of(beside).critical_path] == ["b/cpu"]


def test_the_longest_steps_are_those_that_consist_of_no_others() -> None:
    names = [step.name for step in profile_of(BUILD).longest]
    assert names[:3] == ["g++ wrapper.o", "check", "codegen"]
    assert "compile" not in names
    assert "wrapper" not in names


def test_the_profile_for_people_and_for_programs(tmp_path: Path, fake_worker: FakeWorker) -> None:
    text = "\n".join(profile_lines(profile_of(BUILD)))
    assert "critical path: 32.9 s of 35.1 s" in text
    assert "codegen 5.0 s, wrapper 15.0 s" in text
    assert "14.8 s  a/cpu   program  g++ wrapper.o" in text
    project = write_project(tmp_path, TWO_MODELS)
    report = build(project, project.targets, profile=True)
    assert "critical path:" in "\n".join(build_lines(report))
    assert report.as_json()["profile"].keys() == {"seconds", "critical_path", "longest"}
    # A build with nothing to do has none.
    assert "profile" not in build(project, project.targets, profile=True).as_json()
