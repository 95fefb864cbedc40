"""A stand-alone reproduction of a failed verification, for a bug report.

It has the package, its reference file and a script that needs only torch and safetensors.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, tensor_inputs
from aoti_build.common.outputs import write_output
from aoti_build.models_file.project import Target

# Braces are doubled, because the script is a template for `str.format`.
SCRIPT = '''\
"""Compares the outputs of model.pt2 (AOTInductor) for {target} with those of eager mode.

    python repro.py

Needs torch and safetensors. model.pt2 contains native code: run it only if you trust its source.
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
STATE = {state}  # buffers that a call writes into; later calls depend on them
FORMATS = {formats}  # memory formats of the inputs; None: contiguous
{preparation}

def in_format(value, name):
    """The tensor with the strides that the package was compiled for."""
    if name is None:
        return value
    return torch.empty_like(value, memory_format=getattr(torch, name)).copy_(value)


def compare(label, expected, got):
    """Print the errors of one output. Returns whether they exceed the bounds."""
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
        if entry["call"] == 0:  # starts from the initial state
            package = Loader(str(HERE / "model.pt2"), "model", False, 1, -1)
        positions = range(entry["inputs"])
        inputs = [reference.get_tensor(f"{{case}}/input/{{i}}").to(DEVICE) for i in positions]
        inputs = [in_format(value, name) for value, name in zip(inputs, FORMATS)]
        outputs = package.run(inputs)
        output_count = entry["outputs"] - len(WRITTEN) - len(STATE)
        if len(outputs) != output_count:
            print(f"{{case}}: {{len(outputs)}} outputs, eager gave {{output_count}}")
            failed = True
            continue
        for index, got in enumerate([*outputs, *(inputs[position] for position in WRITTEN)]):
            name = f"{{case}}/output/{{index}}"
            if name not in names:  # it is no tensor, or too large to be stored
                continue
            label = f"{{case}} output {{index}}"
            if index >= output_count:
                label = f"{{case}} input {{WRITTEN[index - output_count]}} after the call"
            failed |= compare(label, reference.get_tensor(name), got.cpu())
raise SystemExit(1 if failed else 0)
'''


def write_repro(
    directory: Path,
    target: Target,
    artifact: Path,
    *,
    reference_data: Path | None,
    signature: Mapping[str, Any],
    imports: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the reproduction of `target` into a directory of its own below `directory`.

    `artifact` is the directory with the package. `reference_data` replaces the reference file that
    is there. `signature` and `imports` are those of the manifest.
    """
    location = directory / target.name.replace("/", "-")
    location.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(artifact / MODEL, location / MODEL)
    shutil.copyfile(reference_data or artifact / REFERENCE_DATA, location / REFERENCE_DATA)
    mutates = signature["mutates"]
    entries = tensor_inputs(signature)
    tensors = [entry["name"] for entry in entries]
    script = SCRIPT.format(
        target=target.name,
        device=target.device,
        written=[tensors.index(name) for name in mutates["inputs"]],
        state=list(mutates["buffers"]),
        formats=[entry.get("memory_format") for entry in entries],
        preparation="\n".join(_preparation(target, imports)),
    )
    write_output(location / "repro.py", script.encode())


def _preparation(target: Target, imports: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines that import the modules of custom operators and set the precision of TF32."""
    # A package with custom operators can be loaded only after these imports.
    lines = [f"import {entry['module']}" for entry in imports]
    # The artifact was compared with eager mode under this setting.
    tf32 = target.device_options.get("tf32")
    if tf32 is not None:
        lines.append(f"torch.backends.cudnn.allow_tf32 = {tf32}")
        lines.append(f"torch.backends.cuda.matmul.allow_tf32 = {tf32}")
    return lines
