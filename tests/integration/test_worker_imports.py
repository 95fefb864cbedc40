"""What workers import before they start: a reader of artifacts needs no compiler."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Each takes about as long to import as torch.
SLOW = {"sympy", "torch._dynamo", "torch._export.serde.serialize", "torch._inductor"}
CODE = """\
import importlib, json, sys
importlib.import_module("aoti_build._torch.jobs." + sys.argv[1])
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize("job", ["bench", "check", "measure", "outputs", "run"])
def test_a_reader_imports_no_compiler(job: str) -> None:
    command = [sys.executable, "-c", CODE, job]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not SLOW & set(json.loads(done.stdout))
