"""Which instruction set extensions the code of a shared library uses, by its disassembly.

The input is what ``objdump -d`` prints. The encoding of an instruction is looked at first. In
64-bit mode the byte 62 begins an EVEX instruction (AVX-512 and later), C4 and C5 begin a VEX one
(AVX, AVX2 and later ones), and D5 an APX one (Intel 64 SDM, volume 2, chapter 2). Where an encoding
has several extensions, the mnemonic tells them apart, by the rules in `instructions.json`.

Instructions of older encodings up to SSE4.2, POPCNT, LZCNT and MOVBE belong to every portable
architecture, so they have no rules. Extensions have their names of /proc/cpuinfo, with two
exceptions: ``avx512f`` stands for F, BW, CD, DQ and VL together, and ``avx2`` includes AVX.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

# Per encoding, a list of extensions with a regular expression for their mnemonics. The first rule
# that matches a whole mnemonic counts.
RULES_FILE = Path(__file__).with_name("instructions.json")
# The extension of an instruction that belongs to no known one, in `instructions.json` too.
UNKNOWN = "unknown"

# A line of objdump: address, tab, bytes, tab, prefixes, mnemonic.
_LINE = re.compile(
    r"\s*([0-9a-f]+):\t((?:[0-9a-f]{2} )+)\s*\t(?:\{\w+\} |(?:lock|repz?|repnz|notrack|bnd|data16)"
    r" )*(\S+)"
)
_SYMBOL = re.compile(r"[0-9a-f]+ <(.+)>:$")
# Bytes that may stand before the one that tells the encoding.
_PREFIXES = frozenset({"26", "2e", "36", "3e", "64", "65", "66", "67", "f0", "f2", "f3"})
_ENCODINGS = {"62": "evex", "c4": "vex", "c5": "vex", "d5": "apx"}
# The extension of instructions that no rule of their encoding matches. An older encoding without a
# rule is part of every portable architecture.
_WITHOUT_RULE = {"evex": "avx512f", "vex": UNKNOWN, "older": None}


@dataclass(frozen=True)
class Use:
    """The first instruction of an extension in a disassembly."""

    extension: str
    instruction: str
    symbol: str
    address: str

    def __str__(self) -> str:
        return f"{self.extension}: {self.instruction} in {self.symbol} at {self.address}"


class _Rule(NamedTuple):
    extension: str
    mnemonic: re.Pattern[str]


def extensions(lines: Iterable[str]) -> dict[str, Use]:
    """The extensions that a disassembly (``objdump -d --insn-width=16``) uses.

    Each comes with the first instruction that uses it.
    """
    uses: dict[str, Use] = {}
    # A library has millions of instructions and few different mnemonics.
    extension_of: dict[tuple[str, str], str | None] = {}
    symbol = "?"
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            symbol_match = _SYMBOL.match(line)
            if symbol_match is not None:
                symbol = symbol_match[1]
            continue
        instruction = _encoding(match[2].split()), match[3]
        if instruction not in extension_of:
            extension_of[instruction] = _extension(*instruction)
        extension = extension_of[instruction]
        if extension is not None and extension not in uses:
            text = line[match.start(3) :].partition("#")[0]
            uses[extension] = Use(extension, " ".join(text.split()), symbol, match[1])
    return uses


def _encoding(code: list[str]) -> str:
    """The encoding of an instruction, from its bytes as pairs of hex digits."""
    for byte in code:
        if byte not in _PREFIXES:
            return _ENCODINGS.get(byte, "older")
    return "older"


def _extension(encoding: str, mnemonic: str) -> str | None:
    """The extension of an instruction; None if every portable architecture has it."""
    if encoding == "apx":
        return "apx_f"
    for rule in _rules()[encoding]:
        if rule.mnemonic.fullmatch(mnemonic):
            return rule.extension
    return _WITHOUT_RULE[encoding]


@cache
def _rules() -> Mapping[str, list[_Rule]]:
    """The rules of `RULES_FILE` by encoding, in the order in which they are tried."""
    document = json.loads(RULES_FILE.read_text(encoding="utf-8"))
    rules: dict[str, list[_Rule]] = {}
    for encoding, entries in document.items():
        rules[encoding] = [
            _Rule(entry["extension"], re.compile(entry["mnemonic"])) for entry in entries
        ]
    return rules
