"""Who times calls when, if several workers take turns."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from aoti_build.errors import BuildError
from aoti_build.measurement.turns import fit_together, take_in_turns
from aoti_build.work.worker import OnTurn


class Workers:
    """Pretended workers: each start and each turn of one is noted, and none may overlap."""

    def __init__(self) -> None:
        self.noted: list[str] = []
        self._busy = threading.Lock()

    def worker(
        self, name: str, turns: int, fails_after: int | None = None
    ) -> Callable[[OnTurn], str]:
        def take(on_turn: OnTurn) -> str:
            self._note(f"{name} starts")
            for number in range(turns):
                on_turn()
                if number == fails_after:
                    raise BuildError(f"{name} broke")
                self._note(name)
            return name.upper()

        return take

    def _note(self, text: str) -> None:
        assert self._busy.acquire(blocking=False), "two work at the same time"
        self.noted.append(text)
        self._busy.release()


def test_starts_do_not_overlap_and_turns_alternate_in_their_order() -> None:
    workers = Workers()
    samples = take_in_turns({name: workers.worker(name, 4) for name in "ab"})
    assert {name: sample.result() for name, sample in samples.items()} == {"a": "A", "b": "B"}
    assert workers.noted == ["a starts", "b starts", *"abbaabba"]


def test_who_has_fewer_turns_leaves_the_others_theirs() -> None:
    workers = Workers()
    take_in_turns({"a": workers.worker("a", 1), "b": workers.worker("b", 3)})
    assert workers.noted[2:] == ["a", "b", "b", "b"]


@pytest.mark.parametrize("fails_after", [0, 2])
def test_a_sample_that_fails_has_its_error_and_the_others_their_values(fails_after: int) -> None:
    workers = Workers()
    samples = take_in_turns(
        {"a": workers.worker("a", 4, fails_after), "b": workers.worker("b", 4), "c": lambda _: "C"}
    )
    with pytest.raises(BuildError, match="a broke"):
        samples["a"].result()
    assert (samples["b"].result(), samples["c"].result()) == ("B", "C")
    assert workers.noted.count("b") == 4
    assert workers.noted.count("a") == fails_after


def test_a_sample_that_never_starts_does_not_keep_the_others_waiting() -> None:
    def refuse(_: OnTurn) -> str:
        raise BuildError("no")

    workers = Workers()
    samples = take_in_turns({"a": refuse, "b": workers.worker("b", 2)})
    assert samples["b"].result() == "B"
    assert isinstance(samples["a"].exception(), BuildError)


def test_packages_are_loaded_together_if_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    available = 16 << 30
    monkeypatch.setattr("aoti_build.measurement.turns.available_memory", lambda: available)
    assert fit_together([45 << 20, 45 << 20])
    assert not fit_together([3 << 30, 3 << 30])
    available = 1 << 30
    assert not fit_together([45 << 20, 45 << 20])
