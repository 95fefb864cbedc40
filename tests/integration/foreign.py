"""A package of somebody else, whose code tells when it is loaded, in the place of a right one."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

WAYS = ("replace", "write")
# Lets a file have two contents in turns, until it is killed. Another file takes its name, or it is
# written in place.
CHANGE = """
import itertools, os, sys, time
from pathlib import Path
package, spare, way, *contents = map(Path, sys.argv[1:])
contents = [path.read_bytes() for path in contents]
for content in itertools.cycle(contents):
    if way.name == "write":
        with package.open("r+b") as file:
            file.write(content)
    else:
        spare.write_bytes(content)
        spare.chmod(0o644)
        os.replace(spare, package)
    time.sleep(0.02)
"""


def foreign_package(right: Path, marker: Path, work: Path) -> Path:
    """A package like `right` and of its size. Its library makes `marker` when it is loaded."""
    source, library = work / "foreign.c", work / "foreign.so"
    source.write_text(
        "#include <fcntl.h>\n__attribute__((constructor)) static void run(void) "
        f'{{ open("{marker}", O_CREAT | O_WRONLY, 0600); }}\n'
    )
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    package = work / "foreign.pt2"
    missing = 0
    # An empty member shows how much is missing.
    for _ in range(2):
        _write_like(right, library.read_bytes(), package, bytes(missing))
        missing = right.stat().st_size - package.stat().st_size
    assert missing == 0
    return package


def _write_like(right: Path, library: bytes, package: Path, padding: bytes) -> None:
    with zipfile.ZipFile(right) as source, zipfile.ZipFile(package, "w") as wrong:
        for entry in source.infolist():
            is_code = entry.filename.endswith(".so")
            wrong.writestr(entry.filename, library if is_code else source.read(entry))
        wrong.writestr(f"{entry.filename.partition('/')[0]}/extra/padding", padding)


@contextlib.contextmanager
def exchanging(package: Path, foreign: Path, way: str, work: Path) -> Iterator[None]:
    """Let another process exchange the package for `foreign` and back, all the time."""
    right = work / "right.pt2"
    shutil.copy(package, right)
    words = [package, work / "spare.pt2", way, foreign, right]
    process = subprocess.Popen([sys.executable, "-c", CHANGE, *map(str, words)])
    try:
        yield
        assert process.poll() is None, "it was exchanged until the end"
    finally:
        process.kill()
        process.wait()
    shutil.copy(right, package)


def load_unchecked(package: Path) -> None:
    """Load a package with torch's own loader, which fails or not after the library was loaded."""
    loader = "torch._C._aoti.AOTIModelPackageLoader"
    load = f"import sys, torch; {loader}(sys.argv[1], 'model', False, 1, -1)"
    words = [sys.executable, "-c", load, str(package)]
    subprocess.run(words, capture_output=True, check=False, timeout=300)
