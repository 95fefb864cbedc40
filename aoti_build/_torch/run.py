"""The `run` job: load a package, run it on the golden or on given inputs, check the outputs, describe and time them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from aoti_build._torch.build import prepare, reference
from aoti_build._torch.check import verdicts
from aoti_build._torch.events import Events
from aoti_build._torch.golden import Case, load_golden
from aoti_build._torch.loaded import LoadedPackage
from aoti_build.errors import UsageError, VerificationError
from aoti_build.spec.records import target_from_json

REPEATS = 10


def run(job: Mapping[str, Any], events: Events) -> dict[str, Any]:
    """Job: model, golden, device, tolerance, signature, input (path or None), target (to make a reference from, or
    None).

    Returns inputs, outputs, check ("golden", "eager" or "none"), passed, verdicts, seconds with load, first and steady.
    """
    tensor_inputs = [entry for entry in job["signature"]["inputs"] if "dtype" in entry]
    names = [entry["name"] for entry in job["signature"]["outputs"]]
    golden = load_golden(Path(job["golden"]))[0]
    inputs = golden.inputs if job["input"] is None else _read(Path(job["input"]), tensor_inputs)
    with events.phase("load"):
        package = LoadedPackage(Path(job["model"]), job["device"])
    with events.phase("first"):
        outputs = _call(package, inputs)
    expected, basis = _expected(job, golden, inputs, events)
    checked = verdicts(expected, outputs, names, job["tolerance"]) if expected is not None else []
    events.seconds["steady"] = _steady(package, inputs)
    return {
        "inputs": [_describe(entry["name"], value) for entry, value in zip(tensor_inputs, inputs, strict=True)],
        "outputs": [
            _describe(name, value)
            for name, value in zip(names, outputs, strict=True)
            if isinstance(value, torch.Tensor)
        ],
        "check": basis,
        "passed": all(verdict["ok"] for verdict in checked),
        "verdicts": checked,
        "seconds": events.seconds,
    }


def _expected(
    job: Mapping[str, Any], golden: Case, inputs: list[torch.Tensor], events: Events
) -> tuple[list[torch.Tensor | None] | None, str]:
    """The reference: the golden outputs for the golden inputs, else eager's where the model's source is here."""
    if job["input"] is None:
        return golden.outputs, "golden"
    if job["target"] is None:
        return None, "none"
    target = target_from_json(job["target"])
    with events.phase("reference"):
        prepared = prepare(target.model, target.device, Path(job["root"]), job["where"])
        call = prepared.example.with_tensors(inputs).to(target.device)
        return reference("given", prepared.module, call).outputs, "eager"


def _call(package: LoadedPackage, inputs: list[torch.Tensor]) -> list[Any]:
    try:
        return package([value.clone() for value in inputs])
    except RuntimeError as error:
        raise VerificationError(
            "the artifact refused or failed on these inputs", cause=str(error).splitlines()[0], hint="see the log"
        ) from error


def _steady(package: LoadedPackage, inputs: list[torch.Tensor]) -> float:
    """Median seconds of a call, after the first."""
    samples = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        package(inputs)
        samples.append(time.perf_counter() - started)
    return round(statistics.median(samples), 6)


def _read(path: Path, wanted: list[dict[str, Any]]) -> list[torch.Tensor]:
    if path.suffix not in READERS:
        raise UsageError(
            f"{path.name}: inputs are read from {', '.join(READERS)} files", hint="one tensor per input name"
        )
    tensors: dict[str, torch.Tensor] = READERS[path.suffix](path)
    names = [entry["name"] for entry in wanted]
    if sorted(tensors) != sorted(names):
        raise UsageError(
            f"{path.name} holds the tensors {', '.join(sorted(tensors)) or '(none)'}",
            hint=f"the artifact's inputs are {', '.join(names)}",
        )
    for entry in wanted:
        _check_fits(path, entry, tensors[entry["name"]])
    return [tensors[name] for name in names]


def _check_fits(path: Path, entry: Mapping[str, Any], value: torch.Tensor) -> None:
    """Dtype and rank; the package's own input checks see to sizes and ranges."""
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype != entry["dtype"] or value.dim() != len(entry["shape"]):
        raise UsageError(
            f"{path.name}: {entry['name']} is {dtype} {list(value.shape)}",
            hint=f"the artifact wants {entry['dtype']} [{', '.join(map(str, entry['shape']))}]",
        )


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path.name} cannot be read", cause=str(error)) from error


# suffix -> reader of a file into tensors by name; a further format registers here.
READERS = {".safetensors": _read_safetensors}


def _describe(name: str, value: torch.Tensor) -> dict[str, Any]:
    """Shape, dtype and statistics of one tensor as JSON; statistics are of finite values, `nonfinite` counts the
    rest."""
    found: dict[str, Any] = {
        "name": name,
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
    }
    numbers = value.detach().cpu()
    if numbers.is_complex() or not numbers.numel():
        return found
    wide = numbers.to(torch.float64).reshape(-1)
    finite = wide[torch.isfinite(wide)]
    found["nonfinite"] = wide.numel() - finite.numel()
    if finite.numel():
        found |= {"min": float(finite.min()), "max": float(finite.max()), "mean": float(finite.mean())}
        found["std"] = float(finite.std(unbiased=False))
    return found
