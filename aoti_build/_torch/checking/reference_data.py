"""Reference data: the inputs of each call and what eager left after it.

It is saved at build time, so that an artifact can be verified on a host that has neither the
model's source nor its weights.

All that is compared after a call is one list: the model's outputs, then the inputs that it wrote
into, then the buffers that it wrote into (`artifact.reference_file.observed_names`). A
model with such buffers has state. Each of its cases is a sequence of calls from the model's first
state.

The file is a safetensors file (`reference_writer.py`, `reference_reader.py`). Its tensors are:

- ``<case>/input/<index>``, in flattened order;
- ``<case>/output/<index>``: the list above, by eager in the dtype of the target;
- ``<case>/exact/<index>``: the same by eager in float64;
- ``<case>/other-inputs/<index>`` and ``<case>/other-weights/<index>``, for the first case: what
  eager returns for other inputs and with other weights. A comparison that cannot tell these from
  the outputs shows nothing;
- ``state/<name>``: the content of a buffer before the first call.

The cases are described in one JSON document, which is one entry of the header's metadata. The
library writes several entries in an order that changes, and equal data must make equal bytes.
Outputs that are not tensors (None, numbers) have an index as well, and stand in that document.

A file has a size limit. Outputs that do not fit are replaced by sketches (`sketch.py`), which can
be compared too. Inputs that do not fit are drawn again from the seed, if models.yaml describes
them. Inputs that cannot be drawn again come before any output.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from torch import Tensor

from aoti_build._torch.checking.sketch import Sketch
from aoti_build._torch.program.tensors import tensor_digest
from aoti_build.common.digests import digest_json
from aoti_build.common.json_object import JsonObject

OTHER = "other-"  # before "inputs" and "weights" in names of tensors


@dataclass(frozen=True)
class Plain:
    """An output that is not a tensor (a number, a text, None), as Python writes it."""

    text: str

    @property
    def value(self) -> Any:
        """The number or text itself. Raises ValueError or SyntaxError for anything else."""
        try:
            return ast.literal_eval(self.text)
        except ValueError:
            return float(self.text)  # nan, inf

    def is_near(self, expected: Plain) -> bool:
        """Whether both have the same type and value. Floats may differ by roundings."""
        if self.text == expected.text:
            return True
        try:
            first = self.value
            second = expected.value
        except (ValueError, SyntaxError):
            return False
        if not isinstance(first, float) or not isinstance(second, float):
            return False
        return math.isclose(first, second, rel_tol=1e-6)


# What is compared at one position. None: there is nothing to compare.
Value: TypeAlias = Tensor | Sketch | Plain | None


@dataclass(frozen=True)
class Case:
    """One call, flattened: the tensors that went in, and what eager left.

    `outputs` are the model's outputs, then the inputs and the buffers that it wrote into. `inputs`
    or `outputs` are None if the file had no room for them. `exact` are the float64 references, and
    `rounded_rmse` the RMSE of each output to them with other roundings, such as TF32. `sizes` are
    those of the dims. `inputs_digest` is of the inputs alone, `digest` of them and eager's outputs.
    `call` counts the calls since the model's first state: a case with a `call` above 0 continues
    the case before it.
    """

    name: str
    inputs: list[Tensor] | None
    outputs: list[Value] | None
    exact: list[Value] | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    inputs_digest: str = ""
    digest: str = ""
    rounded_rmse: list[float | None] | None = None
    call: int = 0


@dataclass(frozen=True)
class ReferenceData:
    """All cases.

    `no_exact` is the reason why cases have no float64 reference. `others` are outputs at the first
    case's sizes for other "inputs" and with other "weights", None where an output does not depend
    on those. `state` is the content, before the first call, of the buffers that the model writes
    into. `baseline` is the loss against the model that models.yaml names there (`baseline.py`).
    `example_seconds` are those of a first call, which are not written to the file.
    """

    cases: list[Case]
    no_exact: str | None = None
    others: Mapping[str, list[Value]] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    baseline: list[JsonObject] | None = None
    example_seconds: float | None = None

    def sequences(self) -> Iterator[list[Case]]:
        """The cases as sequences of calls from the first state. For a model without state, each
        has one case."""
        calls: list[Case] = []
        for case in self.cases:
            if case.call == 0 and calls:
                yield calls
                calls = []
            calls.append(case)
        if calls:
            yield calls


def with_digests(case: Case) -> Case:
    """The case with the digest of its inputs, and that of its inputs and eager's outputs. Both are
    of layouts and values."""
    inputs = inputs_digest(case.inputs or [])
    outputs = []
    for value in case.outputs or []:
        outputs.append(False if value is None else tensor_digest(value))
    return replace(
        case,
        inputs_digest=inputs,
        digest=digest_json([inputs, outputs]),
    )


def inputs_digest(inputs: Sequence[Tensor]) -> str:
    return digest_json([tensor_digest(value) for value in inputs])
