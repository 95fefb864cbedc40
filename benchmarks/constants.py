"""Does it cost anything to keep the weights apart from the code? resnet18 both ways: compile time,
size, time per call.

    python benchmarks/constants.py [--calls 60]

The calls of both are interleaved in one process, so that the machine's drift hits both alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torchvision

from aoti_build._torch.packages.weights import EXTERNAL_OPTIONS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=60)
    calls = parser.parse_args().calls
    image = torch.randn(2, 3, 224, 224)
    seconds: dict[str, list[float]] = {"inside the .so": [], "external": []}
    with tempfile.TemporaryDirectory() as directory, torch.no_grad():
        loaders = {}
        for name, options in (("inside the .so", {}), ("external", dict(EXTERNAL_OPTIONS))):
            program = torch.export.export(torchvision.models.resnet18().eval(), (image,))
            path = Path(directory) / f"{len(loaders)}.pt2"
            started = time.perf_counter()
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=options
            )
            print(
                f"{name:15} compile {time.perf_counter() - started:6.1f} s "
                f" {path.stat().st_size / 2**20:7.2f} MiB"
            )
            loaders[name] = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
        for number in range(calls + 5):
            for name, loader in loaders.items():
                started = time.perf_counter()
                loader.run([image])
                if number >= 5:
                    seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:15} {value * 1000:8.3f} ms per call (median of {calls})")
    print(f"apart / inside: {medians['external'] / medians['inside the .so']:.3f}")


if __name__ == "__main__":
    main()
