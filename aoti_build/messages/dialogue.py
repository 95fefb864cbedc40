"""What a worker reports and asks while it works, and the answers of the build process."""

from __future__ import annotations

from typing import TypeAlias

from aoti_build.messages.parts import ErrorRecord, Message


class Phase(Message, frozen=True):
    """A phase of the job has begun, or continues. `name` is shown to people."""

    name: str


class Failure(Message, frozen=True):
    """The job ended with an error.

    It replaces the result. If the result's file cannot be written, it is sent as an event.
    """

    error: ErrorRecord


class KeysQuestion(Message, frozen=True):
    """The keys of an exported graph, with the question what to do with it."""

    key: str
    graph_key: str


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


Event: TypeAlias = Phase | Failure | KeysQuestion
EVENTS: tuple[type[Event], ...] = (Phase, Failure, KeysQuestion)
Answer: TypeAlias = Take | Repack | Compile
ANSWERS: tuple[type[Answer], ...] = (Take, Repack, Compile)
