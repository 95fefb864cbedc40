"""Writes docs/explanation/modules.md: what each module of aoti_build is for.

The texts are the first sentences of the modules' docstrings, so they are kept where the code is.
A test compares the page with the code.

    python tools/modules.py
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "aoti_build"
PAGE = REPOSITORY / "docs" / "explanation" / "modules.md"
HEAD = """\
# Modules

What each module is for, by its own first sentence. `python tools/modules.py` writes this page.
How the packages depend on each other is in [architecture](architecture.md).
"""
_SENTENCE = re.compile(r"(.+?\.)(?:\s|$)", re.S)


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for directory in packages(PACKAGE):
        parts.append(section(directory))
    return "\n".join(parts)


def packages(directory: Path) -> Iterator[Path]:
    """A package and all packages below it, by name."""
    yield directory
    for path in sorted(directory.iterdir()):
        if (path / "__init__.py").exists():
            yield from packages(path)


def section(directory: Path) -> str:
    """The part of the page about one package."""
    name = directory.relative_to(REPOSITORY).as_posix()
    lines = [f"## {name}", "", first_sentence(directory / "__init__.py"), ""]
    for path in sorted(directory.glob("*.py")):
        if path.name != "__init__.py":
            lines.append(f"- `{path.stem}`: {first_sentence(path)}")
    return "\n".join(lines).rstrip() + "\n"


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, in one line and with a full stop.

    Raises:
        SystemExit: the module has no docstring.
    """
    text = ast.get_docstring(ast.parse(path.read_text()))
    if not text:
        raise SystemExit(f"{path.relative_to(REPOSITORY)} has no docstring")
    paragraph = " ".join(text.split("\n\n")[0].split())
    match = _SENTENCE.match(paragraph)
    sentence = match[1] if match else paragraph
    return sentence.rstrip(".:") + "."


if __name__ == "__main__":
    PAGE.write_text(page())
