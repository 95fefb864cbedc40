"""`init`: writes models.yaml and tasks.py for a repository, and changes nothing that exists.

It looks for models in the source, without importing it. What is there already is kept: a line is
added to .gitignore, and lines for an existing tasks.py are only shown.
"""

from __future__ import annotations

import ast
import os.path
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aoti_build.commands.conclusion import head
from aoti_build.commands.init.look import UNKNOWN_TENSOR, Candidate, Tensor, find_candidates
from aoti_build.commands.init.text import SCHEMA_FILE, added_lines, models_text, tasks_text
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import SpecError, UsageError, with_task_names

MODELS_FILE = "models.yaml"
_IGNORED = "/artifacts/"
_STAND_IN = "my_package.my_module:build"


@dataclass(frozen=True)
class Wishes:
    """What the user asked for; empty means: choose.

    Attributes:
        source: the callable, as models.yaml names it.
        shapes: the shape of each input, such as ``8,256``.
        dtypes: the dtype of each input, or one for all.
        devices: the devices to build for.
        name: the name of the model.
    """

    source: str = ""
    shapes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Look:
    """What is in a repository.

    Attributes:
        root: the directory of tasks.py, in which the model's code will run.
        file: the models.yaml to write.
        candidates: what seem to be models, the most likely first.
    """

    root: Path
    file: Path
    candidates: tuple[Candidate, ...]

    def candidate(self, source: str) -> Candidate | None:
        """The candidate with this source, or the most likely one if the source is empty."""
        for candidate in self.candidates:
            if source in ("", candidate.source):
                return candidate
        return None


@dataclass(frozen=True)
class InitReport:
    """What `init` did.

    Attributes:
        written: files that are new.
        extended: files with a new line.
        kept: files that existed and stay as they are.
        tasks: the file with the tasks, which a package of tasks has too.
        lines: lines that the user has to add to it.
        open_questions: what the user has to decide in models.yaml.
        prefix: the prefix of the tasks' names, once the `lines` are added.
    """

    written: tuple[str, ...]
    extended: tuple[str, ...]
    kept: tuple[str, ...]
    tasks: str
    lines: tuple[str, ...]
    open_questions: tuple[str, ...]
    prefix: str

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/init", 1),
            "written": list(self.written),
            "extended": list(self.extended),
            "kept": list(self.kept),
            "tasks": self.tasks,
            "lines": list(self.lines),
            "open_questions": list(self.open_questions),
            "prefix": self.prefix,
        }

    def as_lines(self) -> list[str]:
        """The report for people."""
        lines = [f"wrote     {name}" for name in self.written]
        lines += [f"extended  {name}" for name in self.extended]
        lines += [f"kept      {name}" for name in self.kept]
        if self.lines:
            lines += ["", f"Add these lines at the end of {self.tasks}:", ""]
            lines += [f"    {line}" for line in self.lines]
        if self.open_questions:
            lines.append("")
        lines += [f"check: {question}" for question in self.open_questions]
        prefix = self.prefix
        lines += ["", f"next: inv {prefix}status && inv {prefix}build {prefix}verify"]
        return lines


def look(directory: Path, file: str = "") -> Look:
    """Look at the repository in `directory`. `file` is the models.yaml to write, relative to the
    current directory.

    Raises UsageError if the file exists or has another suffix.
    """
    path = Path(os.path.abspath(file)) if file else directory / MODELS_FILE
    if path.suffix != ".yaml":
        raise UsageError(f"--file {file} does not end in .yaml")
    root = directory if path.is_relative_to(directory) else path.parent
    if os.path.lexists(path):
        raise UsageError(
            f"{path} exists, and init never overwrites a file",
            hint="edit it, or name another one with --file",
        )
    misnamed = path.with_suffix(".yml")
    if misnamed.exists():
        raise UsageError(f"there is a {misnamed.name}", hint=f"rename it to {path.name}")
    return Look(root, path, find_candidates(root))


def init(found: Look, wishes: Wishes) -> InitReport:
    """Write the files.

    Raises:
        UsageError: a wish cannot be a value of models.yaml. Nothing was written.
    """
    candidate = found.candidate(wishes.source)
    text, questions = _models_text(found, wishes, candidate)
    _check(text, found.file)
    written = [found.file]
    _write_new(found.file, text)
    schema = found.file.parent / SCHEMA_FILE
    kept = []
    if _write_new(schema, _schema_text()):
        written.append(schema)
    else:
        kept.append(schema)
    file = None
    if found.file != found.root / MODELS_FILE:
        file = os.path.relpath(found.file, found.root)
    tasks = found.root / "tasks.py"
    lines: list[str] = []
    existing = _existing_tasks(found.root)
    if existing is None:
        _write_new(tasks, tasks_text(file))
        written.append(tasks)
    else:
        kept.append(existing)
        lines = _lines_for(existing, file)
    ignore = found.root / ".gitignore"
    had_ignore = ignore.exists()
    ignored = _extend_gitignore(ignore)
    if not had_ignore:
        written += ignored
        ignored = []
    return InitReport(
        written=_shown(written, found.root),
        extended=_shown(ignored, found.root),
        kept=_shown(kept, found.root),
        tasks=_shown([existing or tasks], found.root)[0],
        lines=tuple(lines),
        open_questions=tuple(f"{_shown([found.file], found.root)[0]}:{line}" for line in questions),
        prefix="aoti." if lines else _prefix(),
    )


def _prefix() -> str:
    """What the names of the tasks begin with in the collection that invoke runs now."""
    return with_task_names("invoke status").rpartition(" ")[2].removesuffix("status")


def _models_text(found: Look, wishes: Wishes, candidate: Candidate | None) -> tuple[str, list[str]]:
    """The text of models.yaml, and the questions that it leaves open."""
    source = wishes.source or (candidate.source if candidate else _STAND_IN)
    tensors = _tensors(wishes, candidate)
    questions = []
    source_note = f"found in {candidate.place}" if candidate else "as you named it"
    if candidate is None and not wishes.source:
        source_note = "EDIT: the callable that returns your torch.nn.Module"
        questions.append("source: no model was found; name the callable that makes yours")
    elif candidate is not None and not wishes.source and len(found.candidates) > 1:
        others = ", ".join(other.source for other in found.candidates[1:4])
        questions.append(f"source: {source} was chosen; others are {others}")
    inputs_note = "one line for each argument of forward, with an example size"
    if not wishes.shapes:
        inputs_note = "EDIT if needed: " + inputs_note
        questions.append("inputs: the shape is a guess")
    required = candidate.required if candidate else ()
    if required:
        questions.append(f"kwargs: {source} needs values for {', '.join(required)}")
    in_src = candidate.in_src if candidate else _is_src_module(found.root, source)
    text = models_text(
        name=wishes.name or (_name_of(candidate.name) if candidate else _name_of(source)),
        source=source,
        source_note=source_note,
        tensors=tensors,
        inputs_note=inputs_note,
        required=required,
        devices=wishes.devices,
        root=os.path.relpath(found.root, found.file.parent),
        python_path=("src",) if in_src else (".",),
    )
    return text, questions


def _tensors(wishes: Wishes, candidate: Candidate | None) -> list[Tensor]:
    if not wishes.shapes:
        guess = (candidate.tensor if candidate else None) or UNKNOWN_TENSOR
        if wishes.dtypes:
            guess = guess._replace(dtype=wishes.dtypes[0])
        return [guess]
    dtypes = wishes.dtypes or ("float32",)
    if len(dtypes) not in (1, len(wishes.shapes)):
        raise UsageError(
            f"--dtype names {len(dtypes)} dtypes for {len(wishes.shapes)} inputs",
            hint="give one for all inputs, or one for each --shape",
        )
    guessed = candidate.tensor if candidate else None
    tensors = []
    for index, shape in enumerate(wishes.shapes):
        dtype = dtypes[index % len(dtypes)]
        # Ids must stay inside the vocabulary.
        is_ids = guessed is not None and guessed.dtype == dtype == "int64"
        tensors.append(Tensor(_sizes(shape), dtype, guessed.high if is_ids and guessed else None))
    return tensors


def _sizes(shape: str) -> tuple[int, ...]:
    words = re.split(r"\s*[,x]\s*|\s+", shape.strip("[]() "))
    if not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words):
        raise UsageError(
            f"--shape {shape} is not a list of sizes",
            hint="write the sizes with commas, such as --shape 8,256, once for each input",
        )
    return tuple(map(int, words))


def _is_src_module(root: Path, source: str) -> bool:
    """Whether a source that the user named is a module below src/."""
    module, _, _ = source.rpartition(":")
    if module.endswith(".py") or "/" in module:
        return False
    top = module.partition(".")[0]
    paths = [root / "src" / f"{top}.py", root / "src" / top]
    return any(path.exists() for path in paths) and not (root / top).exists()


def _name_of(text: str) -> str:
    """A name for a model, from a source or from another name."""
    location = text.rpartition(":")[0] or text
    stem = location.removesuffix(".py").replace("/", ".").rpartition(".")[2]
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")
    return name if name and name != "my_module" else "model"


def _check(text: str, file: Path) -> None:
    """Raise UsageError if the parser would refuse the text."""
    # Imported here, because it imports yaml and pydantic.
    from aoti_build.models_file.parsing.resolve import parse

    try:
        parse(text, file)
    except SpecError as error:
        problems = [problem.text for problem in error.problems]
        raise UsageError(
            "an option cannot be a value of models.yaml; nothing was written",
            cause="\n".join(problems),
        ) from None


def _schema_text() -> str:
    from aoti_build.models_file.parsing.editor_schema import json_schema_text

    return json_schema_text()


def _write_new(path: Path, text: str) -> bool:
    """Write a file unless there is one. Returns whether it was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def _existing_tasks(root: Path) -> Path | None:
    for path in (root / "tasks.py", root / "tasks" / "__init__.py"):
        if os.path.lexists(path):
            return path
    return None


def _lines_for(tasks: Path, file: str | None) -> list[str]:
    """The lines that an existing tasks.py lacks. Empty if it has our tasks already."""
    try:
        text = tasks.read_text(encoding="utf-8")
        module = ast.parse(text)
    except (OSError, SyntaxError, ValueError):
        text, module = "", ast.parse("")
    if "aoti_build" in text:
        return []
    names = set()
    for statement in module.body:
        if isinstance(statement, ast.Assign):
            names |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
    return added_lines(file, has_namespace=bool(names & {"ns", "namespace"}))


def _extend_gitignore(path: Path) -> list[Path]:
    """Add a line for the artifacts unless there is one. Returns the file if it was changed."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    lines = {line.strip().strip("/") for line in text.splitlines()}
    if lines & {"artifacts", "artifacts/*"}:
        return []
    separator = "" if not text or text.endswith("\n") else "\n"
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{separator}{_IGNORED}\n")
    return [path]


def _shown(paths: Sequence[Path], root: Path) -> tuple[str, ...]:
    return tuple(os.path.relpath(path, root) for path in paths)
