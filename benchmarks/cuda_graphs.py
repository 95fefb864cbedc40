"""What a call costs with CUDA graphs, beside every other way to call the same model: one run,
ratios.

    python benchmarks/cuda_graphs.py [--calls N] [--rounds N] [--json FILE] [MODEL ...]

Needs a GPU, torchvision and transformers. The models are BERT (6 layers, bfloat16, batch 2, 64
tokens), resnet18 (batch 2) and a Llama-like decoder (8 layers, bfloat16, batch 2, 128 tokens). They
are built first, all at once. Every way to call runs in the same process, in turns. `synchronised`
waits for the GPU after each call, `back to back` after all calls of a round. Copies of inputs and
outputs are included. The last column says which ratio the figure is held to.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

OURS = "from aoti_build.tasks import ns\n"
SOURCE = """\
from torch import nn


def resnet18():
    from torchvision.models import resnet18

    return resnet18(weights=None)


def bert():
    import torch
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(num_hidden_layers=6)).to(torch.bfloat16)


def llama():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, vocab_size=32000, use_cache=False,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16)
"""
INPUTS = {
    "bert": "{input_ids: {shape: [2, 64], dtype: int64, high: 30000}}",
    "resnet18": "{x: {shape: [2, 3, 224, 224]}}",
    "llama": "{input_ids: {shape: [2, 128], dtype: int64, high: 32000}}",
}


def main() -> None:
    arguments = _arguments()
    names = arguments.models or list(INPUTS)
    with tempfile.TemporaryDirectory(prefix="aoti_build-benchmark-") as directory:
        roots = [Path(directory) / name for name in names]
        with ThreadPoolExecutor() as pool:
            list(pool.map(_build, roots))
        sys.path.insert(0, str(roots[0]))
        results = {root.name: measure(root, arguments.calls, arguments.rounds) for root in roots}
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def measure(root: Path, calls: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a call of each way, both synchronised and back to back, and our ratios."""
    import torch

    torch.set_grad_enabled(False)
    ways, closing = _ways(root)
    medians: dict[str, dict[str, float]] = {}
    for mode, synchronised in (("synchronised", True), ("back to back", False)):
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, call in ways.items():
                seconds[name].append(_round(call, calls, synchronised=synchronised))
        medians[mode] = {name: statistics.median(times) * 1e3 for name, times in seconds.items()}
    for model in closing:
        model.close()
    _print(root.name, medians)
    return medians


def _ways(root: Path) -> tuple[dict[str, Callable[[], Any]], list[Any]]:
    """Functions that call the model once, and the loaded models to close."""
    import nets
    import torch

    import aoti_build

    where: dict[str, Any] = {"artifacts": root / "artifacts", "device": "cuda"}
    plain = aoti_build.load("model", **where)
    graphed = aoti_build.load("model", **where, cuda_graphs=True)
    static = aoti_build.load(
        "model", **where, cuda_graphs=aoti_build.CudaGraphs(static_outputs=True)
    )
    (entry,) = plain.metadata["signature"]["inputs"]
    if entry["dtype"] == "int64":
        value = torch.randint(0, 30000, entry["shape"], device="cuda")
    else:
        value = torch.randn(entry["shape"], device="cuda")
    package = str(root / "artifacts/model/cuda/model.pt2")
    raw = torch._C._aoti.AOTIModelPackageLoader(package, "model", False, 1, 0)
    eager = getattr(nets, root.name)().eval().cuda()
    reduced = torch.compile(eager, mode="reduce-overhead")
    call = {entry["name"]: value}
    ways = {
        "eager": lambda: eager(**call),
        "torch.compile, reduce-overhead": lambda: reduced(**call),
        "raw loader": lambda: raw.boxed_run([value]),
        "load": lambda: plain(**call),
        "load, CUDA graph": lambda: graphed(**call),
    }
    for way in ways.values():
        for _ in range(5):
            way()
    torch.cuda.synchronize()
    static(**call)
    buffers = static.buffers()
    static(**buffers)
    ways["load, CUDA graph, no copies"] = lambda: static(**buffers)
    # The graph itself, as the loader replays it.
    (recorded,) = graphed._graphs._graphs.values()
    ways["bare replay"] = recorded._replay
    return ways, [plain, graphed, static]


def _round(call: Callable[[], Any], calls: int, *, synchronised: bool) -> float:
    """Seconds a call."""
    import torch

    for _ in range(3):
        call()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(calls):
        call()
        if synchronised:
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / calls


def _print(model: str, medians: dict[str, dict[str, float]]) -> None:
    print(f"{model}: milliseconds a call")
    for name in medians["synchronised"]:
        cells = "".join(f"{mode} {times[name]:8.4f}   " for mode, times in medians.items())
        print(f"  {name:32} {cells}")
    once, together = medians["synchronised"], medians["back to back"]
    graph, reduced = "load, CUDA graph", "torch.compile, reduce-overhead"
    least = 4.0 if model == "bert" else 2.2
    print(f"  faster than load        {once['load'] / once[graph]:6.2f}   at least {least}")
    print(f"  faster than compile     {once[reduced] / once[graph]:6.2f}   at least 1.4")
    print(f"  the same, back to back  {together[reduced] / together[graph]:6.2f}   at least 1.0")
    microseconds = 1e3 * (once[graph] - once["bare replay"])
    print(f"  over a bare replay      {microseconds:6.1f} us, at most 30", flush=True)


def _build(root: Path) -> None:
    root.mkdir()
    (root / "nets.py").write_text(SOURCE)
    (root / "tasks.py").write_text(OURS)
    entry = f"{{source: nets.py:{root.name}, devices: [cuda], inputs: {INPUTS[root.name]}}}"
    (root / "models.yaml").write_text(f"version: 1\nmodels:\n  model: {entry}\n")
    environment = {**os.environ, "AOTI_BUILD_CACHE": str(root / "compile")}
    command = [sys.executable, "-m", "invoke", "build", "--strict"]
    subprocess.run(command, cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", choices=[[], *INPUTS], metavar="MODEL")
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
