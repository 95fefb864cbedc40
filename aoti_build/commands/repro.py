"""A stand-alone reproduction of a failed verification: the package, its reference file and a script
that needs torch and safetensors only, so that it can be attached to a bug report."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, tensor_inputs
from aoti_build.common.outputs import write_output
from aoti_build.models_file.project import Target

SCRIPT = '''\
"""Shows what model.pt2 (AOTInductor) gives for {target}, and what eager gave for the same inputs.

    python repro.py

Needs torch and safetensors. model.pt2 holds native code: run it only if you trust its source.
"""

import json
import os
from pathlib import Path

os.environ["AOTI_RUNTIME_CHECK_INPUTS"] = "1"  # read when the first package is loaded

import torch
from safetensors import safe_open

Loader = torch._C._aoti.AOTIModelPackageLoader
HERE = Path(__file__).parent
DEVICE = "{device}"
ATOL, RTOL = 1e-6, 1.3e-6  # ATOL in units of the output's root mean square
WRITTEN = {written}  # positions of the inputs that a call writes into
STATE = {state}  # buffers that it writes into: they show in the calls that follow
{precision}

def compare(label, expected, got):
    """Print how far they are apart; whether that is too far."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        print(label, got.dtype, list(got.shape), "eager:", expected.dtype, list(expected.shape))
        return True
    rms = expected.double().square().mean().sqrt().item()
    error = (got.double() - expected.double()).abs()
    over = int((~(error <= ATOL * rms + RTOL * expected.double().abs())).sum())
    largest = error.max().item() if error.numel() else 0
    print(f"{{label}}: {{over}} of {{error.numel()}} differ,", end=" ")
    print(f"max abs {{largest:.3g}}, rms {{rms:.3g}}")
    return over > 0


print("torch", torch.__version__, DEVICE)
failed, package = False, None
with safe_open(HERE / "reference.safetensors", framework="pt") as reference:
    names = set(reference.keys())
    for case, entry in json.loads(reference.metadata()["aoti_build"])["cases"].items():
        if not (entry["has_inputs"] and entry["has_outputs"]):
            continue
        if entry["call"] == 0:  # from the first state
            package = Loader(str(HERE / "model.pt2"), "model", False, 1, -1)
        positions = range(entry["inputs"])
        inputs = [reference.get_tensor(f"{{case}}/input/{{i}}").to(DEVICE) for i in positions]
        outputs = package.run(inputs)
        wanted = entry["outputs"] - len(WRITTEN) - len(STATE)
        if len(outputs) != wanted:
            print(f"{{case}}: {{len(outputs)}} outputs, eager gave {{wanted}}")
            failed = True
            continue
        for index, got in enumerate([*outputs, *(inputs[position] for position in WRITTEN)]):
            name = f"{{case}}/output/{{index}}"
            if name not in names:  # it is no tensor, or too large to be kept as it is
                continue
            label = f"{{case}} output {{index}}"
            if index >= wanted:
                label = f"{{case}} input {{WRITTEN[index - wanted]}} after the call"
            failed |= compare(label, reference.get_tensor(name), got.cpu())
raise SystemExit(1 if failed else 0)
'''


def write_repro(
    directory: Path,
    target: Target,
    artifact: Path,
    reference_data: Path | None,
    signature: Mapping[str, Any],
    imports: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write the reproduction of `target`, whose manifest has `signature` and `imports`, into a
    directory of its own below `directory`; that directory's path."""
    place = directory / target.name.replace("/", "-")
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(artifact / MODEL, place / MODEL)
    shutil.copyfile(reference_data or artifact / REFERENCE_DATA, place / REFERENCE_DATA)
    lines = [f"import {entry['module']}" for entry in imports]
    if target.device == "cuda" and target.model.cuda.tf32 is not None:
        value = target.model.cuda.tf32
        lines += [
            f"torch.backends.{name}.allow_tf32 = {value}" for name in ("cudnn", "cuda.matmul")
        ]
    mutates = signature["mutates"]
    tensors = [entry["name"] for entry in tensor_inputs(signature)]
    text = SCRIPT.format(
        target=target.name,
        device=target.device,
        written=[tensors.index(name) for name in mutates["inputs"]],
        state=list(mutates["buffers"]),
        precision="\n".join(lines),
    )
    write_output(place / "repro.py", text.encode())
    return place
