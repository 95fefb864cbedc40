"""What a worker tells and asks its parent while it works: one message a line, out on the events
pipe, in on stdin."""

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
    """Phases as they begin and end, and questions; `seconds` keeps the durations for the
    manifest."""

    def __init__(self, stream: IO[str], answers: queue.Queue[str]) -> None:
        self._stream = stream
        self._answers = answers
        self.seconds: dict[str, float] = {}
        self._sending = threading.Lock()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the phase `name`, in seconds of wall time, and announce it the first time."""
        if name not in self.seconds:
            self._send(Phase(name=name))
        with contextlib.suppress(OSError):  # a log on a full disk
            print(f"--- {name}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(
                self.seconds.get(name, 0.0) + time.perf_counter() - started, 3
            )

    @contextlib.contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """Announce every ten seconds what the function that this gives was told last. A phase that
        ends before is not spoken of."""
        told, ended = "", threading.Event()
        started = time.perf_counter()

        def tell(text: str) -> None:
            nonlocal told
            told = text

        def announce() -> None:
            while not ended.wait(PROGRESS_SECONDS):
                self._send(Phase(name=f"{told}, {time.perf_counter() - started:.0f} s"))

        thread = threading.Thread(target=announce, daemon=True)
        thread.start()
        try:
            yield tell
        finally:
            ended.set()
            thread.join()

    def ask(self, question: KeysQuestion) -> Answer:
        """Send `question` and wait for the parent's answer."""
        self._send(question)
        return decode(json.loads(self._answers.get()), *ANSWERS, where="an answer")

    def fail(self, error: AotiBuildError) -> None:
        """Hand over the error of a worker that cannot write its result."""
        self._send(Failure(error=ErrorRecord.of(error)))

    def _send(self, event: Event) -> None:
        # A broken pipe: a parent that is gone is stdin's business, see __main__.
        with self._sending, contextlib.suppress(BrokenPipeError):
            self._stream.write(json.dumps(encode(event)) + "\n")
