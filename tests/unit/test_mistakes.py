"""Typical mistakes on the command line and in models.yaml, through the real `inv`.

Each has its exit code, its place and its next step. test_mistakes_in_user_code.py has those in user
code.
"""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import NamedTuple

import pytest
from small_projects import bare, inv

from aoti_build.errors import AotiBuildError, Problem, SpecError
from aoti_build.report.terminal import for_terminal
from aoti_build.tasks import ns
from aoti_build.tasks.options import SHORT_NAMES

MODELS = """\
version: 1
models:
  net:
    source: net.py:build
    inputs: [{shape: [2, 8]}]
"""


class Mistake(NamedTuple):
    """What the user writes in the place of what is right, and what must be said.

    `words` are the command. `old` in `MODELS` is replaced by `new`; without `old`, `new` is added
    to the model. `place` is a position in models.yaml, or the word that is wrong.
    """

    name: str
    place: str
    next_step: str
    old: str = ""
    new: str = ""
    words: str = "status"
    code: int = 2


BUILD = "build --dry-run"  # `status` also works without the files
INPUTS = "[{shape: [2, 8]}]"
MISTAKES = [
    # The command line. invoke itself ends with 1 for words that it does not know.
    Mistake("task misspelt", "'biuld'", "did you mean 'build'?", words="biuld", code=1),
    Mistake("help of a misspelt task", "'biuld'", "'build'", words="--help biuld", code=1),
    Mistake("second task misspelt", "'staus'", "'status'", words="schema staus", code=1),
    Mistake("option misspelt", "--traget", "'--target'", words="status --traget x", code=1),
    Mistake("short option", "-k", "invoke build --help", words="build -k", code=1),
    Mistake("target as a word", "'net'", "invoke status --target net", words="status net", code=1),
    Mistake("option without value", "--jobs", "needs a value", words="build --jobs", code=1),
    Mistake("no argument", "export needs", "invoke export DIR", words="export", code=1),
    Mistake("target misspelt", "'nett'", "did you mean 'net'", words="status -t nett"),
    Mistake("jobs", "--jobs four", "integer", words="build -j four"),
    Mistake("another file", "deploy.yaml", "--file", words="status -f deploy.yaml"),
    # The structure of models.yaml
    Mistake("tab", "models.yaml:4:1", "use spaces", "    source", "\tsource"),
    Mistake(
        "merge conflict",
        "models.yaml:4:1: a merge conflict of git",
        "keep one side",
        "    source: net.py:build\n",
        "<<<<<<< HEAD\n    source: net.py:build\n=======\n    source: net.py:make\n>>>>>>> new\n",
    ),
    Mistake(
        "rest of a merge conflict",
        "models.yaml:6:1: a merge conflict of git",
        "remove the lines",
        "    inputs: [{shape: [2, 8]}]\n",
        "    inputs: [{shape: [2, 8]}]\n>>>>>>> 0123abc (another)\n",
    ),
    Mistake("no version", "models.yaml:1:1", "write `version: 1`", "version: 1\n", ""),
    Mistake(
        "model not indented",
        "models.yaml:3:1",
        "indent it below a line `models:`",
        "  net:\n    source: net.py:build\n    inputs:",
        "net:\n  source: net.py:build\n  inputs:",
    ),
    Mistake("no models", "models.yaml:2:1", "`models:`", "models:\n  net:\n", "net:\n"),
    Mistake("keys beside the model", "models.yaml:4:3", "further", "    ", "  "),
    Mistake(
        "models as a list", "models.yaml:3:3", "as its key", "  net:\n   ", "  - name: net\n   "
    ),
    Mistake("key misspelt", "models.yaml:4:5", "did you mean 'source'", "source:", "sorce:"),
    # Inputs
    Mistake("one input", "models.yaml:5:13", "[{shape: [4, 8]}]", INPUTS, "{shape: [4, 8]}"),
    Mistake("a shape alone", "models.yaml:5:13", "[{shape: [2, 8]}]", INPUTS, "[2, 8]"),
    Mistake("a list of shapes", "models.yaml:5:14", "{shape: [2, 8]}", INPUTS, "[[2, 8]]"),
    Mistake(
        "a number among inputs",
        "models.yaml:5:31",
        "write {value: 3} for a constant, {shape: [...]} for a tensor, or let a callable make all"
        " inputs (`inputs: file.py:callable`)",
        INPUTS,
        "[{shape: [2, 8]}, 3]",
    ),
    Mistake("a shape as text", "models.yaml:5:22", "such as [2, 8]", "[2, 8]", "2x8"),
    Mistake("size -1", "models.yaml:5:23", "declare a dim", "[2, 8]", "[-1, 8]"),
    Mistake(
        "dim as a number", "models.yaml:6:15", "{max: 8}", "[2, 8]}]", "[b, 8]}]\n    dims: {b: 8}"
    ),
    Mistake("dtype of torch", "models.yaml:5:37", "'float32'", "8]}", "8], dtype: torch.float}"),
    # Source, devices, presets
    Mistake("no callable", "models.yaml:4:13", "did you mean 'net:build'", "net.py:", "net."),
    Mistake("two colons", "models.yaml:4:13", "with one", "py:", "py::"),
    Mistake(
        "file misspelt", "models.yaml:4:13", "no such file: nett.py", "net.py", "nett.py", BUILD
    ),
    Mistake("weights as source", "models.yaml:4:13", "under `weights`", "net.py:build", "net.pt"),
    Mistake("one device", "models.yaml:6:14", "write [cuda]", new="devices: cuda"),
    Mistake("device gpu", "models.yaml:6:15", "did you mean 'cuda'", new="devices: [gpu]"),
    Mistake(
        "options in the model",
        "models.yaml:6:24",
        "belong to a preset",
        new="inductor_configs: {max_autotune: true}",
    ),
    # Weights
    Mistake("mp3", "models.yaml:6:14", "save a state dict", new="weights: voice.mp3"),
    Mistake("url", "models.yaml:6:14", "download", new="weights: https://host/w.safetensors"),
    Mistake(
        "no weights", "models.yaml:6:14", "no such file: w.pt", new="weights: w.pt", words=BUILD
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_names_its_place_and_the_next_step(tmp_path: Path, mistake: Mistake) -> None:
    text = MODELS + f"    {mistake.new}\n"
    if mistake.old:
        assert mistake.old in MODELS
        text = MODELS.replace(mistake.old, mistake.new)
    (tmp_path / "models.yaml").write_text(text)
    (tmp_path / "net.py").touch()
    (tmp_path / "voice.mp3").touch()
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    answer = inv(*mistake.words.split(), cwd=tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert answer.returncode == mistake.code, answer.stderr
    assert answer.stderr.count("error: ") == 1
    assert mistake.place in answer.stderr
    assert mistake.next_step in answer.stderr
    assert "Traceback" not in answer.stderr
    if mistake.place.startswith("models.yaml"):  # one mistake is one problem
        others = answer.stderr.count("models.yaml:")
        assert others == (2 if mistake.name == "key misspelt" else 1)


@pytest.mark.parametrize(
    ("words", "old", "new"),
    [("status", "py:build", "py"), (BUILD, "net.py", "nett.py"), ("status", "    source", "\tx")],
)
def test_a_place_is_a_path_from_the_current_directory(
    tmp_path: Path, words: str, old: str, new: str
) -> None:
    (tmp_path / "deploy").mkdir()
    (tmp_path / "tasks.py").write_text(
        "from aoti_build.tasks import ns\n"
        "ns.configure({'aoti_build': {'file': 'deploy/models.yaml'}})\n"
    )
    text = MODELS.replace("version: 1\n", "version: 1\nroot: ..\n").replace(old, new)
    (tmp_path / "deploy" / "models.yaml").write_text(text)
    answer = inv(*words.split(), cwd=tmp_path)
    assert answer.returncode == 2
    assert "deploy/models.yaml:5:" in answer.stderr
    inside = inv(*words.split(), cwd=tmp_path / "deploy")
    assert " models.yaml:5:" in inside.stderr


def test_a_misspelt_task_of_a_subcollection(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(
        "from invoke import Collection\n"
        "import aoti_build.tasks\n"
        "ns = Collection()\n"
        "ns.add_collection(aoti_build.tasks.ns, name='aoti')\n"
    )
    for word in ("biuld", "build", "aoti.biuld"):
        answer = inv(word, cwd=tmp_path)
        assert answer.returncode == 1
        assert answer.stderr.splitlines()[1] == (
            f"error: there is no task {word!r} (did you mean 'aoti.build'?)"
        )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("biuld", "there is no task 'biuld' (did you mean 'build'?)"),
        ("export", "`python -m aoti_build export DIR`"),
        ("build --traget x", "`python -m aoti_build build --help` explains the options"),
        ("status net", "`python -m aoti_build status --target net`"),
        ("status", "let `python -m aoti_build init` write one"),
        ("gc --max-size x", "`python -m aoti_build --help TASK`"),
    ],
)
def test_without_a_tasks_file_hints_name_the_program_that_runs(
    tmp_path: Path, words: str, said: str
) -> None:
    if words.startswith("gc"):
        (tmp_path / "models.yaml").write_text(MODELS)
    answer = bare(*words.split(), cwd=tmp_path)
    assert answer.returncode in (1, 2)
    assert answer.stderr.count("error: ") == 1
    assert said in answer.stderr
    assert "invoke" not in answer.stderr


@pytest.mark.parametrize("task", ns.tasks)
def test_help_after_a_task_without_a_tasks_file(tmp_path: Path, task: str) -> None:
    answer = bare(task, "-h", cwd=tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert f"Usage: python -m aoti_build [--core-opts] {task} " in answer.stdout


@pytest.mark.parametrize("task", ns.tasks)
def test_help_after_a_task_is_help(tmp_path: Path, task: str) -> None:
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    answer = inv(task, "-h", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert f"Usage: inv[oke] [--core-opts] {task} " in answer.stdout
    assert not list(tmp_path.glob("artifacts"))
    assert max(map(len, answer.stdout.splitlines())) <= 80


def test_only_the_named_options_are_short() -> None:
    short_names = {}
    for task in ns.tasks.values():
        for argument in copy.deepcopy(task).get_arguments():  # which takes the helps out
            for name in argument.names[1:]:
                short_names[argument.names[0]] = name
    assert short_names == SHORT_NAMES
    assert not {"h", "q"} & set(SHORT_NAMES.values())


def test_the_list_of_tasks_fits_into_80_columns(tmp_path: Path) -> None:
    """Each line is a whole sentence, which invoke does not wrap."""
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    answer = inv("--list", cwd=tmp_path)
    lines = answer.stdout.splitlines()[2:-1]
    assert [line.split()[0] for line in lines] == sorted(ns.tasks)
    for line in lines:
        assert len(line) <= 80
        assert line.endswith(".")
    for task in ns.tasks.values():
        for line in (inspect.getdoc(task) or "").splitlines():
            assert len(line) <= 78, line  # invoke indents it by two and does not wrap it


ESCAPES = "\x1b[1;31merror\x1b[0m: \x1b]0;title\x07bad\x1b(B \x1b]8;;http://x\x1b\\link \x07\r"


def test_an_error_has_no_escape_codes_of_others() -> None:
    clean = "error: bad link \ufffd\ufffd"
    error = AotiBuildError(ESCAPES, cause=ESCAPES, hint="line\n\tnext")
    assert error.as_json() == {
        "kind": "build",
        "message": clean,
        "cause": clean,
        "hint": "line\n\tnext",
    }
    assert "\x1b" not in str(error)
    assert str(SpecError("\x1b[1mm.yaml", [Problem(1, 2, ESCAPES)])) == f"m.yaml:1:2: {clean}"


def test_a_report_has_no_escape_codes_of_others() -> None:
    render = for_terminal(lambda report: [str(report)])
    assert render("\x1b[1;31merror\x1b[0m: \x1b]0;x\x07") == ["error: \ufffd]0;x\ufffd"]
    assert render("a\nb") == ["a\ufffdb"]


def test_the_next_step_after_a_wrong_models_yaml_is_about_that_file(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    (tmp_path / "models.yaml").write_text(
        "version: 1\nmodels:\n  net:\n    source: a.py:b\n    inputs: [{shape: [2]}]\n"
        "    inductor_configs: [quick]\n"
    )
    answer = inv("build", cwd=tmp_path)
    assert answer.returncode == 2
    assert "unknown preset 'quick'" in answer.stderr
    assert "next:  correct models.yaml; `invoke schema` prints" in answer.stderr
