"""The names that the tasks of this package have in the collection which invoke runs.

A user may add the tasks as a sub-collection, at any depth, or single ones of them under a name of
their own. Hints then have to say ``invoke aoti.build``. Without a tasks.py they have to say
``python -m aoti_build build``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from types import FrameType

from invoke import Collection, Executor, Program

from aoti_build.errors import PROGRAM, name_tasks


def name_tasks_as_invoked() -> None:
    """Let hints use the names in the collection that invoke runs now.

    A task gets no reference to its collection. The executor that called it has one, and is on the
    call stack even if the task is a `pre` of another one or is called by the user's own task.
    """
    collection = _running_collection(sys._getframe(1))
    if collection is None:
        name_tasks()
    else:
        name_tasks(partial(names_in, collection), program_name())


class _Program:
    """The program that runs the tasks, if it is not that of invoke."""

    own: Program | None = None


def run_by(program: Program) -> None:
    """Let hints name this program, which is about to run the tasks, in the place of invoke."""
    _Program.own = program


def running_program() -> Program | None:
    """The program that runs the tasks; None if they run in an unknown one."""
    return _Program.own or getattr(sys.modules.get("invoke.main"), "program", None)


def program_name() -> str:
    """What the user types before the name of a task."""
    return _Program.own.binary if _Program.own is not None else PROGRAM


def names_in(collection: Collection) -> Mapping[str, str]:
    """The full names of this package's tasks in a collection, by their plain names."""
    # Imported here, because every task imports this module.
    from aoti_build.tasks import ns

    plain_names = {task.body: name for name, task in ns.tasks.items()}
    names: dict[str, str] = {}
    # Of two names for one task the one nearest to the top comes first.
    for name in sorted(collection.task_names, key=lambda name: (name.count("."), len(name))):
        plain_name = plain_names.get(collection[name].body)
        if plain_name is not None:
            names.setdefault(plain_name, name)
    return names


def _running_collection(frame: FrameType | None) -> Collection | None:
    """The collection of the innermost executor in the call stack; None if invoke runs nothing."""
    while frame is not None:
        caller = frame.f_locals.get("self") if "self" in frame.f_code.co_varnames else None
        if isinstance(caller, Executor):
            return caller.collection
        frame = frame.f_back
    return None
