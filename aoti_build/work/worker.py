"""Starting, following and stopping worker processes: one job, one process group, one log.

A worker is its own session, so that a Ctrl-C in the terminal reaches only this process, which then
ends the whole group, compilers included. If this process dies without saying goodbye the worker
sees its stdin close and ends itself.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from aoti_build.common.directories import home, require_utf8, temporary_directory
from aoti_build.common.outputs import open_log
from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.common.records import write_json
from aoti_build.errors import (
    AotiBuildError,
    ArtifactError,
    BuildError,
    Interrupted,
    MessageError,
    ToolchainError,
    UsageError,
    VerificationError,
)
from aoti_build.work.crash import crash_of

if TYPE_CHECKING:  # a restore imports this module, and sends no messages
    from aoti_build.messages import Answer, ErrorRecord, Failure, Job, KeysQuestion, Message

_ERRORS = {
    error.kind: error
    for error in (ArtifactError, BuildError, ToolchainError, UsageError, VerificationError)
}
# Set for every worker, whatever this process' environment says.
WORKER_VARIABLES: Mapping[str, str] = {
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
    # Logs are UTF-8, and whatever a model prints can be written there.
    "PYTHONIOENCODING": "utf-8:backslashreplace",
}
# Set too, for each worker as it needs them.
OWN_VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "HOME", "LOGNAME")
_GRACE_SECONDS = 2.0  # of all workers together; the task ends within five

_running: set[subprocess.Popen[bytes]] = set()
_running_lock = threading.Lock()
_stopping = threading.Event()

ResultT = TypeVar("ResultT", bound="Message")
OnPhase = Callable[[str], None]
OnQuestion = Callable[["KeysQuestion"], "Answer"]


class WorkerTimeout(BuildError):
    """A worker was stopped because its time was over."""


def _no_answer(question: KeysQuestion) -> NoReturn:
    raise MessageError(f"a worker asked what only a build may ask: {question.type_name()}")


def run_worker(
    job: Job[ResultT],
    *,
    directory: Path,
    log: Path,
    on_phase: OnPhase = lambda phase: None,
    answer: OnQuestion = _no_answer,
    environment: Mapping[str, str] | None = None,
    limit: float | None = None,
) -> ResultT:
    """Do `job` in a fresh process and return its result.

    Args:
        directory: where job.json and result.json go; the caller's to remove.
        log: gets everything the worker, its compilers and user code print; appended to.
        on_phase: called with the name of each phase as it begins, from this thread.
        answer: called with each question that the worker asks; what it returns is sent back.
        environment: variables set on top of this process's own.
        limit: the most seconds it may take.

    Raises: AotiBuildError: the worker's own error, of its kind, or `WorkerCrash`, `WorkerTimeout`,
        or `Interrupted`. MessageError: the worker is of another release. DirectoryError: the
        temporary directory, the job's `root` or `directory` is unfit.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _write_job(directory, job)
    with Worker(
        type(job), Path(job.root), directory=directory, log=log, environment=environment
    ) as worker:
        return worker.follow(on_phase, answer, limit)


def _write_job(directory: Path, job: Job[Any]) -> None:
    from aoti_build.messages import encode

    write_json(directory / "job.json", encode(job))


class Worker(Generic[ResultT]):
    """A started worker process; leaving the context ends it and everything it started.

    It does the job in ``directory/job.json``. If that is not there yet the worker imports what it
    needs and waits for `give`, so that a job which is known to come can be prepared for.
    """

    def __init__(
        self,
        kind: type[Job[ResultT]],
        root: Path,
        *,
        directory: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        # What torch would say of unfit directories helps nobody.
        temporary_directory()
        require_utf8(root)
        require_utf8(directory)
        self._kind, self._directory, self._log = kind, directory, log
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "result.json").unlink(missing_ok=True)
        read_end, write_end = os.pipe()
        command = [
            sys.executable,
            "-m",
            "aoti_build._torch",
            kind.verb(),
            str(directory / "job.json"),
            str(write_end),
        ]
        self._events = os.fdopen(read_end)
        try:
            with open(open_log(log), "ab") as output:
                variables = {**_own_variables(directory), **WORKER_VARIABLES, **(environment or {})}
                self._process = _start(command, root, output.fileno(), write_end, variables)
        except BaseException:
            self._events.close()
            raise
        finally:
            os.close(write_end)

    def __enter__(self) -> Worker[ResultT]:
        return self

    def __exit__(self, *error: object) -> None:
        _end(self._process)
        self._events.close()

    @property
    def has_ended(self) -> bool:
        """Asked without reaping, as in `_await`."""
        try:
            return (
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
                is not None
            )
        except ChildProcessError:
            return True

    def give(self, job: Job[ResultT]) -> None:
        """Hand the job to a worker that was started without one."""
        _write_job(self._directory, job)
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it crashed; `follow` says how
                self._process.stdin.write(b"\n")
                self._process.stdin.flush()

    def follow(
        self,
        on_phase: OnPhase = lambda phase: None,
        answer: OnQuestion = _no_answer,
        limit: float | None = None,
    ) -> ResultT:
        """Wait for the end and return the result; see `run_worker`."""
        try:
            return self._follow(on_phase, answer, limit)
        except MessageError as error:
            error.log = self._log
            raise

    def _follow(self, on_phase: OnPhase, answer: OnQuestion, limit: float | None) -> ResultT:
        expired = threading.Event()
        with _deadline(self._process, limit, expired):
            failed = _follow(self._events, self._process, on_phase, answer)
            _await(self._process)
        _end(self._process)
        check_stopping()
        if expired.is_set():
            raise WorkerTimeout(
                f"it had not ended after {limit:g} s and was stopped",
                hint="give it longer with --timeout, or see in the log how far it came",
                log=self._log,
            )
        if failed is not None:
            raise error_of(failed.error, self._log)
        path = self._directory / "result.json"
        return _result(self._kind.result_type(), self._process.returncode, path, self._log)


def stop_all() -> None:
    """End every running worker and its compilers, and let no new one start. For Ctrl-C."""
    _stopping.set()
    with _running_lock:
        processes = list(_running)
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        _signal_group(process, signal.SIGKILL)


def allow_starts() -> None:
    """Undo `stop_all`'s ban, for the next verb in the same process."""
    _stopping.clear()


def check_stopping() -> None:
    """Raise `Interrupted` once `stop_all` was called; for whatever else a thread waits for."""
    if _stopping.is_set():
        raise Interrupted("interrupted")


def _own_variables(directory: Path) -> dict[str, str]:
    """Variables of one worker, whose job has `directory`. Directories that they name go with it.

    Importing torch makes inductor's cache directory and reads in it, by default in a place that
    anybody can make first. Where a container's user is a mere number, libraries make a home called
    "~" in the project, and look in vain for the user's name.
    """
    own = {"TORCHINDUCTOR_CACHE_DIR": str(directory / "inductor")}
    if home() is None:
        own["HOME"] = str(directory)
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        own["LOGNAME"] = f"user-{os.geteuid()}"
    return own


def _start(
    command: list[str], root: Path, output: int, events: int, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    with (
        _running_lock
    ):  # so that `stop_all`, from another thread, either ends it or keeps it from being started
        check_stopping()
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=root,
            env={**os.environ, **environment},
            pass_fds=[events],
            start_new_session=True,
        )
        _running.add(process)
    return process


def _follow(
    events: IO[str], process: subprocess.Popen[bytes], on_phase: OnPhase, answer: OnQuestion
) -> Failure | None:
    """Read events until every holder of the pipe is gone; the error of a worker that could not
    write one down."""
    from aoti_build.messages import EVENTS, Failure, Phase, decode

    failed: Failure | None = None
    for line in events:
        try:
            document = json.loads(line)
        except ValueError:
            continue  # a line cut by a crash
        event = decode(document, *EVENTS, where="a worker's event")
        if isinstance(event, Phase):
            on_phase(event.name)
        elif isinstance(event, Failure):
            failed = event
        else:
            _send(process, answer(event))
    return failed


def _send(process: subprocess.Popen[bytes], answer: Answer) -> None:
    from aoti_build.messages import encode

    assert process.stdin is not None
    line = json.dumps(encode(answer)).encode() + b"\n"
    with contextlib.suppress(BrokenPipeError):  # it died over its question; its result says how
        process.stdin.write(line)
        process.stdin.flush()


@contextlib.contextmanager
def _deadline(
    process: subprocess.Popen[bytes], limit: float | None, expired: threading.Event
) -> Iterator[None]:
    """Kill the group once `limit` seconds are over."""

    def stop() -> None:
        expired.set()
        _signal_group(process, signal.SIGKILL)

    timer = threading.Timer(limit, stop) if limit else None
    if timer:
        timer.start()
    try:
        yield
    finally:
        if timer:
            timer.cancel()


def _await(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end without reaping, so that the group's number cannot be reused before `_end`
    signals it."""
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        pass  # `stop_all` reaped it


def _end(process: subprocess.Popen[bytes]) -> None:
    """Whatever happened, leave nothing of the group behind."""
    if process.returncode is None:
        _signal_group(process, signal.SIGKILL)
        process.wait()
    if process.stdin:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    with _running_lock:
        _running.discard(process)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _result(kind: type[ResultT], status: int, path: Path, log: Path) -> ResultT:
    from aoti_build.messages import Failure, decode

    try:
        document = json.loads(read_bytes(path, RECORD_LIMIT))
    except (OSError, ValueError, RecursionError):
        raise crash_of(status, log) from None
    kinds: tuple[type[ResultT | Failure], ...] = (kind, Failure)
    result = decode(document, *kinds, where=path.name)
    if isinstance(result, Failure):
        raise error_of(result.error, log)
    return result


def error_of(record: ErrorRecord, log: Path) -> AotiBuildError:
    """The error that a worker wrote down, of its kind, with the worker's `log`."""
    return _ERRORS.get(record.kind, BuildError)(
        record.message,
        target=record.target,
        where=record.where,
        cause=record.cause,
        hint=record.hint,
        log=log,
    )
