"""`invoke inspect` on what AOTInductor, torch's own packaging and NVIDIA's assembler really
write."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import run_inv
from projects import flip_a_bit

from aoti_build.artifact.pt2.package import open_archive
from aoti_build.common.elf import read_gpu_binary
from aoti_build.errors import ArtifactError

# Packs the files of a compiled model as torch does for everybody, twice into one package; and an
# exported program.
STOCK = """
import sys
from pathlib import Path
import torch
from torch.export.pt2_archive._package import package_pt2

files = [str(path) for path in sorted(Path("unpacked").iterdir())]
package_pt2("stock.pt2", aoti_files={"one": files, "two": files}, extra_files={"labels.json": "[]"})
torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), "exported.pt2")
"""
PTX = """
.version {version}
.target sm_{arch}
.address_size 64
.visible .entry scale(.param .u64 p) {{ ret; }}
"""


def test_the_facts_of_a_target(built: Path) -> None:
    finished = run_inv(built, "inspect", "--json", "--target", "tagger")
    assert finished.code == 0, finished.err
    (artifact,) = finished.json["artifacts"]
    (model,) = artifact["package"]["models"]
    assert artifact["package"]["made_by"] == {
        "aoti_build": True,
        "key": artifact["manifest"]["key"],
    }
    assert (model["device"], model["machine"]) == (
        "cpu",
        artifact["manifest"]["requires"]["machine"],
    )
    assert "libtorch_cpu.so" in model["libraries"][0]["needed"]
    assert [kernel["kind"] for kernel in model["kernels"]] == ["cpp"] * len(model["kernels"]) != []
    assert model["weights"]["where"] == "files"
    assert model["weights"]["bytes"] == sum(constant["size"] for constant in model["constants"]) > 0


def test_the_generated_source_says_what_the_manifest_says(built: Path) -> None:
    """The signature that any package tells, against the one that the export recorded."""
    for target in ("linear", "tagger", "weighted"):
        (artifact,) = run_inv(built, "inspect", "--json", "--target", target).json["artifacts"]
        told, recorded = (
            artifact["package"]["models"][0]["signature"],
            artifact["manifest"]["signature"],
        )
        tensors = [tensor for tensor in recorded["inputs"] if "dtype" in tensor]
        assert [tensor["dtype"] for tensor in told["inputs"]] == [
            tensor["dtype"] for tensor in tensors
        ]
        assert len(told["outputs"]) == len(recorded["outputs"])
        for seen, known in zip(told["inputs"], tensors, strict=True):
            assert len(seen["shape"]) == len(known["shape"])
            for here, there in zip(seen["shape"], known["shape"], strict=True):
                if isinstance(there, int):
                    assert here == there
                else:
                    assert told["dims"][here]["max"] == recorded["dims"][there]["max"]
    assert [tensor["name"] for tensor in told["outputs"]] == [
        tensor["name"] for tensor in recorded["outputs"]
    ]


def test_a_copy_is_equal_and_another_target_is_not(built: Path) -> None:
    package = built / "artifacts/linear/cpu/model.pt2"
    shutil.copy(package, built / "copy.pt2")
    same = run_inv(built, "inspect", "--target", "linear", "--diff", "copy.pt2", "--json")
    assert (same.code, same.json["equal"]) == (0, True), same.err
    other = run_inv(built, "inspect", "--target", "linear", "--diff", "tagger/cpu", "--json")
    parts = {difference["part"] for difference in other.json["differences"]}
    assert {"spec", "keys", "signature", "constants", "members"} <= parts


def test_a_package_that_torch_made(built: Path) -> None:
    package = built / "artifacts/linear/cpu/model.pt2"
    (built / "unpacked").mkdir()
    with zipfile.ZipFile(package) as archive:
        for name in archive.namelist():
            if "/aotinductor/" in name:
                (built / "unpacked" / name.rpartition("/")[2]).write_bytes(archive.read(name))
    metadata = next((built / "unpacked").glob("*.wrapper_metadata.json"))
    metadata.write_text(metadata.read_text().replace("AOTI_BUILD_KEY", "SOMEBODY"))
    subprocess.run([sys.executable, "-c", STOCK], cwd=built, check=True, timeout=120)

    finished = run_inv(built, "inspect", "--path", "stock.pt2", "--json")
    assert finished.code == 0, finished.err
    (artifact,) = finished.json["artifacts"]
    assert artifact["package"]["made_by"] == {"aoti_build": False, "key": None}
    assert [model["name"] for model in artifact["package"]["models"]] == ["one", "two"]
    assert any(
        member["name"].endswith("extra/labels.json") for member in artifact["package"]["members"]
    )

    exported = run_inv(built, "inspect", "--path", "exported.pt2")
    assert exported.code == 4
    assert "torch.export.load" in exported.out


def test_damage_is_found(built: Path) -> None:
    package = built / "artifacts/linear/cpu/model.pt2"
    flip_a_bit(package)
    finished = run_inv(built, "inspect", "--target", "linear")
    assert finished.code == 4
    assert "model.pt2 does not match the manifest" in finished.out
    assert run_inv(built, "inspect", "--path", str(package)).code == 4
    os.truncate(package, package.stat().st_size // 2)
    with pytest.raises(ArtifactError, match="truncated"):
        open_archive(package)


@pytest.mark.parametrize("tool", ["ptxas", "ptxas-blackwell"])
def test_the_architecture_of_real_cubins(tool: str, tmp_path: Path) -> None:
    """As Triton's assemblers write it, of which one is CUDA 13's."""
    spec = importlib.util.find_spec("triton")
    assembler = (
        Path(spec.origin).parent / f"backends/nvidia/bin/{tool}"
        if spec and spec.origin
        else Path(tool)
    )
    if not assembler.is_file():
        pytest.skip(f"no {tool} here")
    for arch, version in (
        ("75", "7.0"),
        ("80", "7.0"),
        ("90", "8.0"),
        ("90a", "8.0"),
        ("100", "8.6"),
        ("100a", "8.6"),
    ):
        source, binary = tmp_path / f"{arch}.ptx", tmp_path / f"{arch}.cubin"
        source.write_text(PTX.format(arch=arch, version=version))
        done: Any = subprocess.run(
            [assembler, f"--gpu-name=sm_{arch}", source, "-o", binary],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            continue  # an architecture that this release does not know, or does not know any more
        data = binary.read_bytes()
        found = read_gpu_binary(lambda offset, size, data=data: data[offset : offset + size])
        assert (found.arch, found.kernels) == (f"sm_{arch}", ("scale",))
