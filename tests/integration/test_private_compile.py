"""What inductor keeps between compiles lies where nobody else can put it first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Finished

pytestmark = pytest.mark.slow

SHOW = """
import json, sys
from pathlib import Path
from aoti_build._torch.jobs import build, localize
from aoti_build._torch.compiling.shared import keep_below
if "early" in sys.argv:
    keep_below(Path(sys.argv[1]))
import torch._inductor.compile_fx
from torch._inductor import codecache
from torch._inductor.runtime import runtime_utils
keep_below(Path(sys.argv[1]))
found = [codecache._HEADER_DIR, codecache._HEADER_LOCK_DIR, codecache.default_cache_dir()]
print(json.dumps([*found, runtime_utils.default_cache_dir()]))
"""


def test_a_build_leaves_nothing_in_the_temporary_directory(
    built_once: tuple[Path, Finished],
) -> None:
    """Not even inductor's directory with the user's name, which anybody could have made before."""
    assert list((built_once[0].parent / "tmp").iterdir()) == []


def test_headers_and_answers_are_kept_in_the_private_directory(tmp_path: Path) -> None:
    """Whether inductor was imported before or is imported after."""
    for when in ("early", "late"):
        environment = {
            **os.environ,
            "TMPDIR": str(tmp_path),
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "job"),
        }
        command = [sys.executable, "-W", "ignore", "-c", SHOW, str(tmp_path / "cache"), when]
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=300
        )
        found = json.loads(answer.stdout.splitlines()[-1])
        assert all(path.startswith(str(tmp_path / "cache" / "inductor")) for path in found), found
    assert not list(tmp_path.glob("torchinductor_*"))
