"""What aoti_build costs and saves, measured side by side in one run: whole processes, medians, and
ratios.

    python benchmarks/run.py [--runs 7] [--targets 1,20,1000] [--json FILE] [--skip-compiles]

No-op builds are compared with an empty invoke task and with doit (if it is installed); builds of
resnet18 with the plain script that exports, compiles, loads and compares. Everything happens in a
temporary directory with a store of its own. Machines are noisy: read the ratios, and run it again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
INV = [sys.executable, "-m", "invoke"]
TINY = "from torch import nn\n\n\ndef build():\n    return nn.Linear(8, 4)\n"
RESNET = "import torchvision\n\n\ndef build():\n    return torchvision.models.resnet18()\n"
EMPTY_TASK = "from invoke import task\n\n\n@task\ndef nothing(c):\n    pass\n"
OURS = "from aoti_build.tasks import ns\n"


@dataclass(frozen=True)
class Row:
    """A measurement: seconds of each run, and the limit of its ratio to `base`, if one is
    promised."""

    name: str
    seconds: list[float]
    base: str = ""
    limit: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="aoti_build-benchmark-") as directory:
        root = Path(directory)
        os.environ["AOTI_BUILD_CACHE"] = str(root / "cache")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every process compiles what it imports
        rows = noops(root, arguments.targets, arguments.runs)
        if not arguments.skip_compiles:
            rows += compiles(root, max(3, arguments.runs // 2))
    print("\n".join(table(rows)))
    if arguments.json:
        arguments.json.write_text(json.dumps(document(rows), indent=2) + "\n")


def noops(root: Path, counts: list[int], runs: int) -> list[Row]:
    """A build that has nothing to do, against a task that does nothing. Interleaved, so that drift
    hits all alike."""
    empty = root / "empty"
    write(empty, {"tasks.py": EMPTY_TASK})
    commands: dict[str, tuple[list[str], Path]] = {"empty invoke task": ([*INV, "nothing"], empty)}
    store = root / "noop-store"
    for count in counts:
        project = root / f"noop-{count}"
        models = "".join(
            f"  m{number}:\n    source: net.py:build\n    inputs: [{{shape: [2, 8]}}]\n"
            for number in range(count)
        )
        write(
            project,
            {"tasks.py": OURS, "net.py": TINY, "models.yaml": f"version: 1\nmodels:\n{models}"},
        )
        build(project, store)  # one compile; every other target is restored from the store
        time.sleep(2.5)  # files younger than the racy margin are not remembered
        build(project, store)
        commands[f"no-op, {count} targets"] = ([*INV, "build"], project)
    if doit := shutil.which("doit"):
        project = root / "doit"
        write(project, {"dodo.py": _dodo(20)})
        run([doit], project)
        commands["doit, 20 targets"] = ([doit], project)
    os.environ["AOTI_BUILD_STORE"] = str(store)
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, (command, cwd) in commands.items():
            seconds[name].append(timed(lambda command=command, cwd=cwd: run(command, cwd)))  # type: ignore[misc]
    limits = {"no-op, 20 targets": 1.5, "no-op, 1000 targets": 3.0}
    return [
        Row(name, values, "empty invoke task", limits.get(name)) for name, values in seconds.items()
    ]


def compiles(root: Path, runs: int) -> list[Row]:
    """resnet18: the plain script, a cold build, and what each kind of change costs after it."""
    project, store = root / "resnet", root / "resnet-store"
    models = (
        "version: 1\nmodels:\n  resnet18:\n    source: net.py:build\n    inputs: [{shape: [2, 3,"
        " 224, 224]}]\n"
    )
    write(project, {"tasks.py": OURS, "net.py": RESNET, "models.yaml": models})
    plain = root / "plain"
    plain.mkdir()
    script = [sys.executable, str(HERE / "plain_script.py")]

    def plain_build() -> None:
        shutil.rmtree(plain / "cache", ignore_errors=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(plain / "cache")
        run(script, plain)
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]

    def from_nothing(*, known_toolchain: bool) -> None:
        if not known_toolchain:
            shutil.rmtree(root / "cache" / "build" / "instruction-sets", ignore_errors=True)
        shutil.rmtree(store, ignore_errors=True)
        shutil.rmtree(project / "artifacts", ignore_errors=True)
        build(project, store)

    plain_build()  # the precompiled headers, of which each side keeps its own, are made once
    from_nothing(known_toolchain=True)
    numbers = iter(range(1, 1000))
    rows: dict[str, list[float]] = {"plain script": [], "cold build": [], "known toolchain": []}
    for _ in range(runs):
        rows["plain script"].append(timed(plain_build))
        rows["cold build"].append(timed(lambda: from_nothing(known_toolchain=False)))
        rows["known toolchain"].append(timed(lambda: from_nothing(known_toolchain=True)))
    rows |= {
        name: []
        for name in (
            "import and export alone",
            "comment edit",
            "new weights",
            "copy",
            "no-op",
            "restore",
        )
    }
    for _ in range(runs):
        number = next(numbers)
        rows["import and export alone"].append(
            timed(lambda: run([*script, "--export-only"], plain))
        )
        (project / "net.py").write_text(f"{RESNET}# comment {number}\n")
        rows["comment edit"].append(timed(lambda: build(project, store)))
        (project / "models.yaml").write_text(models + f"    seed: {number}\n")
        rows["new weights"].append(timed(lambda: build(project, store)))
        (project / "models.yaml").write_text(models)
        (project / "net.py").write_text(RESNET)
        rows["restore"].append(timed(lambda: build(project, store)))
        package = project / "artifacts/resnet18/cpu/model.pt2"
        rows["copy"].append(
            timed(lambda package=package: shutil.copyfile(package, root / "copy.pt2"))
        )  # type: ignore[misc]
        time.sleep(2.5)
        build(project, store)
        rows["no-op"].append(timed(lambda: build(project, store)))
    allowed = [noop + 2 * copy for noop, copy in zip(rows["no-op"], rows["copy"], strict=True)]
    return [
        Row("plain script", rows["plain script"], "plain script"),
        Row("cold build", rows["cold build"], "plain script", 1.1),
        Row("cold, known toolchain", rows["known toolchain"], "plain script"),
        Row("no-op", rows["no-op"], "plain script"),
        Row("import and export alone", rows["import and export alone"], "cold build"),
        Row("comment edit", rows["comment edit"], "import and export alone", 1.2),
        Row("new weights", rows["new weights"], "cold build", 0.25),
        Row("copy of the package", rows["copy"], "cold build"),
        Row("no-op plus two copies", allowed, "cold build"),
        Row("restore", rows["restore"], "no-op plus two copies", 1.0),
    ]


def build(project: Path, store: Path) -> None:
    run([*INV, "build"], project, {"AOTI_BUILD_STORE": str(store)})


def run(command: list[str], cwd: Path, variables: dict[str, str] | None = None) -> None:
    """Run to the end; its output only if it fails."""
    environment = {**os.environ, **(variables or {})}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)} exited {done.returncode}\n{done.stdout}{done.stderr}"
        )


def timed(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def write(root: Path, files: dict[str, str]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name).write_text(text)


def table(rows: list[Row], *, unit: str = "s") -> list[str]:
    """A line for each row; `unit` "s" or "ms"."""
    scale = {"s": 1, "ms": 1000}[unit]
    medians = {row.name: row.median for row in rows}
    lines = [f"{'':26}{'median':>10}  {'min':>9}  {'max':>9}  {'ratio':>6}  {'limit':>6}  to"]
    for row in rows:
        ratio = row.median / medians[row.base] if row.base in medians else float("nan")
        limit = f"{row.limit:.2f}" if row.limit else ""
        verdict = ""
        if row.limit is not None:
            verdict = "  met" if ratio <= row.limit else "  MISSED"
        median, least, most = (
            scale * value for value in (row.median, min(row.seconds), max(row.seconds))
        )
        spread = f"{median:9.3f}{unit}  {least:8.3f}{unit}  {most:8.3f}{unit}"
        lines.append(f"{row.name:26}{spread}  {ratio:6.2f}  {limit:>6}  {row.base}{verdict}")
    return lines


def document(rows: list[Row]) -> dict[str, Any]:
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        "rows": [
            {
                "name": row.name,
                "median": row.median,
                "seconds": row.seconds,
                "base": row.base,
                "limit": row.limit,
            }
            for row in rows
        ],
    }


def _dodo(count: int) -> str:
    return (
        f"from pathlib import Path\n\n\ndef task_make():\n    for number in range({count}):\n      "
        "  out = f'out{number}'\n        yield {'name': out, 'file_dep': ['dodo.py'],"
        " 'targets': [out], 'actions': [f'touch {out}']}\n"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument(
        "--targets",
        type=lambda text: [int(word) for word in text.split(",")],
        default=[1, 20, 1000],
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--skip-compiles", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
