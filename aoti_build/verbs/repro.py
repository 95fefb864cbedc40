"""A stand-alone reproduction of a failed verification: the package, its golden file and a script that needs torch and
safetensors only, so that it can be attached to a bug report."""

from __future__ import annotations

import shutil
from pathlib import Path

from aoti_build.manifest import GOLDEN, MODEL
from aoti_build.outputs import write_output
from aoti_build.spec.project import Target

SCRIPT = '''\
"""Shows what model.pt2 (AOTInductor) gives for {target}, and what eager gave for the same inputs.

    python repro.py

Needs torch and safetensors. model.pt2 holds native code: run it only if you trust where it comes from.
"""

import json
import os
from pathlib import Path

os.environ["AOTI_RUNTIME_CHECK_INPUTS"] = "1"  # read when the first package is loaded

import torch
from safetensors import safe_open

HERE = Path(__file__).parent
DEVICE = "{device}"
ATOL, RTOL = 1e-6, 1.3e-6  # ATOL in units of the output's root mean square
{precision}
print("torch", torch.__version__, DEVICE)
failed = False
with safe_open(HERE / "golden.safetensors", framework="pt") as golden:
    names = set(golden.keys())
    for case, entry in json.loads(golden.metadata()["aoti_build"])["cases"].items():
        if not (entry["has_inputs"] and entry["has_outputs"]):
            continue
        inputs = [golden.get_tensor(f"{{case}}/input/{{i}}").to(DEVICE) for i in range(entry["inputs"])]
        package = torch._C._aoti.AOTIModelPackageLoader(str(HERE / "model.pt2"), "model", False, 1, -1)
        outputs = package.boxed_run(inputs)
        if len(outputs) != entry["outputs"]:
            print(f"{{case}}: {{len(outputs)}} outputs, eager gave {{entry['outputs']}}")
            failed = True
            continue
        for index, got in enumerate(outputs):
            if f"{{case}}/output/{{index}}" not in names:
                continue
            expected, got = golden.get_tensor(f"{{case}}/output/{{index}}"), got.cpu()
            label = f"{{case}} output {{index}}"
            if got.shape != expected.shape or got.dtype != expected.dtype:
                mine, theirs = (got.dtype, list(got.shape)), (expected.dtype, list(expected.shape))
                print(label, *mine, "eager:", *theirs)
                failed = True
                continue
            rms = expected.double().square().mean().sqrt().item()
            error = (got.double() - expected.double()).abs()
            over = int((~(error <= ATOL * rms + RTOL * expected.double().abs())).sum())
            largest = error.max().item() if error.numel() else 0
            print(f"{{label}}: {{over}} of {{error.numel()}} differ, max abs {{largest:.3g}}, rms {{rms:.3g}}")
            failed = failed or over > 0
raise SystemExit(1 if failed else 0)
'''


def write_repro(directory: Path, target: Target, artifact: Path, golden: Path | None) -> Path:
    """Write the reproduction of `target` into a directory of its own below `directory`; that directory's path."""
    place = directory / target.name.replace("/", "-")
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(artifact / MODEL, place / MODEL)
    shutil.copyfile(golden or artifact / GOLDEN, place / GOLDEN)
    switches = []
    if target.device == "cuda" and target.model.cuda.tf32 is not None:
        value = target.model.cuda.tf32
        switches = [f"torch.backends.{name}.allow_tf32 = {value}" for name in ("cudnn", "cuda.matmul")]
    text = SCRIPT.format(target=target.name, device=target.device, precision="\n".join(switches))
    write_output(place / "repro.py", text.encode())
    return place
