"""Hints name the tasks as invoke knows them: in a sub-collection, deeper, or added one by one."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from invoke import Collection
from small_projects import TWO_MODELS, contents, inv, publish_fake, write_project

import aoti_build
from aoti_build.errors import UsageError, name_tasks, with_task_names
from aoti_build.models_file import Project
from aoti_build.tasks import ns
from aoti_build.tasks.naming import names_in

COLLECTIONS = {
    "as the whole file": ("from aoti_build.tasks import ns\n", "", "build"),
    "as a sub-collection": (
        (
            "from invoke import Collection\n"
            "import aoti_build.tasks\n"
            "ns = Collection()\n"
            'ns.add_collection(aoti_build.tasks.ns, name="aoti")\n'
        ),
        "aoti.",
        "aoti.build",
    ),
    "deeper": (
        (
            "from invoke import Collection\n"
            "from aoti_build.tasks import ns as aoti\n"
            "ns = Collection()\n"
            'models = Collection("models")\n'
            "models.add_collection(aoti)\n"
            "ns.add_collection(models)\n"
        ),
        "models.aoti.",
        "models.aoti.build",
    ),
    "single tasks": (
        (
            "from invoke import Collection\n"
            "from aoti_build.tasks import build, verify\n"
            "ns = Collection()\n"
            'ns.add_task(build, name="compile-models")\n'
            'ns.add_collection(Collection(verify), name="check")\n'
        ),
        "check.",
        "compile-models",
    ),
    "imported into a module without a namespace": (
        "from aoti_build.tasks import build, verify\n",
        "",
        "build",
    ),
    "with a task that has the first part of a name": (
        (
            "from invoke import Collection\n"
            "from aoti_build.tasks import ns as aoti\n"
            "ns = Collection()\n"
            'ns.add_collection(aoti, name="run")\n'
        ),
        "run.",
        "run.build",
    ),
    "called by a task of the user": (
        (
            "from invoke import Collection, task\n"
            "from aoti_build.tasks import ns as aoti\n"
            "@task\n"
            "def verify(c):\n"
            "    aoti['verify'](c)\n"
            "ns = Collection(verify)\n"
            'ns.add_collection(aoti, name="aoti")\n'
        ),
        "",
        "aoti.build",
    ),
}


@pytest.mark.parametrize("case", COLLECTIONS)
def test_a_hint_names_the_task_that_the_user_can_type(tmp_path: Path, case: str) -> None:
    text, prefix, build = COLLECTIONS[case]
    (tmp_path / "tasks.py").write_text(text)
    project = write_project(tmp_path)
    listed = inv("--list", cwd=tmp_path).stdout
    assert re.search(rf"^ *{re.escape(build)}\b", listed, re.M), listed
    answer = inv(f"{prefix}verify", cwd=project.root)
    assert answer.returncode == 3, answer.stderr
    assert f"invoke {build} --target small/cpu" in answer.stdout + answer.stderr


def test_documents_name_it_too(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(COLLECTIONS["deeper"][0])
    project = write_project(tmp_path)
    answer = inv("models.aoti.run", "--json", cwd=project.root)
    (row,) = json.loads(answer.stdout)["targets"]
    assert "invoke models.aoti.build --target small/cpu" in row["error"]["hint"]


def test_other_texts_name_it_too(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(COLLECTIONS["as a sub-collection"][0])
    project = write_project(tmp_path)
    publish_fake(project)
    (project.root / "models.yaml").write_text(project.file.read_text().replace("small:", "new:"))
    assert "(invoke aoti.clean --orphans removes them)" in inv("aoti.status", cwd=tmp_path).stdout


def test_names_with_a_dash_are_known_too() -> None:
    collection = Collection(ns["version"])
    collection.add_collection(ns, name="aoti")
    names = names_in(collection)
    assert names["ci-cache"] == "aoti.ci-cache"
    assert names["version"] == "version"
    assert set(names) == set(ns.tasks)


def test_a_worker_does_not_know_the_names_and_its_error_has_them() -> None:
    """The parent makes the error again from the worker's words."""
    name_tasks(lambda: {"build": "aoti.build"})
    try:
        assert (
            UsageError("x", hint="try `invoke build` again").hint == "try `invoke aoti.build` again"
        )
        assert with_task_names("invoke aoti.build, invoke gc.") == "invoke aoti.build, invoke gc."
    finally:
        name_tasks()
    assert with_task_names("invoke build") == "invoke build"


def test_a_command_of_two_tasks_names_both(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(COLLECTIONS["as a sub-collection"][0])
    write_project(tmp_path, TWO_MODELS)
    answer = inv("aoti.export", "out", cwd=tmp_path)
    assert answer.returncode == 3
    targets = "--target first/cpu,second/cpu"
    assert f"`invoke aoti.build {targets} && invoke aoti.verify {targets}`" in answer.stderr


def test_texts_of_the_package_name_commands_in_the_form_that_is_replaced() -> None:
    """``inv build`` in a hint would be left as it is, and ``invoke biuld`` would be no task."""
    package = Path(aoti_build.__file__).parent
    wrong = []
    for file in package.rglob("*.py"):
        module = ast.parse(file.read_text())
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docstrings = {
            ast.get_docstring(node, clean=False)
            for node in ast.walk(module)
            if isinstance(node, documented)
        }
        if file.parent.name == "init":
            continue  # texts for a user who has no hints yet
        for node in ast.walk(module):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            if node.value in docstrings:
                continue
            for program, name in re.findall(r"\b(inv|invoke) ([a-z]+)", node.value):
                if program == "inv" or name not in ns.tasks:
                    wrong.append(f"{file.relative_to(package)}:{node.lineno}: {program} {name}")
    assert not wrong


@pytest.mark.usefixtures("published")
def test_pre_post_and_call_of_tasks(project: Project) -> None:
    """As docs/how-to/layouts.md shows them."""
    page = Path(__file__).parents[2] / "docs" / "how-to" / "layouts.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    (text,) = [block for block in blocks if "pre=[" in block]
    target = re.findall(r'target="([^"]+)"', text)
    assert target
    (project.root / "tasks.py").write_text(text.replace(target[0], "small/cpu"))
    names = set(re.findall(r"^def (\w+)", text, re.M))
    assert {"release", "image", "nightly"} <= names
    answer = inv("image", cwd=project.root)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.index("up-to-date") < answer.stdout.index("image")
    (project.root / "artifacts" / "small" / "cpu" / "model.pt2").write_bytes(b"damaged")
    before = contents(project.root / "artifacts" / "small")
    answer = inv("release", cwd=project.root)
    # A task that fails ends the command before the user's own task.
    assert answer.returncode == 4, answer.stdout
    assert "released" not in answer.stdout
    assert contents(project.root / "artifacts" / "small") == before
