"""Runs programs in a pseudo-terminal, and reads what a user sees there."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pyte


def in_terminal(
    command: list[str],
    answer: Callable[[str], bytes] = lambda shown: b"",
    *,
    columns: int = 80,
    directory: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> tuple[pyte.Screen, str]:
    """Run a command in a pseudo-terminal of 24 lines, as `script` does. `answer` gives the keys
    that are pressed once when it gives some for what the screen shows. Returns the screen at the
    end, and all texts that it showed."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": "1", **(variables or {})}
    process = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        cwd=directory,
        start_new_session=True,
        # Ctrl-C reaches the processes whose controlling terminal this is.
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads
    )
    os.close(slave)
    screen = pyte.Screen(columns, 24)
    stream = pyte.ByteStream(screen)
    seen: list[str] = []
    pressed = False
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.2)[0]:
            try:
                data = os.read(master, 65536)
            except OSError:
                break  # the last program has closed the terminal
            if not data:
                break
            stream.feed(data)
            seen.append("\n".join(screen.display))
            keys = answer(seen[-1])
            if keys and not pressed:
                os.write(master, keys)
                pressed = True
    process.kill()
    process.wait()
    os.close(master)
    return screen, "\n".join(seen)
