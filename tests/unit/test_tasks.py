"""The command contract, through invoke itself: exit codes, one JSON document, other people's
tasks.py, broken pipes."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_projects import (
    ONE_MODEL,
    REAL_PYTHON,
    REPOSITORY,
    TWO_MODELS,
    contents,
    inv,
    publish_fake,
    write_project,
)

from aoti_build.artifact.paths import artifact_directory
from aoti_build.models_file import Project
from aoti_build.tasks import ns
from aoti_build.tasks.answer import progress


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["build", "--jobs", "0"], "--jobs 0"),
        (["build", "--jobs", "many"], "--jobs many"),
        (["verify", "--jobs", "x"], "--jobs x"),
        (["build", "--target", "smal"], "small"),
        (["status", "--target", ","], "no target"),
        (["status", "--file", "absent.yaml"], "absent.yaml"),
        (["run", "--input", "absent.safetensors"], "absent.safetensors"),
        (["run", "--input", "model.py"], "model.py"),
        (["run", "--input", ","], "--input ,"),
        (["run", "--repeat", "0"], "--repeat 0"),
        (["run", "--seed", "-1"], "--seed -1"),
        (["run", "--seed", "1e3"], "--seed 1e3"),
        (["release", "--out", "out"], "needs a version"),
        (["release", "--version", "1.0"], "needs a version and a directory"),
        (["release", "--version", "1.0", "--out", "out", "--against", ""], "--against names"),
        (["release", "--version", "1.0", "--out", "out", "--sign", ""], "--sign names nothing"),
        (["release", "--version", "1.0", "--out", "out", "--previous", " "], "--previous names"),
        (["release", "--version", "1.0", "--out", "out", "--archive", ""], "--archive names"),
        (["release", "--version", "1.0", "--out", "out", "--push", ""], "--push names nothing"),
        (["release-diff", "old", "new", "--fail-if", ""], "--fail-if names nothing"),
        (["verify", "--release", ""], "--release names nothing"),
        (["release-pull", "oci://h/a:1", "--out", "o", "--public-key", ""], "--public-key names"),
        (["release", "--version", "next", "--out", "out"], "'next' is not a version"),
        (["release", "--version", "1.0", "--out", "out"], "in no git checkout"),
        (["release", "--version", "1.0", "--out", "artifacts/1.0"], "among the artifacts"),
        (["tune", "--budget", "20x"], "--budget 20x"),
        (["tune", "--budget", "0s"], "--budget 0s"),
        (["tune", "--band", "0"], "--band 0"),
        (["tune", "--band", "100"], "--band 100"),
        (["bench", "--ways", "eager,jit"], "--ways jit"),
        (["bench", "--samples", "0"], "--samples 0"),
        (["bench", "--seconds", "0"], "--seconds 0"),
        (["bench", "--seconds", "soon"], "--seconds soon"),
        (["bench", "--threads", "x"], "--threads x"),
        (["bench", "--budget", "20x"], "--budget 20x"),
        (["bench", "--budget", "0"], "--budget 0"),
        (["bench", "--band", "0"], "--band 0"),
        (["bench", "--band", "100"], "--band 100"),
        (["bench", "--against", ""], "--against names nothing"),
        (["bench", "--fail-if", "steady"], "--fail-if steady"),
        (["bench", "--fail-if", "steady>1.05"], "--fail-if"),
        (["tune", "--allow", "bf16"], "--allow bf16"),
        (["tune", "--allow", ","], "--allow ,"),
        (["run", "--output", "out.csv"], ".safetensors, .npz, .pt"),
        (["run", "--input", "random,reference_data", "--output", "out.npz"], "{input}"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_exits_with_2_and_touches_nothing(
    project: Project, words: list[str], said: str
) -> None:
    before = contents(project.root)
    answer = inv(*words, cwd=project.root, PYTHONDONTWRITEBYTECODE="1")
    assert answer.returncode == 2, answer.stderr
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr
    assert contents(project.root) == before


@pytest.mark.parametrize("command", ["build", "clean"])
def test_no_models_yaml(tmp_path: Path, command: str) -> None:
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    answer = inv(command, cwd=tmp_path)
    assert answer.returncode == 2
    assert "models.yaml" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_wrong_models_yaml_names_every_place(project: Project) -> None:
    (project.root / "models.yaml").write_text(
        ONE_MODEL.replace("kwargs", "kwarg") + "    seed: x\n"
    )
    answer = inv("build", cwd=project.root)
    assert answer.returncode == 2
    assert "models.yaml:5:" in answer.stderr
    assert "models.yaml:8:" in answer.stderr


def test_run_takes_several_targets_in_one_document(tmp_path: Path) -> None:
    project = write_project(tmp_path, TWO_MODELS)
    answer = inv("run", "--json", cwd=project.root)
    assert answer.returncode == 3
    document = one_document(answer.stdout)
    assert [row["target"] for row in document["targets"]] == ["first/cpu", "second/cpu"]
    assert "invoke build --target second/cpu" in document["targets"][1]["error"]["hint"]


def test_nothing_built_yet_exits_of_each_command(project: Project) -> None:
    codes = {
        command: inv(command, cwd=project.root).returncode
        for command in ("status", "verify", "run", "clean")
    }
    assert codes == {"status": 0, "verify": 3, "run": 3, "clean": 0}


def test_a_damaged_artifact_exits_with_4(project: Project, published: Path) -> None:
    (published / "model.pt2").write_bytes(b"")
    assert inv("verify", cwd=project.root).returncode == 4
    assert inv("run", cwd=project.root).returncode == 4


@pytest.mark.usefixtures("published")
def test_an_up_to_date_build_exits_with_0(project: Project) -> None:
    answer = inv("build", cwd=project.root)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "1 target: 1 up-to-date" in answer.stdout


def test_the_first_failure_stops_a_script(project: Project, published: Path) -> None:
    """`invoke build verify` runs no further task after one that failed."""
    (published / "model.pt2").write_bytes(b"")
    answer = inv("verify", "clean", cwd=project.root)
    assert answer.returncode == 4
    assert published.exists()


@pytest.mark.parametrize(
    ("words", "kind", "code"),
    [
        (["build", "--dry-run"], "plan", 0),
        (["build"], "build", 0),
        (["status"], "status", 0),
        (["clean", "--dry-run"], "clean", 0),
        (["build", "--jobs", "x"], "error", 2),
        (["run", "--target", "nothing"], "error", 2),
        (["run", "--input", "absent.npz"], "error", 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("published")
def test_json_is_exactly_one_document(
    project: Project, words: list[str], kind: str, code: int
) -> None:
    answer = inv(*words, "--json", cwd=project.root)
    assert answer.returncode == code
    document = one_document(answer.stdout)
    assert document["format"] == f"aoti-build/{kind}"
    assert document["ok"] is (code == 0)


def test_json_of_a_wrong_models_yaml_lists_the_problems(project: Project) -> None:
    (project.root / "models.yaml").write_text(ONE_MODEL + "    seed: x\n")
    document = one_document(inv("build", "--json", cwd=project.root).stdout)
    assert document["error"]["kind"] == "spec"
    assert [problem["line"] for problem in document["error"]["problems"]] == [8]


def test_json_of_a_failed_verification(project: Project) -> None:
    answer = inv("verify", "--json", cwd=project.root)
    assert answer.returncode == 3
    assert one_document(answer.stdout)["targets"][0]["verdict"] == "missing"


def test_the_schema_is_json_and_can_be_written(project: Project) -> None:
    printed = one_document(inv("schema", cwd=project.root).stdout)
    assert inv("schema", "--output", "schema.json", cwd=project.root).returncode == 0
    assert json.loads((project.root / "schema.json").read_text()) == printed


def test_dry_runs_change_nothing(project: Project, published: Path) -> None:
    (published / "reference.safetensors").unlink()
    before = artifact_files(project)
    for words in (
        ["build", "--dry-run"],
        ["clean", "--dry-run"],
        ["--dry", "build"],
        ["--dry", "clean"],
    ):
        answer = inv(*words, cwd=project.root)
        assert answer.returncode == 0, answer.stderr
        assert artifact_files(project) == before


def test_clean_removes(project: Project, published: Path) -> None:
    assert inv("clean", "--target", "small", cwd=project.root).returncode == 0
    assert not published.exists()


@pytest.mark.usefixtures("published")
def test_as_the_whole_tasks_py_from_a_directory_below(project: Project) -> None:
    below = project.root / "below" / "deeper"
    below.mkdir(parents=True)
    assert REPOSITORY not in below.parents
    answer = inv("build", "--dry-run", "--json", cwd=below)
    assert [row["action"] for row in one_document(answer.stdout)["targets"]] == ["up-to-date"]


@pytest.mark.usefixtures("published")
def test_as_a_part_of_somebody_elses_tasks(project: Project) -> None:
    (project.root / "tasks.py").write_text(
        "from invoke import Collection, task\n"
        "import aoti_build.tasks\n"
        "@task\n"
        "def build(context):\n"
        "    print('their own')\n"
        "ns = Collection(build)\n"
        "ns.add_collection(aoti_build.tasks.ns, name='aoti')\n"
    )
    below = project.root / "below"
    below.mkdir()
    assert inv("build", cwd=below).stdout == "their own\n"
    answer = inv("aoti.build", "--dry-run", "--json", cwd=below)
    assert answer.returncode == 0, answer.stderr
    assert [row["action"] for row in one_document(answer.stdout)["targets"]] == ["up-to-date"]
    assert inv("aoti.build", "--jobs", "x", cwd=below).returncode == 2


def test_the_models_yaml_beside_tasks_py_wins_over_one_below(project: Project) -> None:
    write_project(project.root / "below", TWO_MODELS)
    (project.root / "below" / "tasks.py").unlink()
    answer = inv("status", "--json", cwd=project.root / "below")
    assert [row["target"] for row in one_document(answer.stdout)["targets"]] == ["small/cpu"]
    answer = inv("status", "--json", "--file", "models.yaml", cwd=project.root / "below")
    assert [row["target"] for row in one_document(answer.stdout)["targets"]] == [
        "first/cpu",
        "second/cpu",
    ]


@pytest.mark.parametrize("words", ["status", "build --dry-run --json"])
def test_a_reader_that_goes_away_is_no_error(project: Project, words: str) -> None:
    command = f"{shlex.quote(REAL_PYTHON)} -m invoke {words} | head -0"
    answer = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "code"), [(["build", "--jobs", "x"], 2), (["run", "--seed", "x"], 2)], ids=str
)
def test_debug_shows_where_an_error_arose_and_exits_the_same(
    project: Project, words: list[str], code: int
) -> None:
    plain, debug = inv(*words, cwd=project.root), inv(*words, "--debug", cwd=project.root)
    assert (plain.returncode, debug.returncode) == (code, code)
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr
    assert plain.stderr.strip() in debug.stderr


def test_every_task_explains_itself_and_every_option() -> None:
    """In a process of its own: `get_arguments` takes the help texts out of the task."""
    script = (
        "from aoti_build.tasks import ns\n"
        "for name, task in ns.tasks.items():\n"
        "    assert task.__doc__, name\n"
        "    assert all(argument.help for argument in task.get_arguments()), name\n"
    )
    subprocess.run([REAL_PYTHON, "-c", script], check=True)
    assert ns.tasks


def one_document(stdout: str) -> dict[str, Any]:
    document = json.loads(stdout)
    assert isinstance(document, dict)
    return document


def artifact_files(project: Project) -> dict[str, bytes]:
    return contents(artifact_directory(project, project.targets[0]))


def test_a_line_of_progress_is_written_in_one_piece(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Written(list[str]):
        def write(self, text: str) -> None:
            self.append(text)

        def flush(self) -> None:
            pass

    written = Written()
    monkeypatch.setattr(sys, "stderr", written)
    progress(project.targets, quiet=False)(project.targets[0], "export")
    assert written == ["small/cpu  export\n"]


def test_a_failure_stays_one_when_nobody_reads(project: Project) -> None:
    """As in `inv verify | true`: the report is lost, the exit code is not."""
    command = shlex.join([REAL_PYTHON, "-m", "invoke", "verify"])
    answer = redirected(project, f"{command} | true; exit ${{PIPESTATUS[0]}}")
    assert (answer.returncode, "Traceback" in answer.stderr) == (3, False)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_pipe_that_does_not_wait_gets_the_whole_document(tmp_path: Path, unbuffered: str) -> None:
    """Some CI systems leave such a pipe to their jobs."""
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    command = [REAL_PYTHON, "-m", "invoke", "schema"]
    with (
        open(reader, "rb") as output,
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=writer,
            stdin=subprocess.DEVNULL,
        ) as process,
    ):
        os.close(writer)
        select.select([output], [], [], 60)
        time.sleep(0.2)  # until the pipe is full
        document = output.read()
    assert process.returncode == 0
    assert json.loads(document)["$defs"]


@pytest.mark.parametrize("words", ["status", "build --json", "status --file absent.yaml"])
@pytest.mark.parametrize(
    ("redirection", "code"),
    [
        (">&-", 2),
        (">/dev/full", 5),
        ("2>&-", 0),
        ("2>/dev/full", 0),
        ("<&-", 0),
        ("<&- >&- 2>&-", 2),
    ],
)
@pytest.mark.usefixtures("published")
def test_streams_that_take_nothing(
    project: Project, words: str, redirection: str, code: int
) -> None:
    if "absent" in words:
        code = 2  # which says more than what became of the report
    answer = redirected(project, f"{shlex.quote(REAL_PYTHON)} -m invoke {words} {redirection}")
    assert (answer.returncode, "Traceback" in answer.stderr) == (code, False), answer.stderr
    if code == 5:
        assert "error: stdout cannot be written to" in answer.stderr
    if redirection == ">&-":
        assert "error: stdout is closed" in answer.stderr


def test_a_closed_stdout_is_no_place_for_the_next_file(project: Project, published: Path) -> None:
    """What is opened next would get its number, and then all that is printed."""
    before = contents(published)
    redirected(project, f"{shlex.quote(REAL_PYTHON)} -m invoke build --force >&- 2>&- <&-")
    assert contents(published) == before


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", [os.fsencode("größe-✓"), b"b\xffd"], ids=["unicode", "bytes"])
def test_names_that_stdout_has_no_letters_for(
    tmp_path: Path, environment: dict[str, str], name: bytes
) -> None:
    project = write_project(tmp_path / os.fsdecode(name))
    publish_fake(project)
    for words, code in (
        ("status", 0),
        ("why", 0),
        ("status --file größe.yaml", 2),
        ("inspect --path ö.pt2", 2),
    ):
        answer = inv(*words.split(), cwd=project.root, **environment)
        assert (answer.returncode, "Traceback" in answer.stderr) == (code, False), answer.stderr


def redirected(project: Project, command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=project.root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_shell_completes_tasks_and_options(project: Project) -> None:
    tasks = inv("--complete", "--", "inv bu", cwd=project.root).stdout.split()
    assert {"build", "verify", "status"} <= set(tasks)
    options = inv("--complete", "--", "inv build --", cwd=project.root).stdout.split()
    assert {"--target", "--dry-run"} <= set(options)
