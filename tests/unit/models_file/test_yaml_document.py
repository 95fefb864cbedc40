"""models.yaml as YAML: what scalars mean, where things stand, and what is refused, with both of
PyYAML's parsers."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from aoti_build.errors import Problem, SpecError
from aoti_build.models_file.parsing import yaml_document
from aoti_build.models_file.parsing.yaml_scalars import scalar_value
from aoti_build.models_file.parsing.yaml_syntax import UNPRINTABLE
from aoti_build.models_file.project import Position


@pytest.fixture(autouse=True, params=["C", "Python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "Python":
        monkeypatch.setattr(yaml, "CSafeLoader", yaml.SafeLoader, raising=False)
    elif not yaml.__with_libyaml__:
        pytest.skip("PyYAML without libyaml")
    return str(request.param)


def problems_of(content: str | bytes) -> list[tuple[int, int, str]]:
    """All problems, whether or not the parse went on after them."""
    try:
        problems = sorted(yaml_document.parse(content, "models.yaml").problems)
    except SpecError as error:
        problems = error.problems
    return [(problem.line, problem.column, problem.text) for problem in problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(text, None) for text in ("null", "Null", "NULL", "~", "")],
        *[(text, True) for text in ("true", "True", "TRUE")],
        *[(text, False) for text in ("false", "False", "FALSE")],
        *[("0", 0), ("-7", -7), ("+12", 12), ("010", 10), ("0o17", 15), ("0x1f", 31), ("0x1F", 31)],
        *[
            ("1e-3", 1e-3),
            ("1E3", 1000.0),
            ("1.", 1.0),
            (".5", 0.5),
            ("-0.25", -0.25),
            ("6.02e+23", 6.02e23),
        ],
        *[(".inf", math.inf), ("-.INF", -math.inf), ("+.Inf", math.inf)],
        *[
            (text, text)
            for text in (
                "on",
                "off",
                "yes",
                "no",
                "y",
                "tRUE",
                "nUll",
                "12:30",
                "1_000",
                "0b1",
                "0o8",
            )
        ],
        *[
            (text, text)
            for text in ("2001-12-14", "e3", ".", "+", "0x", "1e", "=", "inf", "nan", "٣")
        ],
        *[("'1'", "1"), ('"true"', "true"), ("''", ""), ("! 5", "5"), ('! "5"', "5")],
        *[
            ("!!str 1", "1"),
            ("!!int '7'", 7),
            ("!!float 1", 1.0),
            ("!!null ''", None),
            ("!!bool 'true'", True),
        ],
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    document = yaml_document.parse(f"key: {text}\n", "models.yaml")
    assert document.problems == []
    assert document.root.data == {"key": value}
    assert type(document.root.data["key"]) is type(value)


def test_nan_is_a_float() -> None:
    assert all(math.isnan(scalar_value(text, None)) for text in (".nan", ".NaN", ".NAN"))


def test_block_texts_are_texts() -> None:
    assert yaml_document.parse("a: |\n  1\nb: >-\n  true\n", "models.yaml").root.data == {
        "a": "1\n",
        "b": "true",
    }


JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), JSON_LIKE, min_size=1, max_size=4))
def test_json_is_yaml(data: dict[str, Any]) -> None:
    text = json.dumps(data, indent=1, ensure_ascii=False)
    # The last four are line breaks, or no character, to a parser of YAML 1.1.
    assume(not UNPRINTABLE.search(text) and not set("\x85\u2028\u2029\ufeff") & set(text))
    assert yaml_document.parse(text, "models.yaml").root.data == data


@given(JSON_LIKE.filter(lambda data: data is not None))
def test_what_pyyaml_writes_reads_back_but_for_its_floats(data: Any) -> None:
    text = yaml.safe_dump({"data": data}, allow_unicode=True)
    expected = yaml.safe_load(text)
    if not _mentions_float(expected):
        # Texts such as 0E0, which PyYAML writes plain because YAML 1.1 has no such float, and YAML
        # 1.2 has.
        assume(not re.search(r"(?m)(^|[\s:?-])[-+]?[0-9.]+[eE][-+]?[0-9]+\s*(:|$)", text))
        assert yaml_document.parse(text, "models.yaml").root.data == expected


def _mentions_float(data: Any) -> bool:
    if isinstance(data, dict):
        return any(map(_mentions_float, data.values()))
    return isinstance(data, float) or (isinstance(data, list) and any(map(_mentions_float, data)))


def test_positions_of_keys_and_values() -> None:
    document = yaml_document.parse(
        "a: 1\nb:\n  - x\n  - {c: 'ä', d: }\ne:\n  f: !!str 2\n", "models.yaml"
    )
    expected = {
        ("a",): ((1, 1), (1, 4)),
        ("b",): ((2, 1), (3, 3)),
        ("b", 0): ((3, 5), (3, 5)),
        ("b", 1): ((4, 5), (4, 5)),
        ("b", 1, "c"): ((4, 6), (4, 9)),
        ("b", 1, "d"): ((4, 14), (4, 14)),  # a value that is absent stands at its key
        ("e",): ((5, 1), (6, 3)),
        ("e", "f"): ((6, 3), (6, 6)),
    }
    for path, (key, value) in expected.items():
        assert document.at(path).key == Position(*key), path
        assert document.at(path).value == Position(*value), path
    assert document.at(("a",)).position == Position(1, 4)
    assert document.at(("b",)).position == Position(2, 1)
    assert document.at(("e", "g", "h")).key == Position(5, 1)


def test_aliases_repeat_values_and_have_their_own_place() -> None:
    document = yaml_document.parse("a: &x {b: [1, 2]}\nc: *x\nd: &y 3\n*y : 4\n", "models.yaml")
    assert document.root.data == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}, "d": 3}
    assert document.at(("c",)).value == Position(2, 4)
    assert document.at(("c", "b", 1)).value == Position(1, 15)
    assert [problem.text for problem in document.problems] == [
        "a key must be a string, not the number 3; put it in quotes"
    ]


@pytest.mark.parametrize(
    ("content", "line", "column", "words"),
    [
        ("", 1, 1, "models.yaml is empty"),
        ("# nothing\n", 1, 1, "models.yaml is empty"),
        ("---\n", 1, 1, "models.yaml is empty"),
        (b"\xef\xbb\xbf", 1, 1, "models.yaml is empty"),
        ("models:\n\tr: 1\n", 2, 1, "YAML forbids tabs for indentation"),
        ("a:\n  b: x\n \tc: 2\n", 3, 2, "YAML forbids tabs for indentation"),
        ("a: 1\n\tb: 2\n", 2, 1, "YAML forbids tabs for indentation"),
        ("a: b: c\n", 1, 5, "a ':' is not allowed here"),
        ("a: [1, 2\nb: 3\n", 2, 2, "the '[' of line 1 is not closed"),
        ("b: 1\na: {x: 1\n", 3, 1, "the '{' of line 2 is not closed"),
        ("a: 'x\nb: 1\n", 1, 4, "this quote is never closed"),
        ("a: @x\n", 1, 4, "a string cannot start with '@'"),
        ('a: "\\xzz"\n', 1, 7, "the file is not valid YAML: "),
        ("a:\n  - b\n c: d\n", 3, 2, "does not match the lines above it"),
        ("  a: 1\nb: 2\n", 2, 1, "does not match the lines above it"),
        ("a: ]\n", 1, 4, "a value is missing before here"),
        ("a: !x!y z\n", 1, 4, "custom tags are not supported"),
        ("a: 1\n---\nb: 2\n", 2, 1, "a second document starts here"),
        (b"a: 1\nb: \xff\n", 2, 4, "byte 0xff is not UTF-8"),
        (b"a: \xe4\xb8\n", 1, 4, "byte 0xe4 is not UTF-8"),
        (b"a: \x00\nb: \xff\n", 1, 4, "U+0000 is not allowed"),  # what comes first
        ("a: 1\nb: x\x00\n", 2, 5, "U+0000 is not allowed"),
        ("a: *x\n", 1, 4, "the alias *x has no anchor &x before it"),
        ("a: &anchor 1\nb: *ancor\n", 2, 4, "did you mean 'anchor'?"),
        ("a: &x [*x]\n", 1, 8, "is inside the value of its anchor &x"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, 3, "merge keys (<<) are not part of YAML 1.2"),
        ("1: a\n", 1, 1, "a key must be a string, not the number 1; put it in quotes"),
        ("a: {true: b}\n", 1, 5, "a key must be a string, not true; put it in quotes"),
        ("? [a]\n: b\n", 1, 3, "a key must be a string, not a list"),
        ("a: !thing 1\n", 1, 4, "the tag '!thing' is not supported"),
        ("a: !!python/none 1\n", 1, 4, "the tag '!!python/none' is not supported"),
        ("a: !!set {b}\n", 1, 4, "the tag '!!set' is not supported"),
        ("a: !!int x\n", 1, 4, "'x' is not a value of the tag !!int"),
        ("a: " + "9" * 5000 + "\n", 1, 4, "a number of 5000 digits"),
        ("[" * 500, 1, 66, "nested deeper than 64 levels"),
        ("- " * 500 + "a", 1, 131, "nested deeper than 64 levels"),
    ],
)
def test_refusals(content: str | bytes, line: int, column: int, words: str) -> None:
    (problem,) = problems_of(content)
    assert problem[:2] == (line, column), problem
    assert words in problem[2]


def test_all_duplicate_keys_are_reported_with_both_lines() -> None:
    text = "a: 1\nb: {c: 1, c: 2}\na: 2\n'a': {d: 1, d: 2}\n"
    assert problems_of(text) == [
        (2, 11, "duplicate key 'c'; line 2 already has it, so remove one"),
        (3, 1, "duplicate key 'a'; line 1 already has it, so remove one"),
        (4, 1, "duplicate key 'a'; line 1 already has it, so remove one"),
        (4, 13, "duplicate key 'd'; line 4 already has it, so remove one"),
    ]
    assert yaml_document.parse(text, "models.yaml").root.data == {"a": 1, "b": {"c": 1}}


def test_a_duplicate_before_a_syntax_error_is_not_forgotten() -> None:
    assert [line for line, _, _ in problems_of("a: 1\na: 2\nb: ]\n")] == [2, 3]


def test_problems_before_an_impossible_escape_are_not_forgotten() -> None:
    problems = problems_of('a: 1\na: 2\nb: "\\U00110000"\n')
    assert len(problems) == 2
    assert "duplicate key 'a'; line 1 already has it, so remove one" in [
        text for _, _, text in problems
    ]


def test_an_alias_repeats_the_last_value_of_its_anchor() -> None:
    document = yaml_document.parse("a: &x 1\nb: *x\nc: &x 2\nd: *x\n", "models.yaml")
    assert document.problems == []
    assert document.root.data == {"a": 1, "b": 1, "c": 2, "d": 2}


def test_aliases_of_aliases_do_not_explode() -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12)]
    text = "\n".join(["l0: &l0 [x, x, x, x, x, x, x, x, x]", *levels])
    ((line, column, words),) = problems_of(text)
    assert "the aliases up to here expand to more than 100000 values" in words
    assert (line, column) == (6, 10)


def test_an_alias_nested_deep_by_aliases_is_refused() -> None:
    text = "\n".join(["l0: &l0 [x]", *(f"l{n}: &l{n} [*l{n - 1}]" for n in range(1, 80))])
    assert "nested deeper" in problems_of(text)[0][2]


@pytest.mark.parametrize("start", ["", "---\n", "%YAML 1.2\n---\n", "\ufeff", "# comment\r\n"])
def test_what_may_stand_before_the_data(start: str) -> None:
    assert yaml_document.parse((start + "a: 1\n...\n").encode(), "models.yaml").root.data == {
        "a": 1
    }


def test_a_byte_order_mark_moves_no_column() -> None:
    assert yaml_document.parse(b"\xef\xbb\xbfa: 1\n", "models.yaml").at(("a",)).key == Position(
        1, 1
    )


@given(st.text() | st.text(alphabet="ab:-[]{}#&*!|>'\"%@`, \n\t?~0.<"))
def test_any_text_is_data_or_a_spec_error(text: str) -> None:
    _check_any(text)


@given(st.binary())
def test_any_bytes_are_data_or_a_spec_error(content: bytes) -> None:
    _check_any(content)


@pytest.mark.parametrize(
    "text", ['"\\UFFFFFFFF"', '"\\ud800"', "a: \ud800", "%YAML 9.9\n--- a", "\ufeff\ufeffa: 1"]
)
def test_odd_texts_are_data_or_a_spec_error(text: str) -> None:
    _check_any(text)


def _check_any(content: str | bytes) -> None:
    try:
        problems: list[Problem] = yaml_document.parse(content, "models.yaml").problems
    except SpecError as error:
        problems = error.problems
        assert problems
    text = content if isinstance(content, str) else content.decode("utf-8", errors="replace")
    for problem in problems:
        assert problem.text
        assert 1 <= problem.column <= len(text) + 1
        assert 1 <= problem.line <= len(text.splitlines()) + 1
