"""Counts what docs/decisions asks of the code, over the Python files of a package.

Usage: python tools/measure.py [DIRECTORY]

Prints one line for each number, with its limit. A code line is a line that is not blank, a comment
or part of a docstring. Tokens are Python's, without comments, newlines and indentation.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

WIDTH = 100
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
}
DENSE = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.IfExp, ast.NamedExpr)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Counts:
    """Totals over all files. `functions` and `files` hold sizes in lines, with a name for each."""

    code_lines: int = 0
    tokens: int = 0
    comment_lines: int = 0
    long_lines: int = 0
    dense: int = 0
    untyped: int = 0
    functions: list[tuple[int, str]] = field(default_factory=list)
    files: list[tuple[int, str]] = field(default_factory=list)


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "aoti_build")
    counts = Counts()
    for path in sorted(root.rglob("*.py")):
        add_file(counts, path, str(path.relative_to(root)))
    lengths = sorted(length for length, _ in counts.functions)
    p90 = lengths[int(len(lengths) * 0.9)]
    thousands = counts.code_lines / 1000
    top = [entry for entry in root.iterdir() if entry.suffix == ".py" or entry.is_dir()]
    top = [entry for entry in top if entry.name not in ("__pycache__", "__init__.py")]
    report("files", len(counts.files), "")
    report("code lines", counts.code_lines, "")
    report("tokens a code line", counts.tokens / counts.code_lines, "<= 7")
    report(f"lines over {WIDTH} columns", counts.long_lines, "0")
    report("comprehension/ternary/walrus a function", counts.dense / len(lengths), "<= 0.5")
    report("dict[str, Any] a thousand code lines", counts.untyped / thousands, "<= 4")
    report("comment lines a hundred code lines", counts.comment_lines / thousands / 10, "4 to 7")
    report("lines of the 90th percentile function", p90, "<= 25")
    report("lines of the longest function", *largest(counts.functions, "<= 60"))
    report("lines of the longest file", *largest(counts.files, "<= 400"))
    report("folders and modules at the top", len(top), "<= 18")


def report(name: str, value: float, limit: str) -> None:
    shown = f"{value:.2f}" if isinstance(value, float) else str(value)
    print(f"{name:42} {shown:>10}   {limit}")


def largest(sizes: list[tuple[int, str]], limit: str) -> tuple[int, str]:
    """The largest size, and the limit with the name of what has that size."""
    size, name = max(sizes)
    return size, f"{limit}  ({name})"


def add_file(counts: Counts, path: Path, name: str) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    lines = source.splitlines()
    counts.files.append((len(lines), name))
    counts.long_lines += sum(1 for line in lines if len(line) > WIDTH)
    counts.untyped += source.count("dict[str, Any]")
    docstrings = set(docstring_lines(tree))
    code_lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            counts.comment_lines += 1
        if token.type in LAYOUT or token.start[0] in docstrings:
            continue
        counts.tokens += 1
        code_lines.update(range(token.start[0], token.end[0] + 1))
    counts.code_lines += len(code_lines)
    for node in ast.walk(tree):
        if isinstance(node, DENSE):
            counts.dense += 1
        if isinstance(node, FUNCTIONS):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            counts.functions.append((length, f"{name}:{node.name}"))


def docstring_lines(tree: ast.Module) -> Iterator[int]:
    """The numbers of all lines that are part of a docstring."""
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)):
            continue
        if ast.get_docstring(node, clean=False) is None:
            continue
        docstring = node.body[0]
        yield from range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1)


if __name__ == "__main__":
    main()
