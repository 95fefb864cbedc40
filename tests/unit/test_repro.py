"""The script that `verify --repro` writes."""

from __future__ import annotations

from pathlib import Path

from small_projects import write_project

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA
from aoti_build.commands.repro import write_repro

MODELS = """\
version: 1
models:
  small:
    source: model.py:build
    inputs: [{shape: [2, 4]}]
    devices: [cpu, cuda]
    cuda: {tf32: true}
"""


SIGNATURE = {"inputs": [], "outputs": [], "mutates": {"inputs": [], "buffers": []}}


def test_only_the_script_for_a_gpu_sets_the_precision_of_tf32(tmp_path: Path) -> None:
    project = write_project(tmp_path, MODELS)
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    for name in (MODEL, REFERENCE_DATA):
        (artifact / name).touch()
    scripts = {}
    for target in project.targets:
        write_repro(tmp_path, target, artifact, reference_data=None, signature=SIGNATURE)
        script = tmp_path / target.name.replace("/", "-") / "repro.py"
        scripts[target.device] = script.read_text()
    assert "torch.backends.cuda.matmul.allow_tf32 = True" in scripts["cuda"]
    assert "torch.backends.cudnn.allow_tf32 = True" in scripts["cuda"]
    assert "tf32" not in scripts["cpu"]
