"""Worker processes seen from outside: results, errors, crashes, phases; and nothing of them
outlives its parent."""

from __future__ import annotations

import errno
import io
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from signers import write_private
from small_projects import REAL_PYTHON

from aoti_build import errors
from aoti_build._torch.__main__ import _guarded
from aoti_build._torch.events import Events
from aoti_build.artifact.signing.private_keys import read_signing_key
from aoti_build.common import secrets
from aoti_build.common.records import write_json
from aoti_build.common.writing import disk_error
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
from aoti_build.messages import (
    Answer,
    Compile,
    CompileJob,
    CompileResult,
    ErrorRecord,
    Failure,
    KeysQuestion,
    Message,
    Repack,
    encode,
)
from aoti_build.work import processes
from aoti_build.work.crash import WorkerCrash
from aoti_build.work.processes import allow_starts, stop_all
from aoti_build.work.worker import Worker, error_of, run_worker

# What a stub worker has: the job, `phase`, `result`, and a pipe that is open as long as any process
# of its group lives.
PRELUDE = """\
import json, os, resource, signal, subprocess, sys, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
job_name, job_path, events = sys.argv[3], sys.argv[4], int(sys.argv[5])
job = json.load(open(job_path))
def message(kind, **fields):
    return {"format": "aoti-build/message", "format_version": 1, "type": kind, **fields}
def send(kind, **fields):
    os.write(events, (json.dumps(message(kind, **fields)) + chr(10)).encode())
def write(kind, **fields):
    with open(os.path.join(os.path.dirname(job_path), "result.json"), "w") as file:
        json.dump(message(kind, **fields), file)
def phase(name):
    send("phase", name=name)
def ask():
    send("keys-question", key="a", graph_key=str(os.getpid()))
    return json.loads(sys.stdin.readline())
def wait_for_turn():
    send("turn-question")
    return json.loads(sys.stdin.readline())
def result(**seconds):
    write("compile-result", seconds=seconds)
def error(**value):
    write("failure", error=value)
"""
Run = Callable[..., CompileResult]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a script as the worker of a job."""

    def run_script(script: str, **options: Any) -> CompileResult:
        monkeypatch.setattr(sys, "executable", stub(tmp_path / "stub", script))
        return run_worker(
            job_in(tmp_path), directory=tmp_path / "work", log=tmp_path / "logs" / "log", **options
        )

    return run_script


def job_in(root: Path) -> CompileJob:
    return CompileJob(root=str(root), command=("c++",), what="the runner")


class Lifeline:
    """A pipe by name that a stub's group keeps open; `ended` once every one of its processes is
    gone."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def wait_for_start(self) -> None:
        assert self._read(), "the stub did not start"

    def ended(self) -> bool:
        return self._read() == b""

    def close(self) -> None:
        os.close(self._reader)

    def _read(self) -> bytes | None:
        """What was written, nothing at the end, None if neither came within some seconds."""
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if select.select([self._reader], [], [], 0.05)[0]:
                try:
                    data = os.read(self._reader, 100)
                except BlockingIOError:
                    continue
                if data or self._begun:
                    self._begun = True
                    return data
                time.sleep(0.01)  # nobody has opened the other end yet
        return None

    _begun = False


@pytest.fixture
def lifeline(tmp_path: Path) -> Iterator[Lifeline]:
    made = Lifeline(tmp_path / "lifeline")
    yield made
    made.close()


# A worker with a child of its own (as a compiler is), which both ignore polite signals.
WITH_CHILD = """
line = os.open(job["root"] + "/lifeline", os.O_WRONLY)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "1000"], pass_fds=[line])
os.write(line, b"started")
"""


def test_a_worker_gets_no_secret_of_the_command(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs code of models and of packages."""
    write_private(tmp_path / "key.pem", passphrase=b"secret")
    monkeypatch.setattr(secrets, "_secret", {secrets.REGISTRY_PASSWORD})
    names = ("AOTI_BUILD_REGISTRY_PASSWORD", "SIGN_PASS", "OTHER")
    for name in names:
        monkeypatch.setenv(name, "secret")
    script = f"result(**{{name: float(name in os.environ) for name in {names}}})"
    assert run(script).seconds == dict(zip(names, (0.0, 1.0, 1.0), strict=True))
    read_signing_key(tmp_path / "key.pem", passphrase_variable="SIGN_PASS")
    assert run(script).seconds == dict(zip(names, (0.0, 0.0, 1.0), strict=True))
    assert os.environ["SIGN_PASS"] == "secret"


def test_a_result_comes_back(run: Run, tmp_path: Path) -> None:
    found = run(
        "print(job_name, job['command'], os.getcwd(), sys.stdin.isatty(), flush=True);"
        " result(compile=1.5)"
    )
    assert found == CompileResult(seconds={"compile": 1.5})
    assert (tmp_path / "logs" / "log").read_text() == f"compile ['c++'] {tmp_path} False\n"


def test_everything_printed_is_in_the_log(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "log"
    log.parent.mkdir()
    log.write_text("earlier\n")
    run("os.system('echo of a child'); print('out'); print('err', file=sys.stderr); result()")
    assert log.read_text().split("\n")[0] == "earlier"
    assert {"of a child", "out", "err"} <= set(log.read_text().splitlines())


def test_variables_are_set_on_top(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHERITED", "1")
    found = run(
        "result(**{name: float(os.environ[name]) for name in ('INHERITED', 'GIVEN')})",
        environment={"GIVEN": "2"},
    )
    assert found.seconds == {"INHERITED": 1, "GIVEN": 2}


def test_phases_arrive_in_order_as_they_begin(run: Run) -> None:
    seen: list[str] = []
    run("phase('export'); phase('compile'); phase('check'); result()", on_phase=seen.append)
    assert seen == ["export", "compile", "check"]


def test_a_phase_arrives_before_the_worker_goes_on(run: Run, tmp_path: Path) -> None:
    script = (
        "phase('one')\nwhile not os.path.exists(job['root'] + '/seen'): time.sleep(0.01)\nresult()"
    )
    run(script, on_phase=lambda _: (tmp_path / "seen").touch())


def test_a_cut_event_is_not_an_error(run: Run) -> None:
    seen: list[str] = []
    run("phase('one'); os.write(events, b'{\"phase\": \"tw'); result()", on_phase=seen.append)
    assert seen == ["one"]


def subclasses(error: type[AotiBuildError]) -> Iterator[type[AotiBuildError]]:
    """All that are defined in `errors.py`."""
    for subclass in error.__subclasses__():
        if subclass.__module__ == errors.__name__:
            yield subclass
            yield from subclasses(subclass)


def test_an_error_of_every_class_keeps_its_exit_code(tmp_path: Path) -> None:
    # Only the parent is interrupted, reads models.yaml, plans, verifies signatures and asks a
    # registry.
    of_the_parent = {
        Interrupted,
        errors.SpecError,
        errors.OutOfDateError,
        errors.SignatureError,
        errors.NetworkError,
    }
    for error in set(subclasses(AotiBuildError)) - of_the_parent:
        reported = error_of(ErrorRecord(kind=error.kind, message="no"), tmp_path)
        assert reported.exit_code == error.exit_code, error


@pytest.mark.parametrize("kind", ["interrupted", "spec", "of a later release"])
def test_a_worker_cannot_interrupt_other_targets(run: Run, kind: str) -> None:
    with pytest.raises(BuildError) as caught:
        run(f"error(kind={kind!r}, message='no'); sys.exit(1)")
    assert caught.value.message == "no"


@pytest.mark.parametrize(
    "kind", [ArtifactError, BuildError, ToolchainError, UsageError, VerificationError]
)
def test_a_reported_error_is_raised_as_what_it_is(
    run: Run, tmp_path: Path, kind: type[AotiBuildError]
) -> None:
    with pytest.raises(kind) as caught:
        run(
            f"error(kind={kind.kind!r}, message='no', where='models.yaml:1:2', cause='because',"
            " hint='do'); sys.exit(1)"
        )
    error = caught.value
    assert (error.message, error.where, error.cause, error.hint) == (
        "no",
        "models.yaml:1:2",
        "because",
        "do",
    )
    assert error.log == tmp_path / "logs" / "log"
    assert error.exit_code == kind.exit_code


@pytest.mark.parametrize(
    ("name", "hint"),
    [("SIGSEGV", "CXX"), ("SIGKILL", "memory"), ("SIGILL", "instructions"), ("SIGABRT", "log")],
)
def test_a_crash_names_its_signal(run: Run, name: str, hint: str) -> None:
    with pytest.raises(WorkerCrash) as caught:
        run(f"print('last words', flush=True); os.kill(os.getpid(), signal.{name})")
    assert caught.value.signal_name == name
    assert name in caught.value.message
    assert hint in (caught.value.hint or "")
    assert "last words" in (caught.value.cause or "")


def test_a_signal_without_a_name_is_told_by_its_number(run: Run) -> None:
    with pytest.raises(WorkerCrash, match=f"signal {signal.SIGRTMIN + 6}"):
        run("os.kill(os.getpid(), signal.SIGRTMIN + 6)")


def test_a_result_of_an_earlier_job_in_the_same_directory_is_not_taken(run: Run) -> None:
    run("result()")
    with pytest.raises(WorkerCrash, match="status 0"):
        run("os._exit(0)")


def test_questions_are_answered_in_turn(run: Run) -> None:
    asked: list[KeysQuestion] = []

    def answer(question: KeysQuestion) -> Answer:
        asked.append(question)
        return Repack(template="two\nlines", alignment=len(asked))

    script = """
phase('one')
first, second = ask(), ask()
assert first["type"] == second["type"] == "repack"
assert first["template"] == second["template"] == "two\\nlines"
result(first=first["alignment"], second=second["alignment"])
"""
    assert run(script, answer=answer).seconds == {"first": 1, "second": 2}
    assert [question.key for question in asked] == ["a", "a"]


def test_a_worker_waits_for_its_turn(run: Run, tmp_path: Path) -> None:
    ready = tmp_path / "ready"

    def on_turn() -> None:
        assert not ready.exists(), "the worker went on before its turn"
        ready.touch()

    script = """
assert wait_for_turn()["type"] == "turn"
result(seen=float(os.path.exists(job["root"] + "/ready")))
"""
    assert run(script, on_turn=on_turn).seconds == {"seen": 1}


def test_a_turn_that_nobody_gives_ends_the_worker(run: Run) -> None:
    with pytest.raises(MessageError, match="waits for its turn"):
        run("wait_for_turn()")


def test_a_question_that_nobody_can_answer_ends_the_worker(run: Run, lifeline: Lifeline) -> None:
    with pytest.raises(MessageError, match="keys-question"):
        run(WITH_CHILD + "ask()")
    lifeline.wait_for_start()
    assert lifeline.ended()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("send('phase', name='one', colour='red')", "phase: .* unknown field `colour`"),
        ("send('phase', name=1)", r"phase: Expected `str`, got `int` - at `\$\.name`"),
        ("send('story')", "it is a story, where a phase"),
        ("os.write(events, b'[]' + bytes([10]))", "its format is not"),
        ("send('phase', name='one', format_version=2)", "it has format version 2"),
        ("write('compile-result', seconds={}, format_version=2)", "it has format version 2"),
        ("write('build-result')", "it is a build-result, where a compile-result or failure"),
        ("write('compile-result')", "compile-result: .* missing required field `seconds`"),
    ],
)
def test_a_worker_of_another_release_is_refused(
    run: Run, lifeline: Lifeline, tmp_path: Path, script: str, said: str
) -> None:
    with pytest.raises(MessageError, match=said) as caught:
        run(WITH_CHILD + script)
    assert "one release" in (caught.value.hint or "")
    assert caught.value.log == tmp_path / "logs" / "log"
    lifeline.wait_for_start()
    assert lifeline.ended()


# The worker's own side of the messages, in the place of a stub.
REAL = """
from pathlib import Path
from aoti_build._torch.__main__ import main
os._exit(main(job_name, Path(job_path), events))
"""


def test_both_sides_understand_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", stub(tmp_path / "stub", REAL))
    seen: list[str] = []
    job = CompileJob(root=str(tmp_path), command=("touch", "made"), what="a file")
    work, log = tmp_path / "work", tmp_path / "log"
    found = run_worker(job, directory=work, log=log, on_phase=seen.append)
    assert found.seconds.keys() == {"compile"}
    assert (seen, (tmp_path / "made").exists()) == (["compile"], True)
    with pytest.raises(ToolchainError, match="a file could not be compiled"):
        run_worker(replace(job, command=("false",)), directory=work, log=log)


def test_the_environment_is_copied_before_torch_changes_it() -> None:
    """A variable that torch sets would otherwise count as one that the build was started with."""
    script = "import sys, aoti_build._torch.__main__\n"
    script += "assert 'aoti_build._torch.started' in sys.modules\n"
    script += "assert 'torch' not in sys.modules\n"
    subprocess.run([REAL_PYTHON, "-c", script], check=True)


def test_a_job_of_another_release_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", stub(tmp_path / "stub", REAL))
    work = tmp_path / "work"
    write_json(work / "job.json", {**encode(job_in(tmp_path)), "format_version": 99})
    with (
        Worker(CompileJob, tmp_path, directory=work, log=tmp_path / "log") as waiting,
        pytest.raises(ToolchainError, match="format version 99") as caught,
    ):
        waiting.follow()
    assert "job.json" in str(caught.value)


def test_an_answer_that_fails_ends_the_worker(run: Run, lifeline: Lifeline) -> None:
    def fail(_: KeysQuestion) -> Answer:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(WITH_CHILD + "ask()", answer=fail)
    lifeline.wait_for_start()
    assert lifeline.ended()


def test_a_worker_that_dies_over_its_question_is_a_crash(run: Run) -> None:
    def answer(question: KeysQuestion) -> Answer:
        os.waitid(os.P_PID, int(question.graph_key), os.WEXITED | os.WNOWAIT)
        return Compile()

    script = (
        "send('keys-question', key='a', graph_key=str(os.getpid()))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    with pytest.raises(WorkerCrash, match="SIGKILL"):
        run(script, answer=answer)


def test_no_result_is_a_crash(run: Run, tmp_path: Path) -> None:
    with pytest.raises(WorkerCrash, match="status 3") as caught:
        run("print('last words', flush=True); os._exit(3)")
    assert caught.value.signal_name is None
    assert caught.value.log == tmp_path / "logs" / "log"
    assert "last words" in (caught.value.cause or "")


def test_a_full_disk_is_called_that(run: Run) -> None:
    full = disk_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(BuildError, match="the disk is full") as caught:
        run(f"send('failure', error={full.as_json()!r}); os._exit(1)")
    assert "make space" in (caught.value.hint or "")


def test_a_log_on_a_full_disk_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def work() -> Message:
        with Events(io.StringIO(), queue.Queue()).phase("compile"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stderr", Full())
    result = _guarded(work)
    assert isinstance(result, Failure)
    assert result.error.message == "the disk is full"


def test_half_a_result_is_a_crash(run: Run) -> None:
    with pytest.raises(WorkerCrash):
        run(
            "open(os.path.dirname(job_path) + '/result.json', 'w').write('{\"format\": \"ao');"
            " os._exit(0)"
        )


def test_a_long_log_is_not_quoted_whole(run: Run) -> None:
    with pytest.raises(WorkerCrash) as caught:
        run("print(*range(1000), sep=chr(10), flush=True); os._exit(3)")
    assert (caught.value.cause or "").splitlines()[-1] == "999"
    assert len((caught.value.cause or "").splitlines()) < 50


def test_a_worker_that_ends_takes_its_children_along(run: Run, lifeline: Lifeline) -> None:
    run(WITH_CHILD + "os.close(events); result(); os._exit(0)")
    lifeline.wait_for_start()
    assert lifeline.ended()


def test_an_error_of_ours_ends_the_worker(run: Run, lifeline: Lifeline) -> None:
    def fail(_: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(WITH_CHILD + "phase('one'); time.sleep(1000)", on_phase=fail)
    lifeline.wait_for_start()
    assert lifeline.ended()


def test_a_worker_that_waits_for_its_job_tells_whether_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys, "executable", stub(tmp_path / "stub", "sys.stdin.readline(); result()")
    )
    work = tmp_path / "work"
    work.mkdir()
    (work / "job.json").write_text("{}")
    with Worker(CompileJob, tmp_path, directory=work, log=tmp_path / "log") as waiting:
        assert not waiting.has_ended
        os.killpg(waiting._process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while not waiting.has_ended and time.monotonic() < deadline:
            time.sleep(0.01)
        assert waiting.has_ended
        with pytest.raises(WorkerCrash, match="SIGKILL"):
            waiting.follow()


def test_stop_all_ends_worker_and_children(
    run: Run, lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 0.1)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            run(WITH_CHILD + "time.sleep(1000)")
        except AotiBuildError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    lifeline.wait_for_start()
    stop_all()
    thread.join(15)
    assert [type(error) for error in raised] == [Interrupted]
    assert lifeline.ended()


def test_stop_all_ends_a_worker_that_is_just_being_started(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.Popen

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        stopper = threading.Thread(target=stop_all)
        stopper.start()
        stopper.join(0.3)
        return real(*args, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    before = time.monotonic()
    with pytest.raises(Interrupted):
        run("time.sleep(20)")
    assert time.monotonic() - before < 10


def test_after_stop_all_nothing_starts_until_allowed(run: Run, tmp_path: Path) -> None:
    stop_all()
    with pytest.raises(Interrupted) as caught:
        run("open(job['root'] + '/started', 'w'); result()")
    assert caught.value.exit_code == 130
    assert not (tmp_path / "started").exists()
    allow_starts()
    assert run("result()") == CompileResult(seconds={})


def test_a_worker_whose_parent_is_killed_dies_with_its_children(
    tmp_path: Path, lifeline: Lifeline
) -> None:
    watching = "from aoti_build._torch.__main__ import _die_with_parent\n_die_with_parent()\n"
    assert_dies_with_parent(tmp_path, lifeline, watching + WITH_CHILD + "time.sleep(1000)")


def test_a_compiler_cannot_eat_the_watched_stdin(tmp_path: Path, lifeline: Lifeline) -> None:
    watching = "from aoti_build._torch.__main__ import _die_with_parent\n_die_with_parent()\n"
    reading = "assert subprocess.run(['cat'], stdout=subprocess.PIPE).stdout == b''\n"
    assert_dies_with_parent(
        tmp_path, lifeline, watching + reading + WITH_CHILD + "time.sleep(1000)"
    )


def assert_dies_with_parent(tmp_path: Path, lifeline: Lifeline, script: str) -> None:
    """Run `script` as the worker of a process that is then killed without a chance to clean up."""
    parent_script = f"""
import sys
from pathlib import Path
from aoti_build.messages import CompileJob
from aoti_build.work.worker import run_worker
sys.executable = {stub(tmp_path / "stub", script)!r}
root = Path({str(tmp_path)!r})
job = CompileJob(root=str(root), command=(), what="nothing")
run_worker(job, directory=root / "work", log=root / "log")
"""
    parent = subprocess.Popen([REAL_PYTHON, "-c", parent_script])
    try:
        lifeline.wait_for_start()
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert lifeline.ended()


def stub(path: Path, script: str) -> str:
    """An executable that takes the worker's arguments and runs `script`."""
    path.write_text(f"#!{REAL_PYTHON}\n{PRELUDE}{script}\n")
    path.chmod(0o755)
    return str(path)
