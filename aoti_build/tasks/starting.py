"""The task that begins: it writes the files that the others read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from invoke import Context

from aoti_build.errors import Interrupted, UsageError
from aoti_build.tasks.answer import contract, show
from aoti_build.tasks.options import documented_task, read_list
from aoti_build.tasks.project import project_directory

if TYPE_CHECKING:
    from aoti_build.commands.init.command import Look, Wishes


@documented_task
def init(
    context: Context,
    source: str = "",
    shape: list[str] | None = None,
    dtype: str = "",
    device: str = "",
    name: str = "",
    file: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Write a models.yaml and a tasks.py. Nothing is overwritten.

    Models are looked for in the source. What the options leave open is asked
    for on a terminal, and guessed elsewhere.
    """
    with contract(json, debug):
        from aoti_build.commands.init import command

        found = command.look(project_directory(context), file)
        wishes = command.Wishes(
            source=source,
            shapes=tuple(shape or ()),
            dtypes=read_list("--dtype", dtype),
            devices=read_list("--device", device),
            name=name,
        )
        if sys.stdin is not None and sys.stdin.isatty():
            try:
                wishes = _asked(found, wishes)
            except KeyboardInterrupt:
                sys.stderr.write("\n")  # behind the question
                raise Interrupted(
                    "interrupted; nothing was written",
                    hint="options answer the questions in advance: `invoke init --help`",
                ) from None
        report = command.init(found, wishes)
        show(report, report.as_lines(), json)


def _asked(found: Look, wishes: Wishes) -> Wishes:
    """The wishes, with the user's answers for what they lack."""
    from dataclasses import replace

    if not wishes.source:
        for candidate in found.candidates[:9]:
            sys.stderr.write(f"  {candidate.source}  ({candidate.place})\n")
        best = found.candidate("")
        wishes = replace(
            wishes, source=_ask("callable that makes the model", best.source if best else "")
        )
    chosen = found.candidate(wishes.source) if wishes.source else None
    if not wishes.shapes:
        tensor = chosen.tensor if chosen else None
        guess = ",".join(map(str, tensor.shape)) if tensor else ""
        answer = _ask("shape of each input, such as 8,256; separate inputs by ;", guess)
        wishes = replace(wishes, shapes=tuple(answer.split(";")) if answer else ())
        if not wishes.dtypes:
            answer = _ask("dtype of the inputs", tensor.dtype if tensor else "float32")
            wishes = replace(wishes, dtypes=(answer,))
    if not wishes.name:
        name = _ask("name of the model", chosen.name if chosen else "")
        wishes = replace(wishes, name=name)
    return wishes


def _ask(question: str, default: str) -> str:
    """The answer of the user; the default for an empty one."""
    shown = f" [{default}]" if default else ""
    sys.stderr.write(f"{question}{shown}: ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise UsageError("the input ended before the last question; nothing was written")
    return line.strip() or default
