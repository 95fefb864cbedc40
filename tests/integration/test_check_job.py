"""The verdict of the `check` job on what a package answers. No model is compiled here."""

from __future__ import annotations

import io
import json
import queue
from pathlib import Path
from typing import Any

import pytest
import torch

from aoti_build._torch.checking.reference_data import Case, Plain, ReferenceData
from aoti_build._torch.checking.reference_writer import save_reference_data
from aoti_build._torch.events import Events
from aoti_build._torch.jobs import check
from aoti_build.messages import CheckJob
from aoti_build.models_file.project import Model, Source, Target
from aoti_build.models_file.records import target_to_json

SIGNATURE = {
    "inputs": [],
    "outputs": [
        {"name": "y", "dtype": "float32", "shape": [2]},
        {"name": "count", "number": "int", "value": "n"},
    ],
    "mutates": {"inputs": [], "buffers": []},
}
Y = torch.tensor([1.0, 2.0])


class Answers:
    """A package that leaves the same values after every call, or refuses all calls."""

    def __init__(self, values: list[Any] | None) -> None:
        self.values = values

    def calls(self, sequence: list[Any]) -> list[list[Any]]:
        if self.values is None:
            raise RuntimeError("input_handles[0] has 2 rows")
        return [self.values for _ in sequence]


@pytest.mark.parametrize(
    ("values", "failures"),
    [
        ([Y, torch.tensor(3)], []),
        ([Y, torch.tensor(4)], ["count: 4, expected 3"]),
        ([Y, torch.tensor([3, 3])], ["count: a Tensor, expected 3"]),
        ([Y, torch.ones(0)], ["count: a Tensor, expected 3"]),
        ([Y], ["outputs: 1 outputs, expected 2"]),
        (
            None,
            ["(call): the package refused inputs of its range: input_handles[0] has 2 rows"],
        ),
    ],
)
def test_what_the_model_does_not_return_is_a_failure_with_its_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    values: list[Any] | None,
    failures: list[str],
) -> None:
    reference_data = tmp_path / "reference.safetensors"
    save_reference_data(reference_data, ReferenceData([Case("example", [], [Y, Plain("3")])]))
    model = Model(name="counting", source=Source("Counting", path="net.py"), inputs=())
    job = CheckJob(
        root=str(tmp_path),
        reference_data=str(reference_data),
        model="",
        target_document=json.loads(json.dumps(target_to_json(Target(model, "cpu")))),
        tolerance={},
        signature=SIGNATURE,
        imports=(),
        runner=None,
    )
    monkeypatch.setattr(check, "open_package", lambda job, state: Answers(values))
    found = check.check(job, Events(io.StringIO(), queue.Queue()))
    (case,) = found.cases
    reasons = [f"{output.name}: {output.why}" for output in case.outputs if not output.ok]
    assert (found.passed, reasons) == (not failures, failures)
