"""The licences that installed distributions declare in their metadata."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

from aoti_build.artifact.bundle.record import Licence

# Some distributions have the whole text of a licence in the field for its name.
_LONGEST_NAME = 100
_CLASSIFIER = "License :: "
_FORMER = "License"
# The field of the metadata whose value is an SPDX expression (PEP 639).
EXPRESSION_FIELD = "License-Expression"


def licences_of(distributions: Iterable[str]) -> tuple[Licence, ...]:
    """What is known of the licences of installed distributions, in the order of their names.

    Those that are not installed, or that declare none, are left out.
    """
    licences = []
    for name in sorted(distributions):
        licence = licence_of(name)
        if licence is not None:
            licences.append(licence)
    return tuple(licences)


def licence_of(distribution: str) -> Licence | None:
    """The licence in the metadata of an installed distribution; None if it says nothing."""
    try:
        fields = metadata.metadata(distribution)
    except (metadata.PackageNotFoundError, ValueError):
        return None
    expression = _first(fields, EXPRESSION_FIELD)
    if expression:
        return Licence(expression=expression, source=f"{EXPRESSION_FIELD} of {distribution}")
    name = _first(fields, _FORMER)
    if name and "\n" not in name and len(name) <= _LONGEST_NAME:
        return Licence(expression=name, source=f"{_FORMER} of {distribution}")
    for classifier in fields.get_all("Classifier") or ():
        if classifier.startswith(_CLASSIFIER):
            last = classifier.rpartition(" :: ")[2]
            return Licence(expression=last, source=f"Classifier of {distribution}")
    return None


def _first(fields: metadata.PackageMetadata, name: str) -> str:
    """The value of a field, or an empty text."""
    values = fields.get_all(name) or [""]
    return str(values[0]).strip()
