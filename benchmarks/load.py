"""What `aoti_build.load` costs and saves, beside everything else that can run the same resnet18:
one run, ratios.

    python benchmarks/load.py [--device cpu] [--runs N] [--calls 300] [--json FILE] [--artifacts
    DIR]

Each run is a process of its own that has imported torch (and the packages named in the row) before
the clock starts; it stops when the first inference is done. The rows take turns, so that drift hits
all alike. The artifact is built first, unless `--artifacts` names what an earlier run built. The
time per call is that of a model of about a millisecond: on a CPU a small one, on a GPU resnet18
itself. Machines are noisy: read the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from run import OURS, RESNET, Row, table, write

MODELS = """\
version: 1
models:
  resnet18:
    source: net.py:build
    inputs: [{{shape: [2, 3, 224, 224]}}]
    devices: [{device}]
"""
ONE_MILLISECOND = """\
  stack:
    source: stack.py:build
    inputs: [{shape: [8, 512]}]
"""
STACK = """\
from torch import nn


def build():
    return nn.Sequential(*(layer for _ in range(16) for layer in (nn.Linear(512, 512), nn.ReLU())))
"""
# What runs in a process of its own: {setup} before the clock, {load} and a call within. Prints one
# line of JSON.
PROCESS = """\
import json, sys, time
import torch
torch.set_grad_enabled(False)
image = torch.randn(2, 3, 224, 224, device="{device}")
(image[:1] + 1).cpu()  # the device is up
{setup}
started = time.perf_counter()
{load}
loaded = time.perf_counter()
model(image) if callable(model) else model.boxed_run([image])
if image.is_cuda:
    torch.cuda.synchronize()
ended = time.perf_counter()
print(json.dumps([loaded - started, ended - started]))
"""
RAW = 'model = torch._C._aoti.AOTIModelPackageLoader({package!r}, "model", False, 1, {index})'
LOAD = (
    'model = aoti_build.load("resnet18", device="{device}", artifacts={artifacts!r},'
    ' verify="{verify}")'
)
EAGER = "model = net.build().eval().to('{device}')"
# Calls of the raw loader and of ours, in turns, in one process.
CALLS = """\
import json, statistics, sys, time
import torch, aoti_build
torch.set_grad_enabled(False)
value = torch.randn({shape}, device="{device}")
raw = torch._C._aoti.AOTIModelPackageLoader({package!r}, "model", False, 1, {index})
where = {{"device": "{device}", "artifacts": {artifacts!r}}}
checked = aoti_build.load("{model}", **where)
unchecked = aoti_build.load("{model}", **where, check_inputs=False)
calls = {{
    "raw": lambda: raw.boxed_run([value]),
    "checked": lambda: checked(value),
    "unchecked": lambda: unchecked(value),
}}
seconds = {{name: [] for name in calls}}
for number in range({calls} + 20):
    for name, call in calls.items():
        started = time.perf_counter()
        call()
        if value.is_cuda:
            torch.cuda.synchronize()
        if number >= 20:
            seconds[name].append(time.perf_counter() - started)
bound, began = 20000, time.perf_counter()
for _ in range(bound):
    checked._arguments.flatten((value,), {{}})
print(json.dumps([seconds, (time.perf_counter() - began) / bound]))
"""


def main() -> None:
    arguments = _arguments()
    runs = arguments.runs or {"cpu": 7, "cuda": 5}[arguments.device]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every process compiles what it imports
    with tempfile.TemporaryDirectory(prefix="aoti_build-benchmark-") as directory:
        root = Path(directory)
        project = _project(root, arguments.device)
        if not arguments.artifacts:
            _build(project)
        artifacts = (arguments.artifacts or project / "artifacts").absolute()
        rows = first_inference(root, project, artifacts, arguments.device, runs)
        calls, binding = overhead(project, artifacts, arguments.device, arguments.calls)
    print("\n".join(table(rows)))
    print()
    print("\n".join(table(calls, unit="ms")))
    print(f"binding and checking the inputs of that model alone: {binding * 1e6:.2f} us")
    if arguments.json:
        arguments.json.write_text(
            json.dumps(document(arguments.device, [*rows, *calls], binding), indent=2) + "\n"
        )


def first_inference(
    root: Path, project: Path, artifacts: Path, device: str, runs: int
) -> list[Row]:
    """From the start of loading to the end of the first inference, in fresh processes."""
    package = str(artifacts / "resnet18" / device / "model.pt2")
    index = 0 if device == "cuda" else -1
    ours = {
        verify: LOAD.format(device=device, artifacts=str(artifacts), verify=verify)
        for verify in ("full", "stat", "off")
    }
    net, eager = "import net", EAGER.format(device=device)
    compiled = f"{eager}\nmodel = torch.compile(model)"
    shared, fresh = str(root / "unpacked"), "{fresh}"
    # Row: what is done before the clock, what within, and the directories of caches.
    ways: dict[str, tuple[str, str, dict[str, str]]] = {
        "raw loader": ("", RAW.format(package=package, index=index), {}),
        "load, full": (
            "import aoti_build.runtime",
            ours["full"],
            {"AOTI_BUILD_RUNTIME_CACHE": shared},
        ),
        "load, stat": (
            "import aoti_build.runtime",
            ours["stat"],
            {"AOTI_BUILD_RUNTIME_CACHE": shared},
        ),
        "load, off": (
            "import aoti_build.runtime",
            ours["off"],
            {"AOTI_BUILD_RUNTIME_CACHE": shared},
        ),
        "load, full, import counted": (
            "",
            "import aoti_build\n" + ours["full"],
            {"AOTI_BUILD_RUNTIME_CACHE": shared},
        ),
        "load, full, first on a host": (
            "import aoti_build.runtime",
            ours["full"],
            {"AOTI_BUILD_RUNTIME_CACHE": fresh},
        ),
        "load, full, no directory": (
            "import aoti_build.runtime",
            ours["full"],
            {"AOTI_BUILD_RUNTIME_CACHE": "off"},
        ),
        "eager": (net, eager, {}),
    }
    stock = f"from torch._inductor import aoti_load_package\nmodel = aoti_load_package({package!r})"
    slow: dict[str, tuple[str, str, dict[str, str]]] = {}
    for name, script in (("aoti_load_package", ("", stock)), ("torch.compile", (net, compiled))):
        for way in ("cold", "warm"):
            slow[f"{name}, {way}"] = (*script, {"TORCHINDUCTOR_CACHE_DIR": str(root / name)})
    seconds: dict[str, list[float]] = {name: [] for name in (*ways, *slow)}
    made = iter(range(10**6))

    def measure(name: str, way: tuple[str, str, dict[str, str]], *, kept: bool = True) -> None:
        setup, load, variables = way
        chosen = {
            key: value.format(fresh=root / f"fresh-{next(made)}")
            for key, value in variables.items()
        }
        script = PROCESS.format(device=device, setup=setup, load=load)
        found = json.loads(_python(script, project, chosen))
        print(f"{name:28} {found[0]:8.3f}s to load, {found[1]:8.3f}s in all", file=sys.stderr)
        if kept:
            seconds[name].append(found[1])

    for name in ("load, full", "load, stat"):
        measure(name, ways[name], kept=False)  # unpacked and recorded, as on a host in service
    time.sleep(2.5)  # files younger than that are not remembered
    measure("load, stat", ways["load, stat"], kept=False)
    for _ in range(runs):
        for name, way in ways.items():
            measure(name, way)
    for name in ("aoti_load_package", "torch.compile"):
        for way in ("cold", "warm"):
            # The first fills the cache of the second.
            measure(f"{name}, {way}", slow[f"{name}, {way}"])
    load_package_limit = 1 / (50 if device == "cuda" else 10)
    limits = {
        "load, full": ("raw loader", 1.1),
        "load, stat": ("raw loader", 1.1),
        "load, off": ("raw loader", 1.1),
    }
    rows = [
        Row(name, values, *limits.get(name, ("raw loader", None)))
        for name, values in seconds.items()
    ]
    against = Row(
        "load, full, to that", seconds["load, full"], "aoti_load_package, cold", load_package_limit
    )
    warm = Row(
        "load, full, to warm",
        seconds["load, full"],
        "aoti_load_package, warm",
        0.1 if device == "cpu" else None,
    )
    return [*rows, against, warm]


def overhead(project: Path, artifacts: Path, device: str, calls: int) -> tuple[list[Row], float]:
    """Time per call of a model of about a millisecond, the raw loader's and ours in turns; and what
    binding costs."""
    model, shape = ("stack", (8, 512)) if device == "cpu" else ("resnet18", (2, 3, 224, 224))
    script = CALLS.format(
        device=device,
        model=model,
        shape=shape,
        package=str(artifacts / model / device / "model.pt2"),
        index=0 if device == "cuda" else -1,
        artifacts=str(artifacts),
        calls=calls,
    )
    seconds, binding = json.loads(_python(script, project, {}))
    limits = {"checked": 1.05, "unchecked": 1.05}
    rows = [
        Row(f"call, {name}", values, "call, raw", limits.get(name))
        for name, values in seconds.items()
    ]
    return rows, float(binding)


def document(device: str, rows: list[Row], binding: float) -> dict[str, Any]:
    """The results, each ratio in one run; seconds of every run are kept."""
    medians = {row.name: row.median for row in rows}
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        },
        "device": device,
        "binding_seconds": binding,
        "rows": [
            {
                "name": row.name,
                "seconds": row.seconds,
                "base": row.base,
                "ratio": row.median / medians[row.base],
                "limit": row.limit,
            }
            for row in rows
        ],
    }


def _project(root: Path, device: str) -> Path:
    project = root / "project"
    models = MODELS.format(device=device) + (ONE_MILLISECOND if device == "cpu" else "")
    write(project, {"tasks.py": OURS, "net.py": RESNET, "stack.py": STACK, "models.yaml": models})
    return project


def _build(project: Path) -> None:
    command = [sys.executable, "-m", "invoke", "build", "--strict"]
    subprocess.run(command, cwd=project, check=True, stdout=subprocess.DEVNULL)


def _python(script: str, project: Path, variables: dict[str, str]) -> str:
    paths = os.pathsep.join(path for path in (str(project), os.environ.get("PYTHONPATH")) if path)
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": paths, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        sys.exit(f"{script}\n{answer.stderr}")
    return answer.stdout.splitlines()[-1]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--runs", type=int, help="of each way that takes less than a second; 7, or 5 on a GPU"
    )
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--artifacts", type=Path, help="built by an earlier run for the same device"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
