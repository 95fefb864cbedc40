"""``python -m aoti_build TASK``: the tasks without a tasks.py, such as ``init`` in a project."""

from __future__ import annotations

from invoke import Program

from aoti_build import __version__
from aoti_build.tasks import ns
from aoti_build.tasks.naming import run_by


def main() -> None:
    """Run the tasks that the command line names, and exit with their code."""
    program = Program(
        name="aoti_build",
        binary="python -m aoti_build",
        namespace=ns,
        version=__version__,
    )
    run_by(program)
    program.run()


if __name__ == "__main__":
    main()
