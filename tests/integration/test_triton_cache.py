"""Triton itself, compiling for a GPU that need not be there, finds in the store what an earlier
process compiled."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aoti_build.store.kernels import KERNELS_VARIABLE

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)

DOUBLE = """
import hashlib
import json

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def double(x, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + at, 2 * tl.load(x + at, mask=at < n), mask=at < n)


hits = []
triton.knobs.compilation.listener = lambda **said: hits.append(said["cache_hit"])
source = ASTSource(double, {"x": "*fp32", "n": "i32", "BLOCK": "constexpr"}, {"BLOCK": 128})
kernel = triton.compile(source, target=GPUTarget("cuda", 80, 32))
print(json.dumps({"hits": hits, "cubin": hashlib.sha256(kernel.asm["cubin"]).hexdigest()}))
"""


def test_a_kernel_is_compiled_once_and_found_by_the_next_process(tmp_path: Path) -> None:
    first, again = (_compiled(tmp_path, job) for job in ("one", "two"))
    assert (first["hits"], again["hits"]) == ([False], [True])
    assert first["cubin"] == again["cubin"]
    (kept,) = (tmp_path / "kernels").glob("*/*.kernel")
    data = bytearray(kept.read_bytes())
    data[-30] ^= 1
    kept.write_bytes(data)
    mended = _compiled(tmp_path, "three")
    assert (mended["hits"], mended["cubin"]) == ([False], first["cubin"])


def test_what_a_failing_compile_measured_is_kept_for_the_same_switches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from aoti_build._torch.compiling.kernels import kept_tuning

    monkeypatch.setenv(KERNELS_VARIABLE, str(tmp_path / "kernels"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    name = f"cache/{'0' * 64}"
    (tmp_path / "one" / "cache").mkdir(parents=True)
    with contextlib.suppress(RuntimeError), kept_tuning(tmp_path / "one", {"tf32": "True"}):
        (tmp_path / "one" / name).write_text('{"cache": {}}')
        raise RuntimeError("no such kernel")
    with kept_tuning(tmp_path / "two", {"tf32": "True"}):
        assert (tmp_path / "two" / name).read_text() == '{"cache": {}}'
    with kept_tuning(tmp_path / "three", {"tf32": "False"}):
        assert not (tmp_path / "three").exists()


def _compiled(directory: Path, job: str) -> dict[str, object]:
    """Compile in a fresh process whose own cache is empty."""
    (directory / "double.py").write_text(DOUBLE)
    variables = {
        **os.environ,
        "TRITON_CACHE_DIR": str(directory / job),
        "TRITON_DISABLE_LINE_INFO": "1",  # or the bytes tell of a temporary file
        "TRITON_CACHE_MANAGER": "aoti_build._torch.compiling.kernels:StoredKernels",
        KERNELS_VARIABLE: str(directory / "kernels"),
    }
    command = [sys.executable, str(directory / "double.py")]
    answer = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    document: dict[str, object] = json.loads(answer.stdout)
    return document
