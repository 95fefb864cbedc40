"""Counts sentences, words per sentence, and commas and semicolons per sentence.

Prints one line for README.md and CONTRIBUTING.md, and one for each page below docs/. Code blocks,
tables, headings and HTML comments do not count. A list entry is a paragraph of its own.

    python tools/prose.py [FILE ...]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = re.compile(
    r"^(?P<fence>```|~~~).*?^(?P=fence)[^\n]*$|^ *\|[^\n]*$|^#[^\n]*$|<!--.*?-->", re.M | re.S
)
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
INLINE_CODE = re.compile(r"`[^`]*`")
PARAGRAPH = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )")
LIST_MARK = re.compile(r"^(?:[-*]|\d+\.) ")
SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)[.!?][\"')*]*\s+")


class Counts(NamedTuple):
    """What one text holds. `pauses` are commas and semicolons."""

    sentences: int
    words: int
    pauses: int
    longest: int

    def __str__(self) -> str:
        sentences = max(self.sentences, 1)
        return (
            f"{self.sentences:5} sentences {self.words / sentences:6.1f} words"
            f" {self.pauses / sentences:6.2f} commas and semicolons   longest {self.longest:3}"
        )


def sentences_of(text: str) -> list[str]:
    """The sentences of a Markdown text, with one word in place of each piece of inline code."""
    prose = INLINE_CODE.sub("code", LINK.sub(r"\1", SKIPPED.sub("\n", text)))
    paragraphs = [LIST_MARK.sub("", " ".join(part.split())) for part in PARAGRAPH.split(prose)]
    return [
        sentence
        for paragraph in paragraphs
        for sentence in SENTENCE_END.split(paragraph)
        if re.search(r"\w", sentence)
    ]


def count(text: str) -> Counts:
    sentences = sentences_of(text)
    lengths = [len(sentence.split()) for sentence in sentences]
    pauses = sum(len(re.findall("[,;]", sentence)) for sentence in sentences)
    return Counts(len(sentences), sum(lengths), pauses, max(lengths, default=0))


def main(names: list[str]) -> None:
    pages = [Path(name).resolve() for name in names] or [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
    for page in pages:
        sys.stdout.write(f"{count(page.read_text())}   {page.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
