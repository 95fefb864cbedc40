"""What a package returns, as the model would have returned it.

A package returns tensors only. The signature states which of them stand for numbers, and which
outputs are constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from aoti_build._torch.checking.compare import Figures
from aoti_build._torch.checking.reference_data import (
    Case,
    Plain,
    ReferenceData,
    Value,
)
from aoti_build.errors import BuildError


def as_returned(values: Sequence[Any], signature: Mapping[str, Any]) -> list[Any]:
    """The outputs of a package, and any values after them, with `Plain` for outputs that are not
    tensors. Nothing is changed if there are fewer outputs than in the signature. A tensor that
    holds no single number stays, and its comparison fails."""
    returned = list(values)
    entries = signature["outputs"]
    if len(returned) < len(entries):
        return returned
    for index, entry in enumerate(entries):
        value = returned[index]
        if "constant" in entry:
            returned[index] = Plain(entry["constant"])
        elif "number" in entry and isinstance(value, Tensor) and value.numel() == 1:
            returned[index] = Plain(repr(value.item()))
    return returned


def compare_plain(
    name: str,
    eager: Plain,
    candidate: Any,
) -> Figures:
    """The verdict on an output that is not a tensor in eager mode."""
    if not isinstance(candidate, Plain):
        kind = type(candidate).__name__
        return {"name": name, "ok": False, "why": f"a {kind}, expected {eager.text}"}
    figures: Figures = {
        "name": name,
        "ok": candidate.is_near(eager),
        "by": "equal",
    }
    if not figures["ok"]:
        figures["why"] = f"{candidate.text}, expected {eager.text}"
    return figures


def check_constants(
    reference_data: ReferenceData,
    signature: Mapping[str, Any],
    where: str,
) -> None:
    """Raise `BuildError` if an output is a constant in the exported program and has another value
    in eager mode. `where` is the position in models.yaml for the message."""
    for case in reference_data.cases:
        outputs = case.outputs or ()
        for entry, value in zip(signature["outputs"], outputs, strict=False):
            if "constant" in entry and not _is_constant(value, entry["constant"]):
                raise _wrong_constant(entry, value, case, where)


def _is_constant(value: Value, text: str) -> bool:
    return isinstance(value, Plain) and value.is_near(Plain(text))


def _wrong_constant(
    entry: Mapping[str, Any],
    value: Value,
    case: Case,
    where: str,
) -> BuildError:
    actual = value.text if isinstance(value, Plain) else "a tensor"
    cause = f"in eager mode it is {actual}"
    if case.sizes:
        sizes = [f"{name} {size}" for name, size in case.sizes.items()]
        cause += f" at {', '.join(sizes)}"
    return BuildError(
        f"the output {entry['name']} became the constant {entry['constant']} in the export",
        where=where,
        cause=cause,
        hint="return a tensor, or a number that follows from sizes alone, such as x.shape[0]",
    )
