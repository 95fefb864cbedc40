"""Changes by chance of bytes, of texts of models.yaml, of JSON values and of packages."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zipfile
from typing import Any

from packages import BLOB, FOLDER, KERNEL, LIBRARY, METADATA, ROOT, WRAPPER, cubin, fatbin, members


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


NAMES = [
    "", ".", "..", "../../canary/home", "/etc/passwd", "a/b", "a\0b", "\ud800", "\udcff", "x" * 300,
    "x" * 5000, "\x1b[2Jx", "con", "a b", "ä", "\u202e", "~", "a\nb", "*", "manifest.json",
    "model.pt2",
]  # fmt: skip
NUMBERS = [
    0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -(2**63), 0.5, -0.0, 1e308, 1e-320,
    float("inf"), float("nan"), True, False,
]  # fmt: skip
VALUES = [
    *NAMES,
    *NUMBERS,
    None,
    [],
    {},
    [[]],
    {"": {}},
    [None],
    nested(50),
    nested(150),
    nested(900),
    "a" * 64,
    "0" * 64,
]
FRAGMENTS = [
    "  ", "- ", "*x", "&x ", "[", "}", ": ", "\t", "'", '"', "!!int ", "~", "{", "]", "---\n",
    "<<: *x\n", "#", "|", ">", "\\x", "\ufeff", "1e400", "0x", ".nan", "? ", "\x85", "..",
    "9" * 120, "models:", "version: 2", "../",
]  # fmt: skip
WORDS = [
    "null",
    "true",
    ".inf",
    "{}",
    "[]",
    "[[[[]]]]",
    "'a\\0b'",
    '"a\\0b"',
    '"\\ud800"',
    "x" * 300,
    "9" * 5000 + "g",
]


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """Bits flipped, stretches cut, doubled or moved."""
    found = bytearray(content)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(found) + 1)
        length = chance.choice([1, 1, 2, 4, 16, 200])
        kind = chance.randrange(5)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del found[at : at + length]
        elif kind == 2:
            found[at:at] = found[at : at + length]
        elif kind == 3:
            found[at : at + length] = chance.randbytes(length)
        else:
            found[at : at + length] = chance.choice([b"\0", b"\xff"]) * length
    return bytes(found)


def mutated_text(text: str, chance: random.Random) -> str:
    """Lines of models.yaml moved, doubled, indented, with other values and stray characters."""
    lines = text.splitlines()
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(lines))
        line, kind = lines[at], chance.randrange(6)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(chance.randrange(len(lines) + 1), line)
        elif kind == 2:
            lines[at] = " " * chance.randrange(4) + line
        elif kind == 3 and ":" in line:
            value = chance.choice([*WORDS, *map(yaml_value, VALUES)])
            lines[at] = f"{line.partition(':')[0]}: {value}"
        elif kind == 4:
            place = chance.randrange(len(line) + 1)
            lines[at] = line[:place] + chance.choice(FRAGMENTS) + line[place:]
        else:
            name = chance.choice([name for name in NAMES if name.isprintable()] or ["x"])
            lines[at] = line.replace(line.strip().partition(":")[0] or "x", name, 1)
        if not lines:
            break
    return "\n".join(lines) + "\n"


def yaml_value(value: Any) -> str:
    try:
        return json.dumps(value)
    except RecursionError:
        return "[" * 100


def mutated_json(document: Any, chance: random.Random) -> Any:
    """A copy with up to four values replaced, removed, renamed, added or repeated."""
    found = copy.deepcopy(document)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 4])):
        _change(found, chance)
    return found


def _fresh(value: Any) -> Any:
    """One that a later change may change."""
    return json.loads(json.dumps(value)) if isinstance(value, dict | list) else value


def _change(document: Any, chance: random.Random) -> None:
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = chance.choice(keys)
        inner = place[key]
        if isinstance(inner, dict | list) and inner and chance.random() < 0.8:
            place = inner
            continue
        break
    value = _fresh(chance.choice(VALUES))
    if not keys:
        if isinstance(place, dict):
            place[chance.choice(NAMES)] = value
        else:
            place.append(value)
        return
    kind = chance.randrange(5)
    if kind == 0:
        del place[key]
    elif kind == 1 and isinstance(place, dict):
        place[chance.choice(NAMES)] = place.pop(key)
    elif kind == 2:
        if isinstance(place, dict):
            place[chance.choice(NAMES)] = value
        else:
            place.append(value)
    else:
        place[key] = value


def mutated_package(whole: bytes, chance: random.Random) -> bytes:
    """A damaged zip, or a sound one with other members, another order, other metadata or foreign
    code."""
    kind = chance.randrange(4)
    if kind == 0:
        return mutated_bytes(whole, chance)
    if kind == 1:
        return _field_changed(whole, chance)
    files = members()
    for _ in range(chance.randrange(1, 4)):
        _change_member(files, chance)
    method = chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return mutated_bytes(packed.getvalue(), chance) if kind == 3 else packed.getvalue()


def _field_changed(whole: bytes, chance: random.Random) -> bytes:
    """A number in one of the zip's own records."""
    found = bytearray(whole)
    sign = chance.choice([b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"])
    places = [at for at in range(len(found) - 4) if found[at : at + 4] == sign]
    at = chance.choice(places) + chance.randrange(4, 46)
    value = chance.choice([0, 1, 0xFF, 0xFFFF, 0xFFFFFFFF, chance.getrandbits(32)])
    width, code = chance.choice([(2, "<H"), (4, "<L")])
    if at + width <= len(found):
        struct.pack_into(code, found, at, value & (1 << 8 * width) - 1)
    return bytes(found)


def _change_member(files: dict[str, bytes], chance: random.Random) -> None:
    name = chance.choice(sorted(files)) if files else WRAPPER
    kind = chance.randrange(8)
    if kind == 0:
        files.pop(name, None)
    elif kind == 1:
        files[name] = mutated_bytes(files.get(name, b"x"), chance)
    elif kind == 2:
        files[chance.choice([WRAPPER, LIBRARY, METADATA, BLOB, KERNEL, name])] = files.get(
            name, b""
        )
    elif kind == 3:
        told = chance.choice(
            [name for name in NAMES if "\0" not in name and name.isprintable() and name]
        )
        files[chance.choice([f"{FOLDER}{told}", f"{ROOT}/{told}", told])] = b"x"
    elif kind == 4:
        changed = mutated_json(json.loads(members()[METADATA]), chance)
        files[METADATA] = json.dumps(changed).encode()
    elif kind == 5:
        text = mutated_text(members()[WRAPPER].decode(), chance)
        files[WRAPPER] = text.encode(errors="replace")
    elif kind == 6:
        binary = chance.choice(
            [cubin(0x50 << 8, 8, "sm_80"), fatbin((1, 80), (2, 90)), files.get(LIBRARY, b"")]
        )
        end = chance.choice([".cubin", ".fatbin", ".so", ".ptx"])
        files[f"{FOLDER}k{chance.randrange(9)}{end}"] = mutated_bytes(binary, chance)
    else:
        files[f"{ROOT}/archive_version"] = chance.choice(
            [b"", b"1", b"\xff", b"0" * 100, b"-1", b"0"]
        )
