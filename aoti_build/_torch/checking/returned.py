"""What a package gives, as whoever called the model would have it: a package gives tensors alone,
and the signature says which of them stand for numbers, and what is constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from aoti_build._torch.checking.compare import Figures
from aoti_build._torch.checking.reference_data import Plain, ReferenceData, Value
from aoti_build.errors import BuildError


def as_returned(got: Sequence[Any], signature: Mapping[str, Any]) -> list[Any]:
    """The outputs of a package, and what follows them, with `Plain` for what is no tensor. Of
    outputs that are not as many as the signature's nothing is changed."""
    found, entries = list(got), signature["outputs"]
    if len(found) < len(entries):
        return found
    for index, entry in enumerate(entries):
        if "constant" in entry:
            found[index] = Plain(entry["constant"])
        elif "number" in entry and isinstance(found[index], Tensor):
            found[index] = Plain(repr(found[index].item()))
    return found


def compare_plain(name: str, eager: Plain, candidate: Any) -> Figures:
    """The verdict on an output that is no tensor in eager mode."""
    if not isinstance(candidate, Plain):
        kind = type(candidate).__name__
        return {"name": name, "ok": False, "why": f"a {kind}, expected {eager.text}"}
    if candidate.is_near(eager):
        return {"name": name, "ok": True, "by": "equal"}
    return {
        "name": name,
        "ok": False,
        "by": "equal",
        "why": f"{candidate.text}, expected {eager.text}",
    }


def check_constants(
    reference_data: ReferenceData, signature: Mapping[str, Any], where: str
) -> None:
    """Raise `BuildError` if an output that is a constant in the exported program is something else
    in eager mode."""
    for case in reference_data.cases:
        for entry, value in zip(signature["outputs"], case.outputs or (), strict=False):
            if "constant" in entry and not _is(value, entry["constant"]):
                sizes = ", ".join(f"{name} {size}" for name, size in case.sizes.items())
                given = value.text if isinstance(value, Plain) else "a tensor"
                raise BuildError(
                    f"the output {entry['name']} became the constant {entry['constant']} in the"
                    " export",
                    where=where,
                    cause=f"in eager mode it is {given}" + (f" at {sizes}" if sizes else ""),
                    hint=(
                        "return a tensor, or a number that follows from sizes alone, such as"
                        " x.shape[0]"
                    ),
                )


def _is(value: Value, text: str) -> bool:
    return isinstance(value, Plain) and value.is_near(Plain(text))
