"""Golden files: the inputs and eager's outputs of each case, saved at build time, so that an artifact can be verified
on a host that has neither the model's source nor its weights.

A safetensors file; tensors are named ``<case>/input/<index>`` and ``<case>/output/<index>`` in flattened order. One
entry of the header's metadata, a JSON document, holds the order of the cases: with several entries the library writes
them in an order of its own each time, and equal tensors would make files of different bytes. Outputs that are no
tensors (None, numbers) keep their index and have no entry.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from aoti_build.errors import ArtifactError

FORMAT = "aoti-build/golden"
FORMAT_VERSION = 1
_HEADER = "aoti_build"


@dataclass(frozen=True)
class Case:
    """One call, flattened, on the CPU: the tensors that went in, and what eager gave (None where it gave no tensor)."""

    name: str
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor | None]


def save_golden(path: Path, cases: list[Case]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    counts = {}
    for case in cases:
        counts[case.name] = {"inputs": len(case.inputs), "outputs": len(case.outputs)}
        roles: tuple[tuple[str, Sequence[torch.Tensor | None]], ...]
        roles = (("input", case.inputs), ("output", case.outputs))
        for role, values in roles:
            for index, value in enumerate(values):
                if value is None:
                    continue
                tensors[f"{case.name}/{role}/{index}"] = value.detach().cpu().contiguous().clone()
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "cases": counts}
    save_file(tensors, path, metadata={_HEADER: json.dumps(header)})


def load_golden(path: Path) -> list[Case]:
    """The cases in the file. Raises `ArtifactError` if it is not a golden file of this version."""
    try:
        with safe_open(path, framework="pt") as file:
            header, names = json.loads((file.metadata() or {}).get(_HEADER, "{}")), set(file.keys())
            if header.get("format") != FORMAT or header.get("format_version") != FORMAT_VERSION:
                raise ArtifactError(f"{path.name} is not a golden file of version {FORMAT_VERSION}")
            return [
                Case(
                    name,
                    [file.get_tensor(f"{name}/input/{index}") for index in range(count["inputs"])],
                    [
                        file.get_tensor(tensor) if (tensor := f"{name}/output/{index}") in names else None
                        for index in range(count["outputs"])
                    ],
                )
                for name, count in header["cases"].items()
            ]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path.name} cannot be read", cause=str(error), hint="build the target again") from error
