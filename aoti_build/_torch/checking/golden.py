"""Golden files: the inputs of each case and what eager gave, saved at build time, so that an artifact can be verified
on a host that has neither the model's source nor its weights.

A safetensors file; tensors are named ``<case>/input/<index>``, ``<case>/output/<index>`` (eager in the target's dtype)
and ``<case>/exact/<index>`` (eager in float64), in flattened order; for the first case also ``other-inputs`` and
``other-weights``, what eager gives for those: a comparison that cannot tell them apart is none. One entry of the
header's metadata, a JSON document, holds the cases: with several entries the library writes them in an order of its own
each time, and equal tensors would make files of different bytes. Outputs that are no tensors (None, numbers) keep their
index and have no entry.

A file has a limit. Cases whose tensors do not fit keep their digest: inputs can be drawn again from the seed, outputs
need the model's source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from aoti_build._torch.program.graph import tensor_digest
from aoti_build.digests import digest_json
from aoti_build.errors import ArtifactError
from aoti_build.files import require_regular

FORMAT = "aoti-build/golden"
FORMAT_VERSION = 1
_HEADER = "aoti_build"


@dataclass(frozen=True)
class Case:
    """One call, flattened: the tensors that went in, and what eager gave (None where it gave no tensor).

    `inputs` or `outputs` are None where the file did not have room for them. `exact` are the float64 references, None
    where there is none, and `tf32_rmse` how far each output is from them in TF32, where that is allowed. `sizes` are
    those of the dims; `inputs_digest` is of the inputs alone, `digest` of them and eager's outputs.
    """

    name: str
    inputs: list[Tensor] | None
    outputs: list[Tensor | None] | None
    exact: list[Tensor | None] | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    inputs_digest: str = ""
    digest: str = ""
    tf32_rmse: list[float | None] | None = None


@dataclass(frozen=True)
class Golden:
    """All cases. `no_exact` says why there is no float64 reference. `others` are outputs of the first case's sizes for
    other "inputs" and with other "weights", None where an output does not depend on those."""

    cases: list[Case]
    no_exact: str | None = None
    others: Mapping[str, list[Tensor | None]] = field(default_factory=dict)


def with_digests(case: Case) -> Case:
    """The case with digests of the layouts and values of its inputs, and of those and eager's outputs."""
    inputs = inputs_digest(case.inputs or [])
    outputs = [value is not None and tensor_digest(value) for value in case.outputs or []]
    return replace(case, inputs_digest=inputs, digest=digest_json([inputs, outputs]))


def inputs_digest(inputs: Sequence[Tensor]) -> str:
    return digest_json([tensor_digest(value) for value in inputs])


def save_golden(path: Path, golden: Golden, limit: int | None = None) -> bool:
    """Write the file; whether every tensor found room within `limit` bytes. Earlier cases and outputs go first."""
    tensors: dict[str, Tensor] = {}
    entries, whole, left = {}, True, limit
    for number, case in enumerate(golden.cases):
        roles = {"output": case.outputs, "exact": case.exact, "input": case.inputs}
        groups = [("output", "exact"), ("input",)]
        if number == 0:
            roles |= {f"other-{of}": values for of, values in golden.others.items()}
            groups.append(tuple(f"other-{of}" for of in golden.others))
        kept: dict[str, bool] = {}
        for chosen in groups:
            size = sum(_bytes(roles[role]) for role in chosen)
            fits = left is None or size <= left
            whole = whole and fits
            kept |= dict.fromkeys(chosen, fits)
            left = left - size if left is not None and fits else left
        for role, values in roles.items():
            if kept[role] and values is not None:
                named = {f"{case.name}/{role}/{i}": value for i, value in enumerate(values) if value is not None}
                tensors |= {name: value.detach().cpu().contiguous().clone() for name, value in named.items()}
        entries[case.name] = _entry(case, kept)
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "cases": entries,
        "no_exact": golden.no_exact,
        "others": list(golden.others),
    }
    save_file(tensors, path, metadata={_HEADER: json.dumps(header)})
    return whole


def _entry(case: Case, kept: Mapping[str, bool]) -> dict[str, Any]:
    return {
        "sizes": dict(case.sizes),
        "seed": case.seed,
        "inputs": len(case.inputs or ()),
        "outputs": len(case.outputs or ()),
        "has_inputs": kept["input"],
        "has_outputs": kept["output"],
        "inputs_digest": case.inputs_digest,
        "digest": case.digest,
        **({} if case.tf32_rmse is None else {"tf32_rmse": case.tf32_rmse}),
    }


def load_golden(path: Path) -> Golden:
    """What the file holds. Raises `ArtifactError` if it is not a golden file of this version."""
    try:
        require_regular(path)
        with safe_open(path, framework="pt") as file:
            header, names = json.loads((file.metadata() or {}).get(_HEADER, "{}")), set(file.keys())
            if header.get("format") != FORMAT or header.get("format_version") != FORMAT_VERSION:
                raise ArtifactError(f"{path.name} is not a golden file of version {FORMAT_VERSION}")
            cases = [_case(file, names, name, header) for name in header["cases"]]
            others = {of: _tensors(file, names, cases[0].name, f"other-{of}", header) for of in header["others"]}
            return Golden(cases, header["no_exact"], others)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path.name} cannot be read", cause=str(error), hint="build the target again") from error


def _tensors(file: Any, names: set[str], case: str, role: str, header: Mapping[str, Any]) -> list[Tensor | None]:
    """The tensors of one role, None for those that are not there."""
    count = header["cases"][case]["inputs" if role == "input" else "outputs"]
    wanted = (f"{case}/{role}/{index}" for index in range(count))
    return [file.get_tensor(tensor) if tensor in names else None for tensor in wanted]


def _case(file: Any, names: set[str], name: str, header: Mapping[str, Any]) -> Case:
    entry = header["cases"][name]
    inputs = [value for value in _tensors(file, names, name, "input", header) if value is not None]
    if entry["has_inputs"] and len(inputs) != entry["inputs"]:
        raise ValueError(f"inputs of {name} are missing")
    return Case(
        name,
        inputs if entry["has_inputs"] else None,
        _tensors(file, names, name, "output", header) if entry["has_outputs"] else None,
        _tensors(file, names, name, "exact", header) if entry["has_outputs"] else None,
        dict(entry["sizes"]),
        int(entry["seed"]),
        str(entry["inputs_digest"]),
        str(entry["digest"]),
        entry.get("tf32_rmse"),
    )


def header_of(path: Path) -> dict[str, Any]:
    """The header's document, without any tensor. Raises OSError if it is no regular file."""
    require_regular(path)
    with safe_open(path, framework="pt") as file:
        document: dict[str, Any] = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
        return document


def _bytes(values: Sequence[Tensor | None] | None) -> int:
    return sum(value.numel() * value.element_size() for value in values or () if value is not None)


def as_float64(value: Tensor) -> Tensor:
    """Floating point and complex values widened; others as they are."""
    if value.is_complex():
        return value.to(torch.complex128)
    return value.to(torch.float64) if value.is_floating_point() else value
