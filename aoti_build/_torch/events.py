"""Messages from a worker to its parent while it works: one a line, out on the events pipe and in
on stdin."""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO

from aoti_build.errors import AotiBuildError
from aoti_build.messages import (
    ANSWERS,
    Answer,
    ErrorRecord,
    Event,
    Failure,
    KeysQuestion,
    Phase,
    Span,
    SpanKind,
    Stage,
    Turn,
    TurnQuestion,
    decode,
    encode,
)


class Events:
    """Announces phases and their stages, and asks questions.

    Phases and stages follow one another in the thread that does the job. Spans may come from any
    thread.

    Attributes:
        seconds: wall time of each phase that has ended, for the manifest.
    """

    def __init__(self, stream: IO[str], answers: queue.Queue[str]) -> None:
        self._stream = stream
        self._answers = answers
        self._sending = threading.Lock()
        self._stage: tuple[str, float] | None = None
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the phase `name`, and announce it the first time. Repetitions add up."""
        if name not in self.seconds:
            self._send(Phase(name=name))
        # The disk of the log may be full.
        with contextlib.suppress(OSError):
            print(f"--- {name}", file=sys.stderr, flush=True)
        started = time.monotonic()
        try:
            yield
        finally:
            self._end_stage()
            self.span("phase", name, started)
            total = self.seconds.get(name, 0.0) + time.monotonic() - started
            self.seconds[name] = round(total, 3)

    def stage(self, name: str, done: int = 0, total: int = 0, detail: str = "") -> None:
        """Announce a stage of the current phase, or how far it is. It ends with the next one, or
        with the phase.

        An announcement takes some 20 microseconds. It is for what takes milliseconds.
        """
        if self._stage is None or self._stage[0] != name:
            self._end_stage()
            self._stage = name, time.monotonic()
        self._send(Stage(name=name, done=done, total=total, detail=detail))

    def _end_stage(self) -> None:
        if self._stage is not None:
            name, started = self._stage
            self._stage = None
            self.span("stage", name, started)

    def span(self, kind: SpanKind, name: str, started: float, **facts: str) -> None:
        """Report what began at `started`, by `time.monotonic`, and has ended now."""
        seconds = time.monotonic() - started
        self._send(Span(kind=kind, name=name, start=started, seconds=seconds, facts=facts))

    @contextlib.contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Report the time until the context is left as a wait for `name`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.span("wait", name, started)

    def ask(self, question: KeysQuestion) -> Answer:
        """Send `question` and wait for the parent's answer."""
        self._send(question)
        line = self._answers.get()
        return decode(json.loads(line), *ANSWERS, where="an answer")

    def wait_for_turn(self) -> None:
        """End the turn of this worker, if it has one, and wait for the next."""
        self._send(TurnQuestion())
        decode(json.loads(self._answers.get()), Turn, where="an answer")

    def fail(self, error: AotiBuildError) -> None:
        """Send the error of a worker that cannot write its result."""
        record = ErrorRecord.of(error)
        self._send(Failure(error=record))

    def _send(self, event: Event) -> None:
        line = json.dumps(encode(event)) + "\n"
        # A pipe is broken if the parent died. `__main__` ends this worker then.
        with self._sending, contextlib.suppress(BrokenPipeError):
            self._stream.write(line)


def tell_stage(events: Events) -> Callable[[str], None]:
    """A function that takes texts for people, and announces them as details of the stage
    ``reference``."""

    def tell(text: str) -> None:
        events.stage("reference", detail=text)

    return tell
