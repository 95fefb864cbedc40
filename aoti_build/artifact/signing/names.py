"""Names of files in a release: relative paths with ``/`` that mean the same on every system."""

from __future__ import annotations

import unicodedata

from aoti_build.common.fields import MAX_PATH

# The name of the signature file, as the reference tool has it.
SIGNATURE_NAME = "model.sig"
# Bytes of one part of a path, as file systems have it.
_LONGEST_PART = 255
# No release comes near it. Deeper ones could not be created or removed everywhere.
_MOST_PARTS = 100


def name_fault(name: str) -> str:
    """What is wrong with the name of a file in a release. Empty if nothing is."""
    # Control characters, marks that change the direction of a text, and half surrogate pairs.
    if not name.isprintable():
        return "has a character that cannot be shown"
    if len(name.encode()) > MAX_PATH:
        return "is too long"
    if name.startswith("/"):
        return "is absolute"
    if "\\" in name:
        return "has a backslash, which separates directories elsewhere"
    parts = name.split("/")
    if ".." in parts:
        return "leads out of the directory"
    if "." in parts or "" in parts:
        return "is not in its shortest form"
    if len(parts) > _MOST_PARTS:
        return "is nested too deep"
    if max(len(part.encode()) for part in parts) > _LONGEST_PART:
        return "has a part that is too long"
    if unicodedata.normalize("NFC", name) != name:
        return "is not in Unicode's normal form NFC"
    return ""
