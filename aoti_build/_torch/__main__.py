"""Entry point of a worker process: read the job, do it, write ``result.json`` beside the job.

The parent holds the other end of stdin for as long as it lives. When that end closes, however the
parent died, the worker kills its own process group, compilers included.

Exit status: 0 with a result; 1 with an error in the result, or on the events pipe if the result
cannot be written. The parent takes any other status for a crash.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

# `started` copies the environment before a job's module imports torch.
from aoti_build._torch import started  # noqa: F401
from aoti_build._torch.events import Events
from aoti_build.common.records import write_json
from aoti_build.common.writing import NO_SPACE, disk_error
from aoti_build.errors import AotiBuildError, BuildError
from aoti_build.messages import JOBS, ErrorRecord, Failure, Job, Message, decode, encode

_STDIN = 0


def main(job_name: str, job_path: Path, events_descriptor: int) -> int:
    """Do the job `job_name`. Returns the exit status."""
    answers = _die_with_parent()
    os.set_inheritable(events_descriptor, False)
    # The parent reads events until the last holder of the pipe is gone: a child that user code
    # forks must not hold it.
    os.register_at_fork(after_in_child=lambda: os.close(events_descriptor))
    module = import_module(f"aoti_build._torch.jobs.{job_name}")
    run: Callable[[Job[Any], Events], Message] = getattr(module, job_name)
    if not job_path.exists():
        # The parent starts workers ahead of their jobs, so that they import torch early. A line on
        # stdin tells that the job's file exists now.
        answers.get()
    with os.fdopen(events_descriptor, "w", buffering=1) as stream:
        events = Events(stream, answers)
        result = _guarded(lambda: run(_read_job(job_name, job_path), events))
        try:
            write_json(job_path.with_name("result.json"), encode(result))
        except OSError as error:
            events.fail(disk_error(error))
            return 1
    return 1 if isinstance(result, Failure) else 0


def _read_job(job_name: str, path: Path) -> Job[Any]:
    """Read the job's file. Raises `MessageError` for the job of another release."""
    document = json.loads(path.read_bytes())
    job = decode(document, JOBS[job_name], where=path.name)
    _import_from(job.python_path)
    return job


def _import_from(directories: tuple[str, ...]) -> None:
    """Import the project's modules from these directories, and before all others."""
    if not directories:
        return
    # `python -m` puts the current directory first.
    if sys.path and sys.path[0] in ("", os.getcwd()):
        del sys.path[0]
    sys.path[:0] = directories


def _guarded(work: Callable[[], Message]) -> Message:
    """The result of `work`, or its error.

    This is the worker boundary, the one place that catches everything that user code raises.
    """
    try:
        return work()
    # User code may raise KeyboardInterrupt or call sys.exit as well.
    except BaseException as error:
        # The disk of the log may be full.
        with contextlib.suppress(OSError):
            traceback.print_exc()
        record = ErrorRecord.of(_as_own_error(error))
        return Failure(error=record)


def _as_own_error(error: BaseException) -> AotiBuildError:
    if isinstance(error, AotiBuildError):
        return error
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return disk_error(error)
    last_line = traceback.format_exception_only(type(error), error)[-1]
    return BuildError(
        f"unexpected {type(error).__name__} in the worker",
        cause=last_line,
        hint="the log has the traceback",
    )


def _die_with_parent() -> queue.Queue[str]:
    """Start a thread that reads stdin, and kills this process group at its end.

    Returns the queue of the lines, which are the parent's answers. All other readers of stdin get
    an empty one, so that no compiler consumes the parent's lines.
    """
    parent = os.dup(_STDIN)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, _STDIN)
    os.close(null)
    answers: queue.Queue[str] = queue.Queue()

    def read_answers() -> None:
        with os.fdopen(parent, encoding="utf-8") as lines:
            for line in lines:
                answers.put(line)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    thread = threading.Thread(target=read_answers, name="die-with-parent", daemon=True)
    thread.start()
    return answers


if __name__ == "__main__":
    code = main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # Skips the teardown of torch and CUDA, which takes time and can only crash.
    os._exit(code)
