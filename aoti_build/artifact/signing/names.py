"""Names of files in a release: relative paths with ``/`` that mean the same on every system."""

from __future__ import annotations

import unicodedata

from aoti_build.common.fields import MAX_PATH

# The name of the signature file, as the reference tool has it.
SIGNATURE_NAME = "model.sig"


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
    if unicodedata.normalize("NFC", name) != name:
        return "is not in Unicode's normal form NFC"
    return ""
