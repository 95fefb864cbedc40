"""What it costs to load a model with large weights in one process, and in a second one beside it.

    python benchmarks/large_load.py [--gib 1] [--runs 3] [--json FILE] [--artifacts DIR]

Builds a model of linear layers with so many GiB of weights, unless `--artifacts` names what an
earlier run built. Each way of loading gets two processes that have imported torch. The first loads,
is called, and stays. Then the second does the same. Both are alive when memory is read:

- `private` is memory that no other process has (RssAnon), of both, less what they had before;
- `in all` is all that the two take, shared pages counted once (Pss), less what they had before.

The ways take turns, so that drift hits all alike. Machines are noisy: read the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memory import KINDS, MODELS, width_and_shape

INV = [sys.executable, "-m", "invoke"]
# A process that has imported torch. It waits for a line, loads and calls, and prints seconds and
# memory. Another line asks for its memory again.
PROCESS = """\
import json, sys, time
import torch, aoti_build, aoti_build.runtime.model
torch.set_grad_enabled(False)
value = torch.randn({shape})
value @ value.t()  # the threads are started
path = sys.argv[1]

def memory():
    with open("/proc/self/smaps_rollup") as file:
        sizes = dict(line.split()[:2] for line in list(file)[1:])
    return [int(sizes["Anonymous:"]) * 1024, int(sizes["Pss:"]) * 1024]

before = memory()
for line in sys.stdin:
    if line == "load\\n":
        started = time.perf_counter()
        {load}
        loaded = time.perf_counter()
        model(value) if callable(model) else model.boxed_run([value])
        seconds = [loaded - started, time.perf_counter() - loaded]
    print(json.dumps([*seconds, *(now - then for now, then in zip(memory(), before))]), flush=True)
"""
RAW = """\
package = path + "/large/cpu/model.pt2"
        model = torch._C._aoti.AOTIModelPackageLoader(package, "model", False, 1, -1)"""
LOAD = 'model = aoti_build.load("large", artifacts=path, verify="{verify}")'
FIRST = "load, full, first on a host"
WAYS = {
    "raw loader": RAW,
    "load, full": LOAD.format(verify="full"),
    "load, stat": LOAD.format(verify="stat"),
    FIRST: LOAD.format(verify="full"),
}


@dataclass
class Measured:
    """Of one way of loading: seconds and bytes of each run."""

    load: list[float] = field(default_factory=list)
    call: list[float] = field(default_factory=list)
    second_load: list[float] = field(default_factory=list)
    second_call: list[float] = field(default_factory=list)
    private: list[float] = field(default_factory=list)
    in_all: list[float] = field(default_factory=list)


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="aoti_build-large-load-") as directory:
        root = Path(directory)
        artifacts = arguments.artifacts
        width, shape = width_and_shape("linear", arguments.gib, arguments.layers)
        if not artifacts:
            artifacts = build(root, width, shape, arguments.layers)
        results = measure(root, artifacts.absolute(), shape, arguments.runs)
    print("\n".join(table(results)))
    if arguments.json:
        document = {name: vars(measured) for name, measured in results.items()}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


def build(root: Path, width: int, shape: object, layers: int) -> Path:
    """The artifacts of a model with `layers` layers of `width`."""
    project = root / "project"
    project.mkdir()
    (project / "net.py").write_text(KINDS["linear"])
    (project / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    models = MODELS.format(layers=layers, width=width, seed=0, shape=shape)
    (project / "models.yaml").write_text(models)
    environment = {**os.environ, "AOTI_BUILD_STORE": str(root / "store")}
    subprocess.run([*INV, "build"], cwd=project, env=environment, check=True)
    return project / "artifacts"


def measure(root: Path, artifacts: Path, shape: object, runs: int) -> dict[str, Measured]:
    results = {name: Measured() for name in WAYS}
    unpacked = root / "unpacked"
    # Unpacked and recorded before, as on a host in service.
    pair("load, full", artifacts, shape, unpacked, Measured())
    for _ in range(runs):
        for name, measured in results.items():
            if name == FIRST:
                fresh = root / "fresh"
                pair(name, artifacts, shape, fresh, measured)
                shutil.rmtree(fresh)
            else:
                pair(name, artifacts, shape, unpacked, measured)
            print(f"{name:28} {measured.load[-1]:8.3f}s", file=sys.stderr)
    return results


def pair(name: str, artifacts: Path, shape: object, cache: Path, measured: Measured) -> None:
    """Load in one process and then in a second one, and read the memory of both."""
    cache.mkdir(mode=0o700, exist_ok=True)
    script = PROCESS.format(shape=shape, load=WAYS[name])
    environment = {**os.environ, "AOTI_BUILD_RUNTIME_CACHE": str(cache)}
    processes = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(artifacts)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
    first, second = processes
    load, call, _, _ = _ask(first, "load")
    second_load, second_call, private, in_all = _ask(second, "load")
    _, _, first_private, first_in_all = _ask(first, "memory")
    for process in processes:
        process.communicate()
    measured.load.append(load)
    measured.call.append(call)
    measured.second_load.append(second_load)
    measured.second_call.append(second_call)
    measured.private.append(first_private + private)
    measured.in_all.append(first_in_all + in_all)


def _ask(process: subprocess.Popen[str], what: str) -> list[float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{what}\n")
    process.stdin.flush()
    answer: list[float] = json.loads(process.stdout.readline())
    return answer


def table(results: dict[str, Measured]) -> Iterator[str]:
    """Medians of every way, and the ratio of load and first call to the raw loader."""
    raw = _median_total(results["raw loader"])
    yield (
        f"{'':28}{'load':>9}{'call':>9}{'ratio':>7}{'2nd load':>10}{'2nd call':>10}"
        f"{'private':>11}{'in all':>11}"
    )
    for name, measured in results.items():
        median = {key: statistics.median(values) for key, values in vars(measured).items()}
        yield (
            f"{name:28}{median['load']:8.3f}s{median['call']:8.3f}s"
            f"{_median_total(measured) / raw:7.2f}"
            f"{median['second_load']:9.3f}s{median['second_call']:9.3f}s"
            f"{median['private'] / 1e9:8.2f} GB{median['in_all'] / 1e9:8.2f} GB"
        )


def _median_total(measured: Measured) -> float:
    totals = [load + call for load, call in zip(measured.load, measured.call, strict=True)]
    return statistics.median(totals)


def _arguments() -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=1, help="GiB of weights; 1")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3, help="of each way; 3")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--artifacts", type=Path, help="built by an earlier run of the same size")
    return parser.parse_args()


if __name__ == "__main__":
    main()
