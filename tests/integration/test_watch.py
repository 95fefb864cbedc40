"""What a worker notices of the files that user code uses, where a build would be a slow way to see it."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
from pathlib import Path

WATCHED = """
import os, sys
from aoti_build._torch.watch import Watch
root = os.path.realpath(sys.argv[1]) + os.sep
watch = Watch(lambda path: path.startswith(root), (root,))
sys.path.insert(0, root)
import constants
print(constants.K)
import shutil
shutil.copystat(root + "constants.py", root + "another.py", follow_symlinks=False)
os.stat("constants.py", dir_fd=os.open(root, os.O_RDONLY))
"""


def test_stale_bytecode_is_not_believed_and_the_standard_library_still_works(tmp_path: Path) -> None:
    """A .pyc counts as fresh by size and time, and an edit can keep both."""
    source = tmp_path / "constants.py"
    source.write_text("K = 1\n")
    (tmp_path / "another.py").touch()
    before = source.stat()
    py_compile.compile(str(source))
    source.write_text("K = 2\n")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    command = [
        sys.executable,
        "-c",
        "import sys; sys.path.insert(0, sys.argv[1]); import constants; print(constants.K)",
    ]
    assert subprocess.check_output([*command, str(tmp_path)], text=True).strip() == "1"
    answer = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.stdout.strip() == "2", answer.stderr
