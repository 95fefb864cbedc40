"""What a row of the zoo is declared by."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A real architecture in a small configuration.

    `yaml` is what stands below the model's name in models.yaml, and `python` the file ``nets.py``
    beside it, if one is needed at all. `needs` are the modules without which the entry is skipped.

    `refused` are texts that the build's error must hold, where torch itself cannot: then the row
    holds torch's reason and the message. `ci` says whether CI runs it. `bound` is the largest error
    allowed, as a part of the output's root mean square.
    """

    name: str
    library: str
    yaml: str
    python: str = ""
    needs: tuple[str, ...] = ()
    kind: str = ""
    ci: bool = False
    bound: float = 1e-3
    refused: tuple[str, ...] = ()
    note: str = ""

    def models_yaml(self) -> str:
        return (
            f"version: 1\nmodels:\n  {self.name}:\n"
            + textwrap.indent(textwrap.dedent(self.yaml).strip("\n"), "    ")
            + "\n"
        )

    def nets(self) -> str:
        return textwrap.dedent(self.python).strip("\n") + "\n"

    def yaml_lines(self) -> int:
        """Lines of models.yaml that this model takes: all but the two that a file has once."""
        return len(self.models_yaml().splitlines()) - 2

    def python_lines(self) -> int:
        return sum(1 for line in self.nets().splitlines() if line.strip())
