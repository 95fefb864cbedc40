"""Workers: processes that do one job each, and the messages with them.

A worker reads its job from ``job.json`` and writes ``result.json`` in the same directory. It sends
events through a pipe, and gets answers through its stdin. If this process dies, the worker finds
its stdin closed and ends itself.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Generic, NoReturn, TypeVar

from aoti_build.common.directories import home, require_utf8, temporary_directory
from aoti_build.common.outputs import open_log
from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.common.records import write_json
from aoti_build.errors import ERROR_OF_KIND, AotiBuildError, BuildError, MessageError
from aoti_build.messages import (
    EVENTS,
    Answer,
    ErrorRecord,
    Failure,
    Job,
    KeysQuestion,
    Message,
    Phase,
    Span,
    Stage,
    Turn,
    TurnQuestion,
    decode,
    encode,
)
from aoti_build.models_file.project import Project, Target
from aoti_build.models_file.tuned import TUNED_FILE, chosen
from aoti_build.work.crash import crash_of
from aoti_build.work.processes import (
    check_stopping,
    end_process,
    has_ended,
    start_process,
    time_limit,
    wait_for_end,
)

# Set for every worker, whatever the environment of this process says.
WORKER_VARIABLES: Mapping[str, str] = {
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
    # Logs are UTF-8, and a model may print anything.
    "PYTHONIOENCODING": "utf-8:backslashreplace",
}
# Set as well, with values that depend on the job; see `job_variables`.
JOB_VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "HOME", "LOGNAME")
# For workers that load packages. AOTInductor checks shapes, ranges and dtypes of inputs only if
# this is set before the first package is loaded.
CHECK_ENVIRONMENT: Mapping[str, str] = {"AOTI_RUNTIME_CHECK_INPUTS": "1"}
# Fields of models.yaml whose values only a worker can check.
_CHECKED_BY_WORKERS = (
    "source",
    "weights",
    "method",
    "inputs",
    "dtype",
    "memory_format",
    "baseline",
    "inductor_configs",
    "imports",
)

ResultT = TypeVar("ResultT", bound=Message)
OnPhase = Callable[[str], None]
OnQuestion = Callable[[KeysQuestion], Answer]
# Returns when it is the worker's turn.
OnTurn = Callable[[], None]
# Called with the process id of the worker, and with what it says beyond its phases.
OnDetail = Callable[[int, Stage | Span], None]


class WorkerTimeout(BuildError):
    """A worker was stopped because it exceeded its time limit."""


def ignore_phase(phase: str) -> None:
    """An `OnPhase` that does nothing."""


def ignore_detail(process: int, event: Stage | Span) -> None:
    """An `OnDetail` that does nothing."""


def refuse_question(question: KeysQuestion) -> NoReturn:
    """An `OnQuestion` for jobs that have no questions."""
    raise MessageError(f"only a build may ask a question, and a worker sent {question.type_name()}")


def refuse_turn() -> NoReturn:
    """An `OnTurn` for jobs that do not take turns."""
    raise MessageError("a worker waits for its turn, and no other one takes turns with it")


def run_worker(
    job: Job[ResultT],
    *,
    directory: Path,
    log: Path,
    on_phase: OnPhase = ignore_phase,
    answer: OnQuestion = refuse_question,
    on_turn: OnTurn = refuse_turn,
    on_detail: OnDetail = ignore_detail,
    environment: Mapping[str, str] | None = None,
    limit: float | None = None,
) -> ResultT:
    """Do `job` in a fresh process and return its result.

    Args:
        directory: for ``job.json`` and ``result.json``. It is made if necessary, and the caller
            removes it.
        log: everything that the worker, its compilers and user code print is appended to it.
        on_phase: called in this thread with the name of each phase when it begins.
        answer: called with each question of the worker. Its return value is sent back.
        on_turn: called when the worker waits for its turn. The worker goes on when it returns.
        on_detail: called with each stage and span of the worker, and at its end with one for the
            process itself.
        environment: variables set on top of this process's own.
        limit: the most seconds that the job may take.

    Raises:
        AotiBuildError: the error that the worker reports, with the same class.
        WorkerCrash: it ended without a result.
        WorkerTimeout: it exceeded `limit`.
        Interrupted: `stop_all` was called.
        MessageError: it belongs to another release of aoti_build.
        DirectoryError: the temporary directory, the job's `root` or `directory` is unfit.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _write_job(directory, job)
    worker = Worker(
        type(job),
        Path(job.root),
        directory=directory,
        log=log,
        on_detail=on_detail,
        environment=environment,
    )
    with worker:
        return worker.follow(on_phase, answer, on_turn=on_turn, limit=limit)


def _write_job(directory: Path, job: Job[Any]) -> None:
    write_json(directory / "job.json", encode(job))


class Worker(Generic[ResultT]):
    """A started worker process. Leaving the context ends it and everything that it started.

    If ``job.json`` is not there yet, the worker imports what it needs and then waits for `give`. A
    worker can therefore be started before its job is known.
    """

    def __init__(
        self,
        kind: type[Job[ResultT]],
        root: Path,
        *,
        directory: Path,
        log: Path,
        on_detail: OnDetail = ignore_detail,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process in `root`, for a job of this kind. The rest is as for `run_worker`."""
        # torch reports unfit directories with errors that name no remedy.
        temporary_directory()
        require_utf8(root)
        require_utf8(directory)
        self._result_type = kind.result_type()
        self._directory = directory
        self._log = log
        self._on_detail = on_detail
        self._name = f"{kind.job_name()} worker"
        self._started = time.monotonic()
        directory.mkdir(parents=True, exist_ok=True)
        # After a crash, the result of an earlier job would be read.
        self._result_path.unlink(missing_ok=True)
        variables = _environment(directory, environment)
        read_end, write_end = os.pipe()
        self._events: IO[str] = os.fdopen(read_end)
        job_path = str(directory / "job.json")
        module = "aoti_build._torch"
        command = [sys.executable, "-m", module, kind.job_name(), job_path, str(write_end)]
        try:
            self._process = _start_logged(command, root, log, write_end, variables)
        except BaseException:
            self._events.close()
            raise
        finally:
            # The events end when the last process with this descriptor ends, so none stays here.
            os.close(write_end)

    def __enter__(self) -> Worker[ResultT]:
        return self

    def __exit__(self, *error: object) -> None:
        end_process(self._process)
        self._events.close()
        seconds = time.monotonic() - self._started
        span = Span(kind="process", name=self._name, start=self._started, seconds=seconds)
        self._on_detail(self._process.pid, span)

    @property
    def has_ended(self) -> bool:
        return has_ended(self._process)

    @property
    def _result_path(self) -> Path:
        return self._directory / "result.json"

    def give(self, job: Job[ResultT]) -> None:
        """Hand the job to a worker that was started without one."""
        _write_job(self._directory, job)
        self._write_line(b"\n")

    def follow(
        self,
        on_phase: OnPhase = ignore_phase,
        answer: OnQuestion = refuse_question,
        *,
        on_turn: OnTurn = refuse_turn,
        limit: float | None = None,
    ) -> ResultT:
        """Wait for the end of the job and return its result. Arguments and errors are those of
        `run_worker`."""
        try:
            return self._follow(on_phase, answer, on_turn, limit)
        except MessageError as error:
            error.log = self._log
            raise

    def _follow(
        self, on_phase: OnPhase, answer: OnQuestion, on_turn: OnTurn, limit: float | None
    ) -> ResultT:
        with time_limit(self._process, limit) as expired:
            failure = self._handle_events(on_phase, answer, on_turn)
            wait_for_end(self._process)
        end_process(self._process)
        check_stopping()
        if expired.is_set():
            raise WorkerTimeout(
                f"the worker had not ended after {limit:g} s and was stopped",
                hint="set a longer --timeout, or look in the log for its last phase",
                log=self._log,
            )
        if failure is not None:
            raise error_of(failure.error, self._log)
        status = self._process.returncode
        return read_result(self._result_type, self._result_path, status=status, log=self._log)

    def _handle_events(
        self, on_phase: OnPhase, answer: OnQuestion, on_turn: OnTurn
    ) -> Failure | None:
        """Handle events until no process has the pipe open.

        Returns the `Failure` of a worker that could not write its result file, if there is one.
        """
        failure: Failure | None = None
        for line in self._events:
            try:
                document = json.loads(line)
            except ValueError:
                continue  # a crash cut the line
            event = decode(document, *EVENTS, where="a worker's event")
            if isinstance(event, Phase):
                on_phase(event.name)
            elif isinstance(event, Stage | Span):
                self._on_detail(self._process.pid, event)
            elif isinstance(event, Failure):
                failure = event
            elif isinstance(event, TurnQuestion):
                on_turn()
                self._reply(Turn())
            else:
                self._reply(answer(event))
        return failure

    def _reply(self, answer: Message) -> None:
        self._write_line(json.dumps(encode(answer)).encode() + b"\n")

    def _write_line(self, line: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        # A worker that has crashed cannot read it. `follow` reports the crash.
        with contextlib.suppress(BrokenPipeError):
            stdin.write(line)
            stdin.flush()


def _start_logged(
    command: list[str],
    root: Path,
    log: Path,
    events: int,
    environment: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    with open(open_log(log), "ab") as output:
        return start_process(
            command,
            root,
            output=output.fileno(),
            events=events,
            environment=environment,
        )


def _environment(directory: Path, variables: Mapping[str, str] | None) -> dict[str, str]:
    """What is set for a worker on top of this process's environment. `variables` come last."""
    environment = {**job_variables(directory), **WORKER_VARIABLES}
    environment.update(variables or {})
    return environment


def job_variables(directory: Path) -> dict[str, str]:
    """The `JOB_VARIABLES` that have to be set for the job in `directory`.

    The directories that they name are removed together with the job's.
    """
    # To import torch makes inductor's cache directory and reads it. The default is a path in the
    # temporary directory that another user can make first.
    variables = {"TORCHINDUCTOR_CACHE_DIR": str(directory / "inductor")}
    # The user of a container may have a number and no name. Libraries then make a home called "~"
    # in the project, or fail to look up the user's name.
    if home() is None:
        variables["HOME"] = str(directory)
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        variables["LOGNAME"] = f"user-{os.geteuid()}"
    return variables


def read_result(result_type: type[ResultT], path: Path, *, status: int, log: Path) -> ResultT:
    """The result that a worker with this exit status wrote to `path`.

    Raises its error if it wrote one, and `WorkerCrash` if the file is missing or incomplete.
    """
    try:
        document = json.loads(read_bytes(path, RECORD_LIMIT))
    except (OSError, ValueError, RecursionError):
        raise crash_of(status, log) from None
    types: tuple[type[ResultT | Failure], ...] = (result_type, Failure)
    result = decode(document, *types, where=path.name)
    if isinstance(result, Failure):
        raise error_of(result.error, log)
    return result


def error_of(record: ErrorRecord, log: Path) -> AotiBuildError:
    """The error that a worker reports, with its class, and with the worker's `log`.

    A kind that no worker should report, such as ``interrupted``, becomes a `BuildError`.
    """
    error_type = ERROR_OF_KIND.get(record.kind, BuildError)
    return error_type(
        record.message,
        target=record.target,
        where=record.where,
        cause=record.cause,
        hint=record.hint,
        log=log,
    )


def yaml_positions(project: Project, target: Target) -> dict[str, str]:
    """Where in models.yaml each field of a target is, as ``models.yaml:LINE:COLUMN``.

    Workers get them for their errors. Without `kwargs` in the file, their position is that of the
    source. A dim has the name ``dims.NAME``, and an option of the preset ``inductor_configs.NAME``.
    """
    model = target.model
    positions = {field: project.location(model, field) for field in _CHECKED_BY_WORKERS}
    for option, location in project.option_locations(target.preset).items():
        positions[f"inductor_configs.{option}"] = location
    choice = chosen(project, target) if project.is_tuned(target) else None
    if choice is not None:
        place = choice.position
        positions["inductor_configs"] = f"{TUNED_FILE}:{place.line}:{place.column}"
    positions["kwargs"] = project.location(model, "kwargs", "source")
    for dim in model.dims:
        name = f"dims.{dim.name}"
        positions[name] = project.location(model, name, "dims")
    return positions
