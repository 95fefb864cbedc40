"""Sizes that follow dims: their spelling, their values, and which dims they tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoti_build.common.sizes import Size, Term, parse, solution_order

NAMES = ("batch", "past", "seq")
STEP = 12  # every dim is a multiple of it, so that divisions by its divisors are exact
VALUES = st.fixed_dictionaries(
    dict.fromkeys(NAMES, st.integers(1, 50).map(lambda steps: steps * STEP))
)
SPACE = st.sampled_from(["", " "])


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Sums as people write them, a dim perhaps in several terms."""
    text = ""
    for number in range(draw(st.integers(1, 5))):
        sign = draw(st.sampled_from(["+", "-"] if number else ["", "-"]))
        factor, divisor = draw(st.integers(1, 9)), draw(st.sampled_from([1, 2, 3, 4, 6]))
        name = draw(st.sampled_from(NAMES))
        product = draw(st.sampled_from([f"{factor}*{name}", f"{name} * {factor}", name]))
        term = draw(
            st.sampled_from(
                [str(factor), product, f"{product}//{divisor}", f"{product} // {divisor}"]
            )
        )
        text += draw(SPACE) + sign + draw(SPACE) + term
    return text


@given(texts(), VALUES)
def test_a_size_is_what_python_computes_from_its_text(text: str, values: dict[str, int]) -> None:
    assert parse(text).at(values) == eval(text.strip(), {}, dict(values))  # noqa: S307 - the test's own text


@given(texts())
def test_one_spelling_stands_for_each_size(text: str) -> None:
    size = parse(text)
    assert parse(str(size)) == size
    assert str(parse(str(size))) == str(size)


@given(texts(), VALUES)
def test_the_size_of_a_dim_follows_from_a_size(text: str, values: dict[str, int]) -> None:
    size = parse(text)
    for name in size.names:
        others = {other: value for other, value in values.items() if other != name}
        assert size.solved(name, size.at(values), others) == values[name]


@given(texts(), st.lists(VALUES, min_size=1, max_size=8))
def test_no_size_is_outside_its_bounds(text: str, points: list[dict[str, int]]) -> None:
    size = parse(text)
    low, high = size.bounds(dict.fromkeys(NAMES, (STEP, 50 * STEP)))
    assert all(low <= size.at(values) <= high for values in points)


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        ("batch", "batch"),
        ("past+1", "past + 1"),
        ("1 + past", "past + 1"),
        ("batch * 3", "3*batch"),
        ("2*seq-1", "2*seq - 1"),
        ("seq // 2", "seq//2"),
        ("6*seq//4", "3*seq//2"),
        ("seq + past", "past + seq"),
        ("-seq + 16", "16 - seq"),
        ("seq//2 + seq//2", "seq"),
    ],
)
def test_spellings(text: str, spelt: str) -> None:
    assert str(parse(text)) == spelt


@pytest.mark.parametrize("text", ["batch", "1*batch", "batch//1", "2*batch//2"])
def test_a_dim_alone_is_plain(text: str) -> None:
    assert parse(text).plain == "batch"


@pytest.mark.parametrize("text", ["2*batch", "batch + 1", "batch//2", "-batch", "batch + past"])
def test_what_follows_a_dim_is_not_plain(text: str) -> None:
    assert parse(text).plain is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "n*n",
        "n**2",
        "n/2",
        "n % 2",
        "(n + 1)",
        "2n",
        "n m",
        "n +",
        "+",
        "n - -1",
        "n//m",
        "n//0",
        "2*3",
        "1.5*n",
        "\u0663*n",
    ],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"write a sum of dims|divides by 0"):
        parse(text)


def test_a_text_of_any_length_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="write a sum"):
        parse("n" * (1 << 20))


def test_a_size_that_no_dim_gives_has_no_solution() -> None:
    assert parse("3*batch").solved("batch", 7, {}) is None
    assert parse("past + seq").solved("past", 9, {"seq": 4}) == 5


def test_sums_of_one_dim_are_in_lowest_terms() -> None:
    assert Size.of({"a": (4, 6), "b": (0, 3)}, 2) == Size((Term("a", 2, 3),), 2)


def order(*texts: str) -> list[tuple[str, str | None]]:
    return [
        (texts[index], tells) for index, tells in solution_order([parse(text) for text in texts])
    ]


def test_dims_are_told_by_the_plainest_size_first() -> None:
    assert order("past + seq", "past + 1", "past", "seq") == [
        ("past", "past"),
        ("seq", "seq"),
        ("past + 1", None),
        ("past + seq", None),
    ]


def test_a_sum_tells_the_dim_that_nothing_else_does() -> None:
    assert order("past + seq", "seq") == [("seq", "seq"), ("past + seq", "past")]
    assert order("a + b", "b + c", "c") == [("c", "c"), ("b + c", "b"), ("a + b", "a")]


def test_two_unknown_dims_in_one_size_are_not_told() -> None:
    assert order("a + b", "a - b", "c") == [("c", "c")]


def test_long_chains_are_told_in_a_moment() -> None:
    count = 20_000  # told from the last to the first
    sizes = [parse(f"n{number} + n{number + 1}") for number in range(count)] + [parse(f"n{count}")]
    assert len(solution_order(sizes)) == count + 1
