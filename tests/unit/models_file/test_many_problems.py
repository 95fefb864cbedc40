"""A file with as many problems as it has lines is read in a time that grows with it, and all of
them are reported."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from aoti_build.errors import SpecError
from aoti_build.models_file.parsing.resolve import parse

COUNT = 10_000
HEAD = "version: 1\nmodels:\n"
MODEL = f"{HEAD}  m:\n    source: a:b\n    inputs: [{{shape: [2]}}]\n"
NUMBERS = range(COUNT)
FILES = {
    "a mistake in each model": (
        HEAD + "".join(f"  m{n}:\n    sourc: a:b\n    inputs: 3\n" for n in NUMBERS)
    ),
    "unknown keys": MODEL + "".join(f"    key{n}: 1\n" for n in NUMBERS),
    "undeclared dims": (
        f"{HEAD}  m:\n    source: a:b\n"
        f"    inputs: [{{shape: [{', '.join(f'd{n}' for n in NUMBERS)}]}}]\n"
        "    dims:\n" + "".join(f"      e{n}: {{max: 4}}\n" for n in NUMBERS)
    ),
    "unknown presets": (
        "version: 1\ninductor_configs:\n"
        + "".join(f"  p{n}: {{}}\n" for n in NUMBERS)
        + MODEL.removeprefix("version: 1\n")
        + f"    inductor_configs: [{', '.join(f'q{n}' for n in NUMBERS)}]\n"
    ),
    "repeats": MODEL + f"    files: [{', '.join(['a.py'] * COUNT)}]\n",
    "aliases": (
        MODEL
        + "    kwargs:\n"
        + "".join(f"      a{n}: &x{n} 1\n      b{n}: *y{n}\n" for n in NUMBERS)
    ),
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_many_problems_take_a_time_that_grows_with_their_number(text: str) -> None:
    started = time.process_time()
    with pytest.raises(SpecError) as caught:
        parse(text, Path("models.yaml"))
    lines = str(caught.value).splitlines()
    assert time.process_time() - started < 20  # what grows with the square takes minutes
    assert len(caught.value.problems) >= COUNT - 1
    assert len(caught.value.as_json()["problems"]) == len(caught.value.problems)
    assert len(lines) == SpecError.shown_problems + 1
    more = len(caught.value.problems) - SpecError.shown_problems
    assert lines[-1] == f"models.yaml: and {more} problems more"
