"""What a worker tells its parent while it works: one JSON object a line."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import IO


class Events:
    """Phases as they begin and end; `seconds` keeps the durations for the manifest."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Announce the phase `name` and time it, in seconds of wall time."""
        self._send(phase=name)
        print(f"--- {name}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 3)

    def _send(self, **event: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # a parent that is gone is stdin's business, see __main__
            self._stream.write(json.dumps(event) + "\n")
