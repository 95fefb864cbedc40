"""A file that another process changes all the time, while a command reads it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

WAYS = ("replace", "write")


@contextlib.contextmanager
def changing(file: Path, other: bytes, way: str, spare: Path) -> Iterator[bytes]:
    """Let `file` have `other` and its own content in turns, every two milliseconds.

    With the way "replace" another file takes its name, which has the name `spare` before. With
    "write" its bytes change in place. The value is its own content, which it has again at the end.
    """
    right = file.read_bytes()
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            _put(file, other if number % 2 else right, way, spare)
            stop.wait(0.002)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield right
    finally:
        stop.set()
        thread.join()
        _put(file, right, way, spare)


def _put(file: Path, content: bytes, way: str, spare: Path) -> None:
    if way == "write":
        with file.open("r+b") as opened:
            opened.write(content)
        return
    spare.write_bytes(content)
    spare.chmod(0o644)
    os.replace(spare, file)
