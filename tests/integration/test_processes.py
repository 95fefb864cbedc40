"""Interrupted builds, killed builds, and two builds at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from conftest import start_inv, wait_for_phase
from projects import write_single

SOURCE = "from torch import nn\n\n\ndef build():\n    return nn.Linear(8, 4)\n"
MODEL = "net:\n  source: net.py:build\n  inputs: [{shape: [2, 8]}]\n"


def test_interrupt_ends_with_130_and_leaves_nothing_behind(tmp_path: Path) -> None:
    write_single(tmp_path, SOURCE, MODEL)
    process = start_inv(tmp_path, "build")
    wait_for_phase(tmp_path, "compile")
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert _processes_in(tmp_path) == []
    assert not (tmp_path / "artifacts/net").exists()
    assert not list((tmp_path / "artifacts/.staging").iterdir())
    assert out == ""


def test_a_killed_build_takes_its_workers_with_it_and_the_next_one_succeeds(tmp_path: Path) -> None:
    write_single(tmp_path, SOURCE, MODEL)
    process = start_inv(tmp_path, "build")
    wait_for_phase(tmp_path, "compile")
    time.sleep(2)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while _processes_in(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _processes_in(tmp_path) == []

    # Two more at once: one builds, the other waits and finds it done.
    both = [start_inv(tmp_path, "build") for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    actions = sorted("compiled" if "1 compiled" in out else "up-to-date" for out, _ in outputs)
    assert actions == ["compiled", "up-to-date"]
    assert not list((tmp_path / "artifacts/.staging").iterdir())


def _processes_in(root: Path) -> list[str]:
    """Command lines of processes whose working directory is `root` or that name it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if os.readlink(entry / "cwd") == str(root) or str(root) in command:
                found.append(command)
        except OSError:
            continue
    return found
