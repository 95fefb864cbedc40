"""Entry of a worker process: read the job, do the verb, write ``result.json`` beside the job.

The parent holds the other end of stdin for as long as it lives. When that end closes, however the
parent died, the worker kills its own process group, compilers included. Exit status: 0 with a
result, 1 with an error in the result, or on the events pipe if the result cannot be written;
anything else is a crash for the parent to explain.
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

from aoti_build._torch.events import Events
from aoti_build.common.records import write_json
from aoti_build.common.writing import NO_SPACE, disk_error
from aoti_build.errors import AotiBuildError, BuildError
from aoti_build.messages import JOBS, ErrorRecord, Failure, Job, Message, decode, encode


def main(verb: str, job_path: Path, events_descriptor: int) -> int:
    answers = _die_with_parent()
    os.set_inheritable(events_descriptor, False)
    # The parent reads events until the last holder of the pipe is gone: a child that user code
    # forks must not hold it.
    os.register_at_fork(after_in_child=lambda: os.close(events_descriptor))
    run: Callable[[Job[Any], Events], Message]
    run = getattr(import_module(f"aoti_build._torch.jobs.{verb}"), verb)
    if not job_path.exists():
        # The parent starts workers ahead of their jobs, so that they import torch early. A line on
        # stdin says that the job's file is there.
        answers.get()
    with os.fdopen(events_descriptor, "w", buffering=1) as stream:
        events = Events(stream, answers)
        result = _guarded(lambda: run(_job(verb, job_path), events))
        try:
            write_json(job_path.with_name("result.json"), encode(result))
        except OSError as error:
            events.fail(disk_error(error))
            return 1
    return 1 if isinstance(result, Failure) else 0


def _job(verb: str, path: Path) -> Job[Any]:
    """Raises `MessageError` for the job of another release."""
    return decode(json.loads(path.read_bytes()), JOBS[verb], where=path.name)


def _guarded(work: Callable[[], Message]) -> Message:
    """The result of `work`, or its error: this is the worker boundary, the one place that catches
    whatever user code raises."""
    try:
        return work()
    except BaseException as error:  # user code may raise KeyboardInterrupt or call sys.exit as well
        with contextlib.suppress(OSError):  # a log on a full disk
            traceback.print_exc()
        return Failure(error=ErrorRecord.of(_failure(error)))


def _failure(error: BaseException) -> AotiBuildError:
    if isinstance(error, AotiBuildError):
        return error
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return disk_error(error)
    return BuildError(
        f"unexpected {type(error).__name__} in the worker",
        cause=traceback.format_exception_only(type(error), error)[-1],
        hint="the log has the traceback",
    )


def _die_with_parent() -> queue.Queue[str]:
    """Read stdin from a thread: lines are the parent's answers, its end is the parent's.

    Everything else gets a null stdin, so that no compiler can read the watched one.
    """
    watched = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    answers: queue.Queue[str] = queue.Queue()

    def watch() -> None:
        with os.fdopen(watched, encoding="utf-8") as lines:
            for line in lines:
                answers.put(line)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()
    return answers


if __name__ == "__main__":
    code = main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # skips torch's and CUDA's teardown, which costs time and can only crash
