"""Two users of one host, one of whom plants what the other would run or write into. No accounts are
needed: a child process takes a number. Then whole tasks as a user whose number has no entry in
passwd, as in a container."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from small_projects import REAL_PYTHON, REPOSITORY, write_project

from aoti_build.artifact import paths
from aoti_build.common import directories, outputs
from aoti_build.common.publication import staging
from aoti_build.errors import DirectoryError, ExitCode
from aoti_build.host.checks import directories as directory_checks
from aoti_build.runtime import private
from aoti_build.work import runner

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two other users")

VICTIM, ATTACKER = 20002, 20001


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory like /tmp. pytest's own can be entered by nobody else."""
    place = Path(tempfile.mkdtemp(prefix="aoti_build-users-", dir="/tmp"))
    place.chmod(0o1777)
    yield place
    shutil.rmtree(place)


def as_user(number: int, do: Callable[[], Any], **environment: str) -> Any:
    """What `do` returns, as JSON can say it, in a process of the user `number`. Its errors fail the
    test."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.environ.update({"HOME": "", "XDG_CACHE_HOME": "", "XDG_STATE_HOME": "", **environment})
        os.setgroups([])
        os.setresgid(number, number, number)
        os.setresuid(number, number, number)
        try:
            said = {"value": do()}
        except BaseException:  # noqa: BLE001 - a child must not return into pytest
            said = {"error": traceback.format_exc()}
        os.write(write_end, json.dumps(said, default=str).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        said = json.loads(pipe.read())
    os.waitpid(child, 0)
    assert "error" not in said, said["error"]
    return said["value"]


def refusal(find: Callable[[], Path | None]) -> str:
    """Why it was refused; "taken" if it was not."""
    try:
        find()
    except DirectoryError as error:
        return f"{error.exit_code}: {error.cause}; {error.hint}"
    return "taken"


def plant_programs(place: Path) -> Callable[[], None]:
    """Whatever is asked for in `place` is there already, and is the attacker's."""

    def plant() -> None:
        for name in (
            "build",
            f"aoti_build-build-{VICTIM}",
            f"aoti_build-unpacked-{VICTIM}",
            "aoti_build",
        ):
            (place / name / "runner").mkdir(parents=True)
            (place / name).chmod(0o755)

    return plant


FINDERS: Mapping[str, Callable[[], Path | None]] = {
    "build": directories.build_cache,
    "runner": lambda: runner.compiled_runner("cpu"),
    "load": private.private_directory,
}


@pytest.mark.parametrize("finder", FINDERS)
@pytest.mark.parametrize("variable", ["named", "XDG_CACHE_HOME"])
def test_who_makes_the_directory_first_gets_nothing_run(
    shared: Path, monkeypatch: pytest.MonkeyPatch, finder: str, variable: str
) -> None:
    """The name can be foreseen, so somebody else makes it, with programs of his own in it."""

    def run_nothing(*_: Any, **__: Any) -> None:
        raise AssertionError("something was compiled")

    monkeypatch.setattr(runner, "run_worker", run_nothing)
    as_user(ATTACKER, plant_programs(shared))
    environment = {variable: str(shared)}
    if variable == "named":
        environment = {
            directories.BUILD_VARIABLE: str(shared),
            directories.RUNTIME_VARIABLE: str(shared),
        }
    else:
        environment |= {directories.BUILD_VARIABLE: "", directories.RUNTIME_VARIABLE: ""}
    find = FINDERS[finder]
    if finder == "load" and variable != "named":
        assert as_user(VICTIM, find, **environment) is None, "packages are loaded without it"
        return
    said = as_user(VICTIM, lambda: refusal(find), **environment)
    assert said.startswith(f"{ExitCode.UNFIT_TOOLCHAIN}: ")
    assert f"belongs to user {ATTACKER}" in said
    assert "AOTI_BUILD" in said


def test_a_link_to_the_victims_own_directory_is_not_followed(shared: Path) -> None:
    mine = shared / "mine"
    as_user(VICTIM, lambda: mine.mkdir(mode=0o700))
    as_user(ATTACKER, lambda: (shared / "cache").symlink_to(mine))
    variables = {directories.BUILD_VARIABLE: str(shared / "cache")}
    assert f"symbolic link of user {ATTACKER}" in as_user(
        VICTIM, lambda: refusal(directories.build_cache), **variables
    )
    assert list(mine.iterdir()) == []


def test_roots_directory_is_nobody_elses(shared: Path) -> None:
    """It would do as a place, but who is not root has nothing of his own there."""
    (shared / "base" / "build").mkdir(parents=True, mode=0o700)
    variables = {directories.BUILD_VARIABLE: str(shared / "base")}
    assert "belongs to user 0" in as_user(
        VICTIM, lambda: refusal(directories.build_cache), **variables
    )


def test_nothing_is_made_below_somebody_elses_directory(shared: Path) -> None:
    as_user(ATTACKER, lambda: (shared / "theirs").mkdir(mode=0o777))
    (shared / "theirs").chmod(0o777)
    variables = {directories.BUILD_VARIABLE: str(shared / "theirs" / "a" / "b")}
    assert f"belongs to user {ATTACKER}" in as_user(
        VICTIM, lambda: refusal(directories.build_cache), **variables
    )
    assert list((shared / "theirs").iterdir()) == []


def test_two_users_of_one_cache_have_a_part_each(shared: Path) -> None:
    variables = {directories.BUILD_VARIABLE: str(shared)}

    def keep() -> str:
        (paths.runner_cache() / "program").write_text("mine")
        return str(paths.runner_cache())

    def take(path: str) -> str:
        try:
            return Path(path).read_text()
        except PermissionError:
            return "kept out"

    kept = {user: as_user(user, keep, **variables) for user in (VICTIM, ATTACKER)}
    assert kept[VICTIM] != kept[ATTACKER]
    assert as_user(ATTACKER, lambda: take(f"{kept[VICTIM]}/program")) == "kept out"


def test_a_log_does_not_go_through_a_planted_link(shared: Path) -> None:
    """Neither where the link can be removed, nor where it can not."""
    letter, own = shared / "letter", shared / "own"
    as_user(VICTIM, lambda: letter.write_text("dear"))
    as_user(VICTIM, lambda: own.mkdir(mode=0o700))
    as_user(ATTACKER, lambda: (shared / "x.log").symlink_to(letter))
    (own / "x.log").symlink_to(letter)

    def write(log: Path) -> str:
        try:
            with open(outputs.open_log(log), "ab") as opened:
                opened.write(b"noise")
        except OSError as error:
            return str(error)
        return log.read_text()

    assert as_user(VICTIM, lambda: write(own / "x.log")) == "noise"
    assert "noise" not in as_user(VICTIM, lambda: write(shared / "x.log"))
    assert letter.read_text() == "dear"


@pytest.mark.parametrize("kind", ["theirs", "open"])
def test_a_temporary_directory_in_which_others_can_move_things(shared: Path, kind: str) -> None:
    place = shared / kind
    place.mkdir()
    os.chown(place, ATTACKER if kind == "theirs" else 0, 0)
    place.chmod(0o1777 if kind == "theirs" else 0o777)
    assert (
        as_user(VICTIM, lambda: refusal(directories.temporary_directory), TMPDIR=str(place))
        != "taken"
    )
    found = as_user(VICTIM, lambda: [directory_checks.check_temporary().outcome], TMPDIR=str(place))
    assert found == ["fail"]


def test_staged_files_are_this_users_alone_until_they_are_published(shared: Path) -> None:
    """Job descriptions lie there, which name what a worker imports, and the package between check
    and publication."""

    def stage() -> int:
        os.umask(0)
        with staging(shared / "staging", "small@") as work:
            return stat.S_IMODE(work.stat().st_mode)

    assert as_user(VICTIM, stage) == 0o700


@pytest.fixture
def container(shared: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a task in a project of a user without an entry in passwd, who may read all that root
    may: Python may lie in root's home."""
    project = write_project(shared / "project")
    for path in (project.root, *project.root.iterdir()):
        os.chown(path, VICTIM, VICTIM)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("there is no program setpriv to change the user with")
    become = [setpriv, f"--reuid={VICTIM}", f"--regid={VICTIM}", "--clear-groups"]
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]

    def inv(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return subprocess.run(
            [*become, *reading, REAL_PYTHON, "-m", "invoke", *words],
            cwd=project.root,
            env={
                **kept,
                "PYTHONPATH": str(REPOSITORY),
                "PYTHONDONTWRITEBYTECODE": "1",
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return inv


@pytest.mark.parametrize(
    ("words", "code", "home"),
    [
        ("status", 0, {}),
        ("why", 0, {}),
        ("inspect", ExitCode.VERIFICATION_FAILED, {}),
        ("schema", 0, {}),
        ("clean", 0, {}),
        ("gc --max-size 1g", 0, {}),
        ("build --dry-run", 0, {}),
        ("build", ExitCode.UNFIT_TOOLCHAIN, {"XDG_CACHE_HOME": "/"}),
        ("verify", ExitCode.VERIFICATION_FAILED, {}),
        ("run", ExitCode.VERIFICATION_FAILED, {}),
        ("doctor --quick --device cpu", ExitCode.UNFIT_TOOLCHAIN, {"XDG_CACHE_HOME": "/"}),
    ],
)
def test_a_user_who_is_a_mere_number(
    container: Callable[..., subprocess.CompletedProcess[str]],
    shared: Path,
    words: str,
    code: int,
    home: dict[str, str],
) -> None:
    answer = container(*words.split(), **home)
    assert (answer.returncode, "Traceback" in answer.stderr) == (code, False), answer.stderr
    if code == ExitCode.UNFIT_TOOLCHAIN:
        assert "set AOTI_BUILD_CACHE to a directory of your own" in answer.stdout + answer.stderr
    left = {path.name for path in (shared / "project").iterdir()}
    assert left <= {
        "artifacts",
        "models.yaml",
        "model.py",
        "helper.py",
        "tasks.py",
        "weights.safetensors",
    }
