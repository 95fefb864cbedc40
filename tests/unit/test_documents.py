"""README.md, CONTRIBUTING.md and docs/ name only what exists: links, commands, options, keys of
models.yaml and environment variables."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_projects import REPOSITORY, write_project

import aoti_build
from aoti_build.artifact.paths import log_path, reader_log_path
from aoti_build.artifact.reasons import ReasonKind
from aoti_build.errors import ExitCode
from aoti_build.models_file import load_project
from aoti_build.tasks import ns

DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
COMMANDS = DOCS / "reference" / "commands.md"
ENVIRONMENT = DOCS / "reference" / "environment.md"
PAGES = (README, REPOSITORY / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))

# Pages about the code itself, which name modules by any end of their paths.
CODE_PAGES = [
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((DOCS / "explanation").glob("*.md")),
    *sorted((DOCS / "decisions").glob("*.md")),
]
FILES_OF_TORCH = {"torch/_inductor/cpp_builder.py", "codecache.py"}

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.M | re.S)
INLINE_CODE = re.compile(r"`[^`\n]+`")

EXAMPLES = [
    pytest.param(page.name, text, id=f"{page.name}-{number}")
    for page in PAGES
    for number, (_, language, text) in enumerate(FENCE.findall(page.read_text()))
    if language == "yaml" and text.startswith("version: 1\n")
]


def pages() -> pytest.MarkDecorator:
    names = [str(page.relative_to(REPOSITORY)) for page in PAGES]
    return pytest.mark.parametrize("page", PAGES, ids=names)


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) < 200


@pages()
def test_links_lead_somewhere(page: Path) -> None:
    text = INLINE_CODE.sub("", FENCE.sub("", page.read_text()))
    for path, anchor in re.findall(r"\]\(([^)#\s:]*)(?:#([^)\s]*))?\)", text):
        file = page.parent / path if path else page
        assert file.exists(), f"no file {path}"
        if anchor:
            assert anchor in anchors_of(file), f"no heading {path}#{anchor}"


@pytest.mark.parametrize("page", CODE_PAGES, ids=lambda page: page.name)
def test_modules_exist(page: Path) -> None:
    named = set(re.findall(r"`([\w./]+\.(?:py|cpp))`", page.read_text())) - FILES_OF_TORCH
    missing = {name for name in named if not is_end_of_path(name)}
    assert not missing, "no such file"


@pytest.mark.parametrize("name", ["tasks/absent.py", "ptions.py"])
def test_a_module_that_does_not_exist_is_noticed(name: str) -> None:
    assert not is_end_of_path(name)


def test_the_page_on_the_architecture_has_a_row_for_every_package() -> None:
    page = (DOCS / "explanation" / "architecture.md").read_text()
    rows = re.findall(r"^\|(?: \d+ \|)? `(\w+)` \|", page, re.M)
    package = Path(aoti_build.__file__).parent
    assert {part.parent.name for part in package.glob("*/__init__.py")} <= {*rows}


def test_the_page_of_modules_is_made_from_their_docstrings() -> None:
    path = REPOSITORY / "tools" / "modules.py"
    tool = runpy.run_path(str(path))
    assert tool["PAGE"].read_text() == tool["page"](), "run python tools/modules.py"


def test_pages_of_the_site_link_inside_it() -> None:
    outside = [
        f"{page.relative_to(REPOSITORY)}: {path}"
        for page in DOCS.rglob("*.md")
        for path in re.findall(r"\]\(([^)#\s:]+)(?:#[^)\s]*)?\)", FENCE.sub("", page.read_text()))
        if DOCS not in (page.parent / path).resolve().parents
    ]
    assert not outside, "the site has only what is below docs/; write such paths as code"


@pages()
def test_commands_exist(page: Path) -> None:
    for line in shell_lines(page):
        for words in invoke_commands(line):
            check_command(words)


@pytest.mark.parametrize("line", ["inv biuld", "inv build --deeper", "set -e && inv why --strict"])
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    (words,) = invoke_commands(line)
    with pytest.raises(AssertionError):
        check_command(words)


def test_the_reference_lists_every_task_with_its_options() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|[^|\n]*\|([^|\n]*)\|$", COMMANDS.read_text(), re.M)
    listed = {task: set(re.findall(r"--[a-z-]+", options)) for task, options in rows if options}
    assert listed == {task: options_of(task) for task in ns.tasks}


def test_the_reference_explains_every_option() -> None:
    explained = set(re.findall(r"^\| `(--[a-z-]+)[^`]*` \|", COMMANDS.read_text(), re.M))
    assert explained == {option for task in ns.tasks for option in options_of(task)}


def test_the_tables_of_tasks_say_what_invoke_says() -> None:
    """README.md has the line of `inv --list` for each task, and commands.md begins with it."""
    lines = {name: (task.__doc__ or "").splitlines()[0] for name, task in ns.tasks.items()}
    readme = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", README.read_text(), re.M))
    assert {name: text.replace("`", "") for name, text in readme.items()} == lines
    row = r"^\| `([\w-]+)` \| ([^|\n]*) \|[^|\n]*--[^|\n]*\|$"
    reference = re.findall(row, COMMANDS.read_text(), re.M)
    assert {name for name, _ in reference} == set(ns.tasks)
    for name, text in reference:
        assert text.replace("`", "").startswith(lines[name])


@pytest.mark.parametrize("page", [README, COMMANDS], ids=["README.md", "commands.md"])
def test_every_exit_code_is_explained(page: Path) -> None:
    explained = re.findall(r"^\| (\d+) \|", page.read_text(), re.M)
    assert {int(code) for code in explained} == set(ExitCode)


def test_every_reason_is_explained() -> None:
    section = COMMANDS.read_text().partition("\n## Reasons\n")[2].partition("\n## ")[0]
    explained = set(re.findall(r"^\| `([a-z-]+)` \|", section, re.M))
    assert explained == {kind.value for kind in ReasonKind}


@pytest.mark.parametrize(("page", "text"), EXAMPLES)
def test_examples_of_models_yaml_are_valid(page: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(text)
    assert load_project(file).targets, page


def test_the_whole_example_has_the_targets_that_the_text_names() -> None:
    page = (DOCS / "reference" / "models-yaml.md").read_text()
    named = page.partition("Its targets are")[2].partition("\n\n")[0]
    assert re.findall(r"`([^`]+)`", named) == [
        "encoder/cpu",
        "encoder/cpu-four-threads",
        "encoder/cpu-avx2",
        "encoder/cpu-avx2-four-threads",
        "encoder/cuda-max-autotune",
    ]


def test_every_environment_variable_is_in_the_reference() -> None:
    package = Path(aoti_build.__file__).parent
    names = {
        name
        for file in package.rglob("*.py")
        for name in re.findall(r"\bAOTI_BUILD_[A-Z_]+\b", file.read_text())
    }
    assert {"AOTI_BUILD_STORE", "AOTI_BUILD_ARTIFACTS"} <= names
    missing = {name for name in names if f"`{name}`" not in ENVIRONMENT.read_text()}
    assert not missing


@pages()
def test_logs_have_the_names_that_they_have_on_disk(page: Path, tmp_path: Path) -> None:
    project = write_project(tmp_path)
    (target,) = project.targets
    paths = [log_path(project, target)]
    paths += [reader_log_path(project, target, task) for task in ("verify", "run", "tune", "bench")]
    real = {path.name.replace("small@cpu", "") for path in paths}
    for name in re.findall(r"\.logs/([^\s`]+\.log)", page.read_text()):
        model, variant, task = name.split("@")
        assert model
        assert variant
        assert f"@{task}" in real or task == "<task>.log", name


def is_end_of_path(name: str) -> bool:
    """Whether a file of this repository has the path `name`, or one that ends with it."""
    if (REPOSITORY / name).is_file():
        return True
    tops = ("aoti_build", "tests", "tools")
    return any(file for top in tops for file in (REPOSITORY / top).rglob(name))


def anchors_of(page: Path) -> set[str]:
    """What a link can name on a page: its headings, as the usual renderers spell them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shell_lines(page: Path) -> Iterator[str]:
    """The commands in fenced sh blocks, and those after a prompt in text blocks."""
    for _, language, text in FENCE.findall(page.read_text()):
        if language == "sh":
            yield from text.splitlines()
        else:
            yield from re.findall(r"^ *\$ (.+)$", text, re.M)


def invoke_commands(line: str) -> Iterator[list[str]]:
    """The words after each `inv` or `invoke` in a line, up to the end of that command."""
    for command in re.split(r"&&|\|\||[|;>]", line.partition(" #")[0]):
        if not re.search(r"\b(inv|invoke)\b", command):
            continue
        words = shlex.split(command)
        at = [index for index, word in enumerate(words) if Path(word).name in ("inv", "invoke")]
        if at:
            yield words[at[0] + 1 :]


def check_command(words: list[str]) -> None:
    """Each word must be a task, an option of the task before it, or a value of an option."""
    task, takes_value, positional = "", False, 0
    for word in words:
        if takes_value:
            takes_value = False
        elif positional and not word.startswith("--"):
            positional -= 1
        elif word.startswith("--") and not task:
            takes_value = word == "--print-completion-script"
            known = takes_value or word in ("--list", "--dry")
            assert known, f"{word} is no option that the documents use"
        elif word.startswith("--"):
            option = word.partition("=")[0]
            assert option in options_of(task), f"{task} has no option {option}"
            takes_value = option in options_of(task, with_value=True) and "=" not in word
        else:
            assert word in ns.tasks, f"there is no task {word}"
            task = word
            positional = sum(argument.positional for argument in ns.tasks[task].get_arguments())


def options_of(task: str, *, with_value: bool = False) -> set[str]:
    """The options of a task, or only those that take a value, by the names in the documents."""
    arguments = [
        argument
        for argument in ns.tasks[task].get_arguments()
        if not argument.positional
        if argument.takes_value or not with_value
    ]
    return {f"--{argument.names[0]}" for argument in arguments}
