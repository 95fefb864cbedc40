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
    decode,
    encode,
)

PROGRESS_SECONDS = 10.0


class Events:
    """Announces phases and asks questions.

    Attributes:
        seconds: wall time of each phase that has ended, for the manifest.
    """

    def __init__(self, stream: IO[str], answers: queue.Queue[str]) -> None:
        self._stream = stream
        self._answers = answers
        self._sending = threading.Lock()
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the phase `name`, and announce it the first time. Repetitions add up."""
        if name not in self.seconds:
            self._send(Phase(name=name))
        # The disk of the log may be full.
        with contextlib.suppress(OSError):
            print(f"--- {name}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            total = self.seconds.get(name, 0.0) + elapsed
            self.seconds[name] = round(total, 3)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """Give a function that takes the current step, and announce that step every ten seconds.

        A step that ends sooner is not announced.
        """
        step = ""
        ended = threading.Event()
        started = time.perf_counter()

        def set_step(text: str) -> None:
            nonlocal step
            step = text

        def announce() -> None:
            while not ended.wait(PROGRESS_SECONDS):
                elapsed = time.perf_counter() - started
                self._send(Phase(name=f"{step}, {elapsed:.0f} s"))

        thread = threading.Thread(target=announce, daemon=True)
        thread.start()
        try:
            yield set_step
        finally:
            ended.set()
            thread.join()

    def ask(self, question: KeysQuestion) -> Answer:
        """Send `question` and wait for the parent's answer."""
        self._send(question)
        line = self._answers.get()
        return decode(json.loads(line), *ANSWERS, where="an answer")

    def fail(self, error: AotiBuildError) -> None:
        """Send the error of a worker that cannot write its result."""
        record = ErrorRecord.of(error)
        self._send(Failure(error=record))

    def _send(self, event: Event) -> None:
        line = json.dumps(encode(event)) + "\n"
        # A pipe is broken if the parent died. `__main__` ends this worker then.
        with self._sending, contextlib.suppress(BrokenPipeError):
            self._stream.write(line)
