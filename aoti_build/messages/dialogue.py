"""What a worker reports and asks while it works, and the answers of the build process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from aoti_build.messages.parts import ErrorRecord, Message

# What takes time: a worker process, a phase of its job, a stage of a phase, a program that it
# waited for, a wait for a lock.
SpanKind: TypeAlias = Literal["process", "phase", "stage", "program", "wait"]


class Phase(Message, frozen=True):
    """A phase of the job has begun, or continues. `name` is shown to people."""

    name: str


class Stage(Message, frozen=True):
    """A stage of the current phase has begun, or has come further.

    `name` is one of a few words, so that durations can be kept by it. `detail` is a text for
    people. `done` of `total` parts are finished; `total` is 0 if there are no parts.
    """

    name: str
    done: int = 0
    total: int = 0
    detail: str = ""


class Span(Message, frozen=True):
    """Something that has ended, for the trace.

    `start` is in seconds of the host's monotonic clock, which its processes share.
    """

    kind: SpanKind
    name: str
    start: float
    seconds: float
    facts: Mapping[str, str] = {}


class Failure(Message, frozen=True):
    """The job ended with an error.

    It replaces the result. If the result's file cannot be written, it is sent as an event.
    """

    error: ErrorRecord


class KeysQuestion(Message, frozen=True):
    """The keys of an exported graph, with the question what to do with it."""

    key: str
    graph_key: str


class TurnQuestion(Message, frozen=True):
    """The worker has ended its turn, if it had one, and waits for the next.

    Its timed calls must not overlap with those of the other workers that take turns with it.
    """


class Turn(Message, frozen=True):
    """Answer: it is the worker's turn. It lasts until the next question, or the end of the job."""


class Take(Message, frozen=True):
    """Answer: the package from the store is in the staging directory.

    With `reference_data` its reference data is there too. The worker keeps that if eager mode still
    computes the same values.
    """

    reference_data: bool


class Repack(Message, frozen=True):
    """Answer: replace the weights in the package `template`.

    Each weight begins at a multiple of `alignment` bytes.
    """

    template: str
    alignment: int


class Compile(Message, frozen=True):
    """Answer: compile the graph."""


Event: TypeAlias = Phase | Stage | Span | Failure | KeysQuestion | TurnQuestion
EVENTS: tuple[type[Event], ...] = (Phase, Stage, Span, Failure, KeysQuestion, TurnQuestion)
Answer: TypeAlias = Take | Repack | Compile
ANSWERS: tuple[type[Answer], ...] = (Take, Repack, Compile)
