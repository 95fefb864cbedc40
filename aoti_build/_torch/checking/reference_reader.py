"""Reads reference data from a file. `reference_data.py` describes the file.

The file may be damaged, or of another version: every function here checks what it reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from aoti_build._torch.checking.reference_data import (
    OTHER,
    Case,
    Plain,
    ReferenceData,
    Value,
)
from aoti_build._torch.checking.sketch import Sketch
from aoti_build.artifact.reference_file import FORMAT, FORMAT_VERSION, HEADER
from aoti_build.common.reading import require_regular
from aoti_build.errors import ArtifactError

# Errors of a file that is not reference data.
_UNREADABLE: tuple[type[Exception], ...] = (
    SafetensorError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
)
# A load makes tensors as well, for which torch may raise RuntimeError.
_UNLOADABLE: tuple[type[Exception], ...] = (*_UNREADABLE, RuntimeError)


def load_reference_data(path: Path) -> ReferenceData:
    """Everything in the file. Raises `ArtifactError` if it is not a reference file of this
    version."""
    try:
        require_regular(path)
        with safe_open(path, framework="pt") as file:
            header = _metadata(file)
            version = (header.get("format"), header.get("format_version"))
            if version != (FORMAT, FORMAT_VERSION):
                raise ArtifactError(
                    f"{path.name} is not a reference file of version {FORMAT_VERSION}"
                )
            reader = _Reader(file, set(file.keys()), header)
            return reader.reference_data()
    except _UNLOADABLE as error:
        raise ArtifactError(
            f"{path.name} cannot be read",
            cause=str(error),
            hint="build the target again",
        ) from error


def digests_of_cases(path: Path) -> dict[str, Any]:
    """The `digest` of each case by its name, without reading any tensor. Empty if the file is not
    reference data of this version."""
    try:
        cases = _header(path)["cases"]
        return {name: entry["digest"] for name, entry in cases.items()}
    except _UNREADABLE:
        return {}


def baseline_of(path: Path) -> Any:
    """The `baseline` in the file, without reading any tensor. None if there is none, or the file is
    not reference data of this version."""
    try:
        return _header(path)["baseline"]
    except _UNREADABLE:
        return None


def _header(path: Path) -> Any:
    """The JSON document of the file. Raises one of `_UNREADABLE` if it is not reference data of
    this version."""
    require_regular(path)
    with safe_open(path, framework="pt") as file:
        header = _metadata(file)
    if header["format_version"] != FORMAT_VERSION:
        raise ValueError("another version")
    return header


def _metadata(file: Any) -> Any:
    """The JSON document of an open file, of whatever version."""
    entries = file.metadata() or {}
    return json.loads(entries.get(HEADER, "{}"))


@dataclass(frozen=True)
class _Reader:
    """Reads the tensors of an open file: `names` are those that it has, `header` is its JSON
    document."""

    file: Any
    names: set[str]
    header: Mapping[str, Any]

    def reference_data(self) -> ReferenceData:
        cases = [self.case(name) for name in self.header["cases"]]
        if not cases:
            raise ValueError("it has no cases")
        others = {}
        for of in self.header["others"]:
            others[of] = self.values(cases[0].name, f"{OTHER}{of}")
        return ReferenceData(
            cases=cases,
            no_exact=self.header["no_exact"],
            others=others,
            state=self.state(),
            baseline=self.header["baseline"],
        )

    def case(self, name: str) -> Case:
        entry = self.header["cases"][name]
        has_outputs = entry["has_outputs"]
        return Case(
            name=name,
            inputs=self.inputs(name) if entry["has_inputs"] else None,
            outputs=self.outputs(name) if has_outputs else None,
            exact=self.values(name, "exact") if has_outputs else None,
            sizes=dict(entry["sizes"]),
            seed=int(entry["seed"]),
            inputs_digest=str(entry["inputs_digest"]),
            digest=str(entry["digest"]),
            rounded_rmse=entry.get("rounded_rmse"),
            call=int(entry["call"]),
        )

    def inputs(self, case: str) -> list[Tensor]:
        values = self.values(case, "input")
        tensors = [value for value in values if isinstance(value, Tensor)]
        if len(tensors) != self.header["cases"][case]["inputs"]:
            raise ValueError(f"inputs of {case} are missing")
        return tensors

    def values(self, case: str, role: str) -> list[Value]:
        """The tensors of one role or their sketches, None where the file has neither."""
        entry = self.header["cases"][case]
        count = entry["inputs" if role == "input" else "outputs"]
        return [self._value(f"{case}/{role}/{index}") for index in range(count)]

    def outputs(self, case: str) -> list[Value]:
        values = self.values(case, "output")
        for index, text in self.header["cases"][case]["plain"].items():
            values[int(index)] = Plain(str(text))
        return values

    def state(self) -> dict[str, Tensor]:
        buffers = {}
        for name, fill in self.header["state"].items():
            if fill is None:
                buffers[name] = self.file.get_tensor(f"state/{name}")
                continue
            buffers[name] = torch.full(
                fill["shape"],
                _number(fill["value"]),
                dtype=getattr(torch, fill["dtype"]),
            )
        return buffers

    def _value(self, name: str) -> Value:
        described = self.header["sketches"].get(name)
        if described is not None:
            return Sketch.parse(
                described,
                buckets=self.file.get_tensor(f"{name}/buckets"),
                energy=self.file.get_tensor(f"{name}/energy"),
                sample=self.file.get_tensor(f"{name}/sample"),
            )
        if name not in self.names:
            return None
        tensor: Tensor = self.file.get_tensor(name)
        return tensor


def _number(text: str) -> Any:
    """A fill value: ``True``, ``0``, ``-inf``, ``(1+2j)``."""
    if text in ("True", "False"):
        return text == "True"
    if "j" in text:
        return complex(text)
    try:
        return int(text)
    except ValueError:
        return float(text)
