"""What holds for every models.yaml, found by hypothesis: it is read or refused, and what is read is
legal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st
from spec_files import README, model, read

from aoti_build.errors import Problem, SpecError

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab/.:\\ ", max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab/.<>-", max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,6}[A-Za-z0-9_-])?", fullmatch=True)


@given(
    st.lists(NAMES, min_size=1, max_size=4, unique_by=str.casefold),
    st.lists(
        NAMES.filter(lambda name: name.casefold() != "default"), max_size=4, unique_by=str.casefold
    ),
)
def test_valid_names_never_make_two_targets_of_one_directory(
    root: Path, names: list[str], presets: list[str]
) -> None:
    entry = {"source": "m:f", "inputs": [{"shape": [2]}], "devices": ["cpu", "cuda"]}
    entry["inductor_configs"] = ["default", *presets]
    data = {
        "version": 1,
        "inductor_configs": {name: {} for name in presets},
        "models": dict.fromkeys(names, entry),
    }
    project = read(root, json.dumps(data))
    folded = {target.name.casefold() for target in project.targets}
    assert len(folded) == len(project.targets) == len(names) * 2 * (1 + len(presets))


@given(
    st.lists(st.sampled_from(["native", "avx2", "avx512"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["native", "sm_80", "sm_90", "sm_90a"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["avx2", "sm_90", "avx512-avx2", "x"]), max_size=3, unique=True),
)
def test_architectures_and_presets_never_make_two_targets_of_one_directory(
    root: Path, isas: list[str], arches: list[str], presets: list[str]
) -> None:
    entry = {
        "source": "m:f",
        "inputs": [{"shape": [2]}],
        "devices": ["cpu", "cuda"],
        "inductor_configs": ["default", *presets],
        "cpu": {"isa": isas},
        "cuda": {"arch": arches},
    }
    data = {
        "version": 1,
        "inductor_configs": {name: {} for name in presets},
        "models": {"m": entry},
    }
    if problems := _problems(root, json.dumps(data)):
        texts = [problem.text for problem in problems]
        assert all("is listed twice" in text or "are both named" in text for text in texts)
        return
    targets = read(root, json.dumps(data)).targets
    names = {target.name for target in targets}
    assert len(names) == len(targets) == (len(isas) + len(arches)) * (1 + len(presets))
    assert {target.architecture for target in targets} == {*isas, *arches}


FRAGMENTS = st.lists(
    st.sampled_from(
        [
            *README.splitlines(keepends=True),
            "  ",
            "- ",
            "*x",
            "&x ",
            "[",
            "}",
            ": ",
            "\t",
            "'",
            "!!int ",
            "~",
        ]
    ),
    max_size=20,
)


@given(FRAGMENTS.map("".join) | st.text())
def test_any_text_is_a_project_or_a_spec_error(root: Path, text: str) -> None:
    assert all(problem.text for problem in _problems(root, text))


@given(st.data())
def test_any_value_anywhere_is_a_project_or_a_spec_error(root: Path, data: st.DataObject) -> None:
    """A valid file, with one value replaced by any JSON."""
    spec = json.loads(json.dumps(yaml.safe_load(README.replace("1e-", "1.0e-"))))
    entries: Any = spec
    while True:
        keys = list(entries) if isinstance(entries, dict) else list(range(len(entries)))
        key = data.draw(st.sampled_from(keys))
        inner = entries[key]
        if not (isinstance(inner, (dict, list)) and inner and data.draw(st.booleans())):
            break
        entries = inner
    entries[key] = data.draw(ANY_JSON)
    problems = _problems(root, json.dumps(spec))
    assert all(problem.line == 1 and problem.column >= 1 and problem.text for problem in problems)


@given(st.data())
def test_every_legal_dim_is_read_with_a_legal_example(root: Path, data: st.DataObject) -> None:
    step = data.draw(st.integers(1, 64))
    low = step * data.draw(st.integers(1, 50))
    high = low + step * data.draw(st.integers(1, 50))
    project = read(
        root,
        model(
            inputs="[{shape: [d]}]", dims=f"{{d: {{min: {low}, max: {high}, multiple_of: {step}}}}}"
        ),
    )
    (dim,) = project.targets[0].model.dims
    assert (dim.min, dim.max, dim.multiple_of) == (low, high, step)
    assert low <= dim.example <= high
    assert dim.example % step == 0
    assert dim.example >= 2 * step
    again = f"{{d: {{min: {low}, max: {high}, multiple_of: {step}, example: {dim.example}}}}}"
    assert read(root, model(inputs="[{shape: [d]}]", dims=again)) == project


def _problems(root: Path, text: str) -> list[Problem]:
    try:
        assert read(root, text).targets
    except SpecError as error:
        return error.problems
    return []
