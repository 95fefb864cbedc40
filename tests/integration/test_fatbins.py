"""What the installed torch makes of the options for another GPU, as far as that goes without one:
its own commands, run on a kernel that does nothing, and what is read from the outcome."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aoti_build.artifact.pt2.fatbin import read_fatbin
from aoti_build.host import cuda

SCRIPT = """
import json, shutil, subprocess, sys
from torch._inductor import codecache, config
from torch._inductor.codegen.cuda import compile_utils
from aoti_build.host.devices.cuda import FATBIN_OPTIONS

number, further = sys.argv[1:]
with config.patch({"cuda.arch": number, **FATBIN_OPTIONS}):
    arch = compile_utils._aoti_cuda_target_arch()
    with open("k.ptx", "w") as file:
        file.write(f".version 8.8\\n.target sm_{arch}\\n.address_size 64\\n")
        file.write(".visible .entry k() { ret; }\\n")
    subprocess.run(["ptxas", f"-arch=sm_{arch}", "k.ptx", "-o", "k.cubin"], check=True)
    tools = shutil.which("nvcc"), shutil.which("fatbinary")
    command = codecache._cuda_fatbin_command("k.ptx", "k.fatbin", "k.cubin", *tools, arch)
subprocess.run(command, check=True, capture_output=True)
print(json.dumps(command[0]))
"""
TOOLS = ("nvcc", "fatbinary", "ptxas")


@pytest.mark.skipif(
    not cuda.packages_for_other_gpus(), reason="this torch cannot package for another GPU"
)
@pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"lacks one of {', '.join(TOOLS)}")
@pytest.mark.parametrize(
    ("number", "further", "code"),
    [
        ("80", "", {"sm_80", "compute_80"}),
        ("90", "", {"sm_90a", "compute_90a"}),  # so the own arch from 9.0 on gains nothing
        ("80", "8.0;9.0", {"sm_80", "sm_90", "compute_80"}),
    ],
)
def test_torchs_command_makes_what_is_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, further: str, code: set[str]
) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", further)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, number, further],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    data = (tmp_path / "k.fatbin").read_bytes()
    assert set(read_fatbin(lambda offset, size: data[offset : offset + size])) == code
    assert json.loads(done.stdout) == cuda.fatbin_tool()
