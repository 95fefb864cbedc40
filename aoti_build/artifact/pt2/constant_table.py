"""The table of constants in the C++ source that inductor generated.

The source may come from anyone: it is also read before its package was compared with a manifest.
"""

from __future__ import annotations

import re

# A line for each field of each constant. It is anchored at both ends of the line and bounded, so
# that no text takes more than linear time.
_FIELD = re.compile(
    r"^ *constants_info_\[(\d{1,9})\]\.(\w{1,20}) = ([^\n]{0,4096});[^\S\n]*$", re.MULTILINE
)


def constant_rows(source: str) -> dict[int, dict[str, str]]:
    """The C++ expression of each field, by field and by the index of its constant, in order."""
    rows: dict[int, dict[str, str]] = {}
    for index, name, value in _FIELD.findall(source):
        rows.setdefault(int(index), {})[name] = value
    return dict(sorted(rows.items()))
