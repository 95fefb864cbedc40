"""How much memory and disk a large model takes: the peak of every process, by phase, and where its
weights lie.

    python benchmarks/memory.py [--gib 1] [--kind linear] [--directory DIR] [--json FILE]

Builds one model of so many GiB of weights, then builds it with new weights, verifies it and
restores the first state. A thread reads /proc/PID/status of every process of the build meanwhile.
`private` is memory that nobody else has (RssAnon); `files` are pages of files, such as weights that
are mapped, which the system takes back when it needs memory (RssFile). Disk is what lies below the
temporary directories at the fullest moment, in files and, where extents are shared, in blocks that
are taken. Only Linux tells these.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

INV = [sys.executable, "-m", "invoke"]
EVERY = 0.02  # seconds
KINDS = {
    "linear": (
        """\
from torch import nn


def build(layers, width):
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
"""
    ),
    "conv": (
        """\
from torch import nn


def build(layers, width):
    return nn.Sequential(*(nn.Conv2d(width, width, 3, padding=1) for _ in range(layers)))
"""
    ),
}
MODELS = """\
version: 1
models:
  large:
    source: net.py:build
    kwargs: {{layers: {layers}, width: {width}}}
    seed: {seed}
    inputs: [{{shape: {shape}}}]
"""


@dataclass
class Peak:
    """The largest `private` and `files` of one process in one phase, and of both together, in
    bytes."""

    private: int = 0
    files: int = 0
    both: int = 0

    def see(self, private: int, files: int) -> None:
        self.private, self.files = max(self.private, private), max(self.files, files)
        self.both = max(self.both, private + files)


@dataclass
class Watcher:
    """Looks at the processes below `pid` and at the sizes of directories until told to stop."""

    pid: int
    logs: Path
    roots: Sequence[Path]
    peaks: dict[tuple[str, str], Peak] = field(default_factory=dict)
    disk: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        rounds = 0
        while not self.stopped.wait(EVERY):
            phase = _phase(self.logs)
            for pid in _below(self.pid):
                name, private, files = _status(pid)
                if name:
                    self.peaks.setdefault(
                        (name, phase if name in ("build", "check") else ""), Peak()
                    ).see(private, files)
            rounds += 1
            if rounds % 10 == 0:
                self.disk = max(self.disk, sum(map(_allocated, self.roots)))


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(
        prefix="aoti_build-memory-", dir=arguments.directory
    ) as directory:
        rows = list(measure(Path(directory), arguments.kind, arguments.gib, arguments.layers))
    print("\n".join(table(rows)))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def measure(root: Path, kind: str, gib: float, layers: int) -> Iterator[dict[str, object]]:
    """A row for each command and process: seconds, bytes, and their ratio to those of the
    weights."""
    project = root / "project"
    project.mkdir()
    (root / "tmp").mkdir()
    width, shape = width_and_shape(kind, gib, layers)
    (project / "net.py").write_text(KINDS[kind])
    (project / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    os.environ |= {"AOTI_BUILD_CACHE": str(root / "cache"), "TMPDIR": str(root / "tmp")}
    os.environ.pop("AOTI_BUILD_STORE", None)
    for command, seed in (("build", 0), ("new weights", 1), ("verify", 1), ("restore", 0)):
        (project / "models.yaml").write_text(
            MODELS.format(layers=layers, width=width, seed=seed, shape=shape)
        )
        verb = "verify" if command == "verify" else "build"
        yield from _watched(command, [*INV, verb], project, root)


def _watched(
    command: str, words: list[str], project: Path, root: Path
) -> Iterator[dict[str, object]]:
    started = time.perf_counter()
    process = subprocess.Popen(
        words, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    watcher = Watcher(
        process.pid, project / "artifacts" / ".logs", (project, root / "cache", root / "tmp")
    )
    thread = threading.Thread(target=watcher.run)
    thread.start()
    out, _ = process.communicate()
    watcher.stopped.set()
    thread.join()
    if process.returncode:
        sys.exit(f"{command} failed:\n{out}")
    weights = max(path.stat().st_size for path in project.rglob("model.pt2"))
    seconds = round(time.perf_counter() - started, 1)
    for (name, phase), peak in watcher.peaks.items():
        yield {
            "command": command,
            "process": name,
            "phase": phase,
            "private": peak.private,
            "files": peak.files,
            "both": peak.both,
            "ratio": round(peak.both / weights, 2),
            "seconds": seconds,
        }
    yield {
        "command": command,
        "process": "disk",
        "most": watcher.disk,
        "after": sum(map(_allocated, (project, root / "tmp"))),
        "ratio": round(watcher.disk / weights, 2),
    }


def width_and_shape(kind: str, gib: float, layers: int) -> tuple[int, str]:
    values = gib * (1 << 30) / 4 / layers
    if kind == "linear":
        width = int(values**0.5) // 16 * 16
        return width, f"[2, {width}]"
    width = int((values / 9) ** 0.5) // 16 * 16
    return width, f"[1, {width}, 8, 8]"


def _phase(logs: Path) -> str:
    """The last phase that a worker wrote into the newest log."""
    try:
        log = max(logs.glob("*.log"), key=lambda path: path.stat().st_mtime, default=None)
        lines = log.read_text(errors="replace").splitlines() if log else []
    except OSError:
        return ""
    return next((line[4:] for line in reversed(lines) if line.startswith("--- ")), "")


def _below(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task").glob("*/children")
        for path in list(children):
            for child in path.read_text().split():
                yield from _below(int(child))
    except OSError:
        return


def _status(pid: int) -> tuple[str, int, int]:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        lines = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        numbers = [
            int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile", "RssShmem")
        ]
    except (OSError, KeyError, ValueError):
        return "", 0, 0
    if b"aoti_build._torch" in words:
        name = words[words.index(b"aoti_build._torch") + 1].decode()
    elif b"invoke" in words:
        name = "inv"
    else:
        return "", 0, 0  # a compiler
    return name, numbers[0], numbers[1] + numbers[2]


def _allocated(root: Path) -> int:
    total = 0
    for directory, _, files in os.walk(root):
        for name in files:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except OSError:
                continue
    return total


def table(rows: Sequence[dict[str, object]]) -> Iterator[str]:
    yield f"{'':36}{'private':>10}{'files':>10}{'both':>10}{'ratio':>8}"
    for row in rows:
        name = f"{row['command']}: {row['process']} {row.get('phase', '')}".strip()
        cells = [row.get(column) for column in ("private", "files", "both")]
        if row["process"] == "disk":
            cells = [row["after"], None, row["most"]]
        text = "".join(f"{'' if cell is None else f'{cell / 1e9:.2f} GB':>10}" for cell in cells)
        yield f"{name:36}{text}{row['ratio']:>8}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--kind", choices=KINDS, default="linear")
    parser.add_argument("--directory", type=Path, default=None)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
