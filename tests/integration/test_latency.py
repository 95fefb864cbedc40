"""Indicative latencies: which calls count, and that the model stays as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from aoti_build._torch.checking.eager import Subject
from aoti_build._torch.jobs import latency
from aoti_build._torch.jobs.latency import TimedCall, eager_seconds, first_calls
from aoti_build._torch.program.inputs import Call


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.calls += 1
        x += 1
        return x


def subject(module: nn.Module) -> Subject:
    return Subject(module, lambda sizes, seed: Call((torch.zeros(2),)), "cpu")


def test_the_state_of_the_model_and_its_inputs_stay() -> None:
    module, inputs = Counter(), torch.zeros(2)
    eager_seconds(subject(module), Call((inputs,)), None)
    assert (module.count.item(), module.calls, inputs.sum().item()) == (0, 0, 0)


def test_a_call_that_takes_long_is_not_repeated() -> None:
    module = Counter()
    module.forward = None  # type: ignore[assignment]  # it must not be called
    assert eager_seconds(subject(module), Call((torch.zeros(2),)), 30.0) is None


def test_a_slow_first_call_is_no_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_timed", lambda *_: iter([TimedCall(0.04, 0)] * 9))
    assert eager_seconds(subject(Counter()), Call((torch.zeros(2),)), 3.0) == 0.04


def test_the_fastest_call_counts_that_kept_its_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = [TimedCall(0.07, 9), TimedCall(0.004, 0), TimedCall(0.003, 1), TimedCall(0.005, 0)]
    calls += [TimedCall(0.2, 100)]
    monkeypatch.setattr(latency, "_timed", lambda *_: iter(calls))
    assert eager_seconds(subject(Counter()), Call((torch.zeros(2),)), None) == 0.004
    monkeypatch.setattr(latency, "_timed", lambda *_: iter([TimedCall(0.3, 90)]))
    assert eager_seconds(subject(Counter()), Call((torch.zeros(2),)), None) is None


def test_a_long_call_may_lose_a_processor_now_and_then() -> None:
    assert TimedCall(1.0, 15).is_undisturbed
    assert not TimedCall(1.0, 200).is_undisturbed


def test_calls_end_with_the_time_or_the_number() -> None:
    def calls() -> Iterator[TimedCall]:
        while True:
            yield TimedCall(0.5, 0)

    assert len(first_calls(calls(), 1.6, 50)) == 4
    assert len(first_calls(calls(), 9.0, 3)) == 3
    assert len(first_calls(calls(), 0.0, 3)) == 1
