"""Words that several error messages share: suggestions for misspelt names, and quoted values.

This module imports neither pydantic nor yaml, so that commands which parse nothing can use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice

# In hints to a user who has no models.yaml yet.
SMALL_EXAMPLE = """\
version: 1
models:
  net:
    source: net.py:build
    inputs: [{shape: [1, 8]}]"""

MAX_QUOTED_LENGTH = 40
# A comparison of two names is slow, and a file with thousands of names can have as many mistakes.
# These two limits keep the time for all messages proportional to their number.
MAX_COMPARED_OPTIONS = 200
MAX_COMPARED_LENGTH = 200
MAX_LISTED_OPTIONS = 20

# Other common names of dtypes and devices.
SYNONYMS = {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
    "fp64": "float64",
    "int": "int64",
    "long": "int64",
    "short": "int16",
    "char": "int8",
    "boolean": "bool",
    "complex": "complex64",
    "gpu": "cuda",
    "nvidia": "cuda",
    "host": "cpu",
    "x86": "cpu",
}


def nearest(
    word: str,
    options: Iterable[str],
    count: int = 1,
    *,
    max_options: int = MAX_COMPARED_OPTIONS,
) -> list[str]:
    """Return up to `count` options that are similar to `word`, the most similar first.

    Letter case does not count. The result is empty if there are more than `max_options` options.
    """
    compared = list(islice(options, max_options + 1))
    if len(compared) > max_options or len(word) > MAX_COMPARED_LENGTH:
        return []
    options_by_lower_case: dict[str, str] = {}
    for option in compared:
        options_by_lower_case.setdefault(option.lower(), option)
    lower_word = word.lower()
    # `torch.float` means float32, and `cuda:0` means cuda.
    plain_word = lower_word.removeprefix("torch.").partition(":")[0] or lower_word
    synonym = SYNONYMS.get(plain_word, plain_word)
    if synonym in options_by_lower_case:
        return [options_by_lower_case[synonym]]
    matches = get_close_matches(lower_word, options_by_lower_case, n=count)
    return [options_by_lower_case[match] for match in matches]


def did_you_mean(matches: Sequence[str]) -> str:
    """Return `` (did you mean 'x'?)``, or an empty text if there are no matches."""
    if not matches:
        return ""
    quoted_matches = [repr(match) for match in matches]
    return f" (did you mean {' or '.join(quoted_matches)}?)"


def unknown(kind: str, word: str, options: Iterable[str]) -> str:
    """Return the message for a `word` that is not an option.

    It suggests the most similar option. If none is similar, it lists the options.
    """
    compared = list(islice(options, MAX_COMPARED_OPTIONS + 1))
    suggestion = did_you_mean(nearest(word, compared))
    if not suggestion:
        listed = ", ".join(compared[:MAX_LISTED_OPTIONS])
        ending = ", and more" if len(compared) > MAX_LISTED_OPTIONS else ""
        suggestion = f" (known: {listed}{ending})"
    return f"unknown {kind} {quoted(word)}{suggestion}"


def quoted(text: str) -> str:
    """Return the user's text in quotes, cut to a length that leaves the message readable."""
    if len(text) > MAX_QUOTED_LENGTH:
        text = text[: MAX_QUOTED_LENGTH - 3] + "..."
    return repr(text)


def in_words(value: object) -> str:
    """Describe a value of the file in terms of YAML."""
    if value is None:
        return "nothing"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the string {quoted(value)}"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list"
