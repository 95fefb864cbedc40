"""Says what was probably meant by a word of the command line that invoke does not know.

invoke itself prints only ``No idea what 'biuld' is!``. It offers no place for a better text: its
parser raises the error before it calls anything of a collection, a task or an argument. So this
looks at invoke's program when the process ends, and adds the error to what invoke printed.
"""

from __future__ import annotations

import atexit
import contextlib
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aoti_build.errors import UsageError, name_tasks
from aoti_build.tasks.naming import program_name, running_program

if TYPE_CHECKING:
    from invoke import Program
    from invoke.parser import ParserContext


# How the documents write the positional parameters.
_PLACEHOLDERS = {"directory": "DIR"}
# What an error calls a parameter, if that is not its name with an article.
_NOUNS = {"old": "an old release", "new": "a new release", "address": "an address"}


def explain_at_exit() -> None:
    """Explain an unknown task or option when this process ends. Nothing happens without one."""
    atexit.register(_explain)


def _explain() -> None:
    program = running_program()
    name_tasks(program=program_name())
    error = None if program is None else _error(program)
    if error is not None:
        # If stderr is closed, the exit code tells the result.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(f"error: {error}\n")
            sys.stderr.flush()


def _error(program: Program) -> UsageError | None:
    """The error for the word that `program` did not know, if there is one."""
    parser = getattr(program, "parser", None)
    if parser is None:  # it ended before it came to the tasks
        return None
    if hasattr(program, "core_via_tasks"):  # all words were understood
        name = program.args.help.value
        is_unknown = isinstance(name, str) and name not in parser.contexts
        return _no_such_task(name, [*parser.contexts]) if is_unknown else None
    return _unknown_word(program)


def _unknown_word(program: Program) -> UsageError | None:
    from invoke.exceptions import ParseError
    from invoke.parser import Parser

    contexts = program.parser.contexts
    # The same parse again, but one that stops at what it does not know.
    parser = Parser(contexts.values(), program.initial_context, ignore_unknown=True)
    try:
        result = parser.parse_argv(program.core.unparsed)
    except ParseError as error:
        absent = re.match(r"'(.+)' did not receive required positional arguments: (.+)", str(error))
        if absent:
            return _needs_arguments(absent[1], re.findall(r"[\w-]+", absent[2]), contexts)
        # invoke writes the option as its own object: Flag <Argument: target (t)> needed value
        option = re.match(r"Flag <\w+: ([\w-]+).* needed value", str(error))
        if option is None:
            return None
        hint = "`invoke TASK --help` explains the options"
        return UsageError(f"--{option[1]} needs a value", hint=hint)
    if not result.unparsed:
        return None
    word, context = result.unparsed[0], result[-1]
    if word.startswith("-"):
        return _no_such_option(word, context)
    if context.name is None:  # no task came before it
        return _no_such_task(word, [*contexts])
    return _misplaced(word, context, [*contexts])


def _needs_arguments(
    task: str, absent: list[str], contexts: Mapping[str, ParserContext]
) -> UsageError:
    """`absent` are the names of the positional parameters that no word of the command gives."""
    nouns = " and ".join(_NOUNS.get(name, f"a {name}") for name in absent)
    words = [task]
    for argument in contexts[task].positional_args:
        name = str(argument.name)
        words.append(_PLACEHOLDERS.get(name, name.upper()))
    return UsageError(
        f"{task} needs {nouns}, and none is named",
        hint=f"`invoke {' '.join(words)}`; `invoke {task} --help` explains it",
    )


def _no_such_task(word: str, tasks: list[str]) -> UsageError:
    return UsageError(
        f"there is no task {word!r}{_suggestion(word, tasks)}",
        hint="`invoke --list` shows all tasks",
    )


def _no_such_option(word: str, context: ParserContext) -> UsageError:
    """`context` has the name of the task before the word, or none for invoke's own options."""
    options = [option for option in context.flag_names() if option.startswith("--")]
    words = ["invoke", *([context.name] if context.name else []), "--help"]
    return UsageError(
        f"{context.name or program_name()} has no option {word}{_suggestion(word, options)}",
        hint=f"`{' '.join(words)}` explains the options",
    )


def _misplaced(word: str, task: ParserContext, tasks: list[str]) -> UsageError:
    # Most such words are names of targets, which may resemble a task by chance.
    suggestion = _suggestion(word, tasks, cutoff=0.75)
    hint = "`invoke --list` shows all tasks"
    if not suggestion and "target" in task.args:
        command = f"invoke {task.name} --target {word}"
        hint = f"to choose targets, write `{command}`; commas separate several"
    return UsageError(
        f"{word!r} is neither a task nor an option of {task.name}{suggestion}", hint=hint
    )


def _suggestion(word: str, options: list[str], cutoff: float = 0.6) -> str:
    """`` (did you mean 'build'?)``; empty if no option is as similar as `cutoff`, from 0 to 1."""
    import difflib

    from aoti_build.models_file.wording import did_you_mean

    matches = difflib.get_close_matches(word, options, 1, cutoff)
    if not matches:
        # `biuld` may also mean `aoti.build`.
        ends = {option.rpartition(".")[2]: option for option in options}
        matches = [ends[end] for end in difflib.get_close_matches(word, ends, 1, cutoff)]
    return did_you_mean(matches)
