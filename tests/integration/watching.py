"""The other side of test_watch.py: does what a build worker does before it compiles, once for each
scenario, in a forked child (importing torch takes seconds, and recording lasts as long as the
process).

Reads ``[name, root, code, meanwhile]`` lines from stdin: runs `code` as the project's, does
`meanwhile` as another process would, and prints what was found, or the error.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch  # noqa: F401 - once for all children, with torch and numpy

from aoti_build._torch.discovery.discover import Discovery
from aoti_build.errors import EditedMeanwhile


def look(root: Path, code: str, meanwhile: str) -> Mapping[str, Any]:
    os.chdir(root)
    (root / "net.py").write_text(code)
    os.utime(root / "net.py", ns=(1, 1))
    path = list(sys.path)
    sys.path.insert(0, str(root.parent / "site"))
    discovery = Discovery(
        root,
        python_path=(str(root),),
        ignored=(root / "artifacts",),
        environment={"PYTHONHASHSEED": None},
        skew_ns=10**18,
    )
    sys.path.insert(0, str(root))
    discovery.note_kwargs(
        {"data": "given", "root": ".", "above": "..", "everything": "/", "prompt": "word " * 100}
    )
    runpy.run_path(str(root / "net.py"))
    with discovery._recorder.paused():
        subprocess.run(["sh", "-c", meanwhile], check=True)
    try:
        sources = discovery.sources()
    except EditedMeanwhile as error:
        return {"edited": error.message}
    parts = {"modules": discovery.modules(), "variables": discovery.variables()}
    return {"path": path, "sources": sources, **parts, "distributions": discovery.distributions()}


def main() -> None:
    for line in sys.stdin:
        name, root, code, meanwhile = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                found = look(Path(root), code, meanwhile)
            except BaseException:  # noqa: BLE001 - told to the test
                found = {"error": traceback.format_exc()}
            sys.stdout.write("\n" + json.dumps({"name": name, **found}) + "\n")
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
