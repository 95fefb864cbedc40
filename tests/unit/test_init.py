"""`init` through invoke: what it finds, what it writes, and that it overwrites nothing."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest
from small_projects import REAL_PYTHON, bare, contents, inv

from aoti_build.commands.init.look import Tensor, find_candidates
from aoti_build.models_file import load_project

RANKER = """\
import torch
from torch import nn

raise RuntimeError("init imports nothing")


class Tower(nn.Module):
    def __init__(self, width=256):
        super().__init__()
        self.layer = nn.Linear(width, 8)


class Ranker(nn.Module):
    def __init__(self, towers: int):
        super().__init__()
        self.towers = nn.ModuleList(Tower() for _ in range(towers))


def build():
    return Ranker(2)
"""
TOKENS = """\
from torch import nn


class Tagger(nn.Module):
    def __init__(self):
        self.e = nn.Embedding(500, 8)
"""
CONVOLUTION = """\
import torch.nn as nn


def make_net():
    return nn.Sequential(nn.Conv2d(3, 8, 3))
"""
TASKS = "from invoke import Collection, task\n@task\ndef lint(c): ...\n"


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("INIT", "__init__")
        path = path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_in_an_empty_directory(tmp_path: Path) -> None:
    answer = bare("init", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert sorted(contents(tmp_path)) == [
        ".gitignore",
        "models.schema.json",
        "models.yaml",
        "tasks.py",
    ]
    text = (tmp_path / "models.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=models.schema.json\nversion: 1\n")
    assert text.count("EDIT: ") == 1
    assert (tmp_path / ".gitignore").read_text() == "/artifacts/\n"
    assert "next: inv status && inv build verify" in answer.stdout
    # After an edit of the one line that says so.
    (tmp_path / "net.py").write_text("")
    edited = text.replace("my_package.my_module:build", "net.py:build")
    (tmp_path / "models.yaml").write_text(edited)
    status = inv("status", cwd=tmp_path)
    assert status.returncode == 0, status.stderr


def test_a_src_layout(tmp_path: Path) -> None:
    write(tmp_path, src__shop__INIT="", src__shop__ranker=RANKER, tests__test_x="def build(): ...")
    answer = bare("init", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    project = load_project(tmp_path / "models.yaml")
    (target,) = project.targets
    assert target.name == "ranker/cpu"
    assert str(target.model.source) == "shop.ranker:build"
    assert project.import_directories == (str(tmp_path / "src"),)
    assert inv("status", cwd=tmp_path).returncode == 0


def test_options_decide(tmp_path: Path) -> None:
    write(tmp_path, net=TOKENS, tasks="from aoti_build.tasks import ns\n")
    words = ["--source", "net:Tagger", "--shape", "4,16", "--shape", "4,16", "--dtype"]
    words += ["int64,float32", "--device", "cpu,cuda", "--name", "tags"]
    answer = inv("init", *words, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    project = load_project(tmp_path / "models.yaml")
    assert [target.name for target in project.targets] == ["tags/cpu", "tags/cuda"]
    inputs = project.targets[0].model.inputs
    assert isinstance(inputs, tuple)
    assert [(x.shape, x.dtype, x.high) for x in inputs] == [  # type: ignore[union-attr]
        ((4, 16), "int64", 500),
        ((4, 16), "float32", None),
    ]
    # tasks.py has the tasks already.
    assert "Add these lines" not in answer.stdout
    assert "kept      tasks.py" in answer.stdout


def test_a_models_yaml_in_another_directory_is_configured(tmp_path: Path) -> None:
    write(tmp_path, src__shop__INIT="", src__shop__ranker=RANKER)
    answer = bare("init", "--file", "deploy/models.yaml", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    project = load_project(tmp_path / "deploy" / "models.yaml")
    assert (project.root, project.main_artifacts) == (tmp_path, tmp_path / "artifacts")
    status = inv("status", cwd=tmp_path / "src")
    assert status.returncode == 0, status.stderr
    assert "ranker/cpu" in status.stdout


@pytest.mark.parametrize(
    ("tasks", "namespace"),
    [(TASKS + "ns = Collection(lint)\n", True), (TASKS, False)],
)
def test_lines_for_a_tasks_file_of_the_user(tmp_path: Path, tasks: str, namespace: bool) -> None:
    write(tmp_path, tasks=tasks, net=TOKENS)
    (tmp_path / ".gitignore").write_text("*.pyc")
    answer = bare("init", cwd=tmp_path)
    assert (tmp_path / "tasks.py").read_text() == tasks
    assert (tmp_path / ".gitignore").read_text() == "*.pyc\n/artifacts/\n"
    lines = [line.strip() for line in answer.stdout.splitlines() if line.startswith("    ")]
    assert (len(lines) == 2) == namespace
    (tmp_path / "tasks.py").write_text(tasks + "\n".join(lines) + "\n")
    listed = inv("--list", cwd=tmp_path).stdout
    assert "lint" in listed
    assert "inv aoti.status" in answer.stdout
    assert inv("aoti.status", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shape", "4,x"], "--shape 4,x"),
        (["--source", "no callable"], "does not name a callable"),
        (["--name", "a/b"], "path separator"),
        (["--dtype", "half"], "float16"),
        (["--dtype", "int64,float32", "--shape", "4"], "2 dtypes for 1 inputs"),
        (["--device", "tpu"], "tpu"),
        (["--file", "models.yml"], ".yaml"),
    ],
)
def test_a_wrong_option_writes_nothing(tmp_path: Path, words: list[str], said: str) -> None:
    answer = bare("init", *words, cwd=tmp_path)
    assert answer.returncode == 2, answer.stdout
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr
    assert contents(tmp_path) == {}


def test_a_program_reads_what_was_written(tmp_path: Path) -> None:
    write(tmp_path, net=CONVOLUTION, tasks=TASKS)
    answer = bare("init", "--json", cwd=tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "")
    document = json.loads(answer.stdout)
    assert document["written"] == ["models.yaml", "models.schema.json", ".gitignore"]
    assert document["kept"] == ["tasks.py"]
    assert document["lines"][-1] == 'ns.add_collection(aoti, name="aoti")'
    assert document["open_questions"] == ["models.yaml:inputs: the shape is a guess"]
    assert document["prefix"] == "aoti."
    again = bare("init", "--json", cwd=tmp_path)
    assert again.returncode == 2
    assert json.loads(again.stdout)["error"]["kind"] == "usage"


def test_the_next_step_names_the_tasks_of_a_subcollection(tmp_path: Path) -> None:
    text = "from invoke import Collection\nfrom aoti_build.tasks import ns as aoti\n"
    write(tmp_path, tasks=text + "ns = Collection()\nns.add_collection(aoti, name='ml')\n")
    answer = inv("ml.init", cwd=tmp_path)
    assert answer.returncode == 0
    assert "next: inv ml.status && inv ml.build ml.verify" in answer.stdout


def test_the_lines_are_for_the_file_with_the_tasks(tmp_path: Path) -> None:
    write(tmp_path, tasks__INIT=TASKS)
    answer = bare("init", cwd=tmp_path)
    assert answer.returncode == 0
    assert "kept      tasks/__init__.py" in answer.stdout
    assert "Add these lines at the end of tasks/__init__.py:" in answer.stdout


@pytest.mark.parametrize(("existing", "said"), [("models.yaml", "never"), ("models.yml", "rename")])
def test_nothing_is_overwritten(tmp_path: Path, existing: str, said: str) -> None:
    (tmp_path / existing).write_text("mine\n")
    answer = bare("init", cwd=tmp_path)
    assert answer.returncode == 2
    assert said in answer.stderr
    assert contents(tmp_path) == {existing: b"mine\n"}


def test_on_a_terminal_it_asks_for_what_the_options_leave_open(tmp_path: Path) -> None:
    write(tmp_path, net=TOKENS)
    output = on_terminal(tmp_path, b"\n4,16\n\ntags\n")
    assert "callable that makes the model [net:Tagger]" in output
    assert "dtype of the inputs [int64]" in output
    (target,) = load_project(tmp_path / "models.yaml").targets
    assert (target.name, str(target.model.source)) == ("tags/cpu", "net:Tagger")
    (tensor,) = target.model.inputs  # type: ignore[misc]
    assert (tensor.shape, tensor.dtype, tensor.high) == ((4, 16), "int64", 500)


def test_ctrl_c_at_a_question_writes_nothing(tmp_path: Path) -> None:
    parent, child = pty.openpty()
    with subprocess.Popen(
        [REAL_PYTHON, "-m", "aoti_build", "init"],
        cwd=tmp_path,
        stdin=child,
        stdout=child,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(child)
        assert process.stderr is not None
        assert process.stderr.read(8) == b"callable"
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
    os.close(parent)
    assert process.returncode == 130
    assert "error: interrupted; nothing was written" in said
    assert "`python -m aoti_build init --help`" in said
    assert contents(tmp_path) == {}


def on_terminal(cwd: Path, answers: bytes) -> str:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [REAL_PYTHON, "-m", "aoti_build", "init"], cwd=cwd, stdin=child, stdout=child, stderr=child
    )
    os.close(child)
    os.write(parent, answers)
    output = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([parent], [], [], 0.2)[0]:
            continue
        try:
            piece = os.read(parent, 4096)
        except OSError:  # the other end is closed
            break
        output += piece
    assert process.wait(timeout=10) == 0, output.decode()
    os.close(parent)
    return output.decode()


def test_candidates_are_found_without_an_import_and_ordered(tmp_path: Path) -> None:
    write(tmp_path, shop__INIT="", shop__model=RANKER, scripts__demo=TOKENS, broken="def (")
    write(tmp_path, cnn=CONVOLUTION)
    found = find_candidates(tmp_path)
    assert [(each.source, each.tensor) for each in found] == [
        ("shop.model:build", Tensor((1, 256))),
        ("cnn:make_net", Tensor((1, 3, 224, 224))),
        ("scripts/demo.py:Tagger", Tensor((1, 16), "int64", 500)),
        ("shop.model:Tower", Tensor((1, 256))),
        ("shop.model:Ranker", Tensor((1, 256))),
    ]
    assert found[-1].required == ("towers",)


@pytest.mark.parametrize("command", ["status", "build"])
def test_models_yml_is_to_be_renamed(tmp_path: Path, command: str) -> None:
    (tmp_path / "models.yml").write_text("version: 1\n")
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    answer = inv(command, cwd=tmp_path)
    assert answer.returncode == 2
    assert f"a models.yml in {tmp_path}" in answer.stderr
    assert "rename it to models.yaml" in answer.stderr
