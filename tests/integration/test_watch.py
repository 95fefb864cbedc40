"""What a worker notices of the files that user code uses, where a build would be a slow way to see
it: for each way to depend on something, the next build sees its change; for each harmless thing,
the build goes through and the next one does nothing."""

from __future__ import annotations

import json
import os
import py_compile
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aoti_build.artifact.fingerprint import variable_parts
from aoti_build.common.stat_cache import StatCache
from aoti_build.host import distributions
from aoti_build.host.import_path import ImportPath

EDITED = "was edited while this target was built"


@dataclass(frozen=True)
class Case:
    """Project code, and what is done to the project afterwards (`later`) or before the sources are
    taken (`meanwhile`, as another process does it)."""

    code: str
    later: str = ""
    meanwhile: str = "true"


def optional(module: str) -> str:
    """Code that imports `module` if it can."""
    return f"try:\n    import {module}\nexcept ImportError: pass"


OTHER_TEXT = "echo other > data/a.txt"
ANOTHER_FILE = "touch data/c.txt"
UPGRADE = "mv SITE/broken_one-1.dist-info SITE/broken_one-2.dist-info"
SEEN = {
    "a module": Case("import here", "echo K=2 > here.py"),
    "a file that is read": Case("open('data/a.txt').read()", OTHER_TEXT),
    "a file whose presence is asked": Case("import os; os.path.exists('flag')", "touch flag"),
    "a file that access() asks for": Case("import os; os.access('flag', os.R_OK)", "touch flag"),
    "a file that lexists() asks for": Case(
        "import os; os.path.lexists('flag')", "ln -s nowhere flag; touch nowhere"
    ),
    "a pattern without wildcards": Case("import glob; glob.glob('flag')", "touch flag"),
    "a directory that appears": Case("import os; os.path.isdir('cache')", "mkdir cache"),
    "a directory that goes": Case("import os; os.path.isdir('empty')", "rmdir empty"),
    "a directory that is listed": Case("import os; os.listdir('data')", ANOTHER_FILE),
    "a directory that is listed by its descriptor": Case(
        "import os; os.listdir(os.open('data', os.O_RDONLY))", ANOTHER_FILE
    ),
    "a directory behind a link, listed": Case(
        "import os; os.listdir('linked')", "touch ../outside/more"
    ),
    "a directory outside, listed": Case(
        "import os; os.listdir('../outside')", "touch ../outside/more"
    ),
    "a directory that a library lists": Case(
        "from torchvision.datasets.folder import find_classes as f; f('classes')",
        "mkdir classes/three",
    ),
    "a directory in kwargs": Case("pass", "touch given/new"),
    "where a link leads": Case("import os; os.path.realpath('current')", "ln -sfn v2 current"),
    "a file read relative to a directory": Case(
        "import os; os.open('a.txt', os.O_RDONLY, dir_fd=os.open('data', os.O_RDONLY))", OTHER_TEXT
    ),
    "an optional module of the project": Case(optional("extra"), "touch extra.py"),
    "an optional extension module": Case(optional("extra"), "touch extra.abi3.so"),
    "import_module": Case(
        "import importlib\ntry:\n    importlib.import_module('extra')\nexcept ImportError: pass",
        "touch extra.py",
    ),
    "find_spec": Case(
        "import importlib.util as u; u.find_spec('extra')", "mkdir extra; touch extra/__init__.py"
    ),
    "a module of an absent package": Case(
        optional("plug.extra"), "mkdir plug; touch plug/__init__.py"
    ),
    "a module that would be found sooner": Case(
        "import package.part", "mkdir package/part; touch package/part/__init__.py"
    ),
    "a module without source": Case("import bare", "cp other.pyc bare.pyc"),
    "a vendored library": Case(
        "import sys; sys.path.insert(0, 'vendor'); import lib", "echo K=2 > vendor/lib.py"
    ),
    "a variable": Case("import os; os.environ.get('NET')", "NET=other"),
    "a variable, in bytes": Case("import os; os.environb.get(b'NET')", "NET=other"),
    "a variable in a text": Case("import os; os.path.expandvars('$NET')", "NET=other"),
    "a variable asked for in a pool": Case(
        "import os\n"
        "from concurrent.futures import ThreadPoolExecutor as P\n"
        "list(P(1).map(os.getenv, ['NET']))",
        "NET=other",
    ),
    "a variable among all": Case(
        "import os\n[os.environ[n] for n in os.environ if n == 'NET']", "NET=other"
    ),
    "files read in a pool": Case(
        "import os\n"
        "from concurrent.futures import ThreadPoolExecutor as P\n"
        "list(P(1).map(os.listdir, ['data']))",
        ANOTHER_FILE,
    ),
    "an argument of a child process": Case(
        "import subprocess; subprocess.run(['cat', 'data/a.txt'])", OTHER_TEXT
    ),
    "a memory-mapped storage": Case(
        "import torch; torch.UntypedStorage.from_file('data/a.txt', nbytes=1)", OTHER_TEXT
    ),
    "a memory-mapped tensor": Case(
        "import torch; torch.from_file(filename='data/a.txt', size=1, dtype=torch.int8)", OTHER_TEXT
    ),
    "a library that is loaded": Case(
        "import ctypes\ntry:\n    ctypes.CDLL('./data/a.txt')\nexcept OSError: pass", OTHER_TEXT
    ),
    "a directory that may be there already": Case(
        "import os; os.makedirs('data', exist_ok=True); os.listdir('data')", ANOTHER_FILE
    ),
    "pathlib's exists()": Case("from pathlib import Path; Path('flag').exists()", "touch flag"),
    "pathlib's is_dir()": Case("from pathlib import Path; Path('cache').is_dir()", "mkdir cache"),
    "pathlib's glob() without wildcards": Case(
        "from pathlib import Path; list(Path().glob('flag'))", "touch flag"
    ),
    "a file whose permissions are set": Case(
        "import os; os.path.exists('data/a.txt'); os.chmod('data/a.txt', 0o600)", "rm data/a.txt"
    ),
    "a memory map that can be written": Case(
        "import numpy; numpy.memmap('data/a.txt')", OTHER_TEXT
    ),
    "a file that becomes a directory": Case(
        "import os; os.listdir('data')", "rm data/a.txt; mkdir data/a.txt"
    ),
    "a database": Case("import sqlite3; sqlite3.connect('base.db')", "printf x >> base.db"),
    "a shell's command": Case("import os; os.system('cat <data/a.txt')", OTHER_TEXT),
    "a hard link's source": Case(
        "import os; os.link('data/a.txt', 'x'); open('x').read(); os.remove('x')",
        "rm data/a.txt; echo other > data/a.txt",
    ),
    "an optional module that does not import": Case(optional("broken_one"), UPGRADE),
    "a distribution's version": Case(
        "import importlib.metadata as m; m.version('broken_one')", UPGRADE
    ),
    "a distribution that is not there": Case(
        "import importlib.metadata as m\n"
        "try:\n"
        "    m.version('extra_one')\n"
        "except m.PackageNotFoundError: pass",
        "mkdir SITE/extra_one-1.dist-info",
    ),
    "a distribution's data": Case("open('SITE/broken_one/data.txt').read()", UPGRADE),
    "a module in a namespace": Case(optional("spread.b"), "touch SITE/spread/b.py"),
    "a module in a namespace that is loaded": Case(
        "import spread.a\n" + optional("spread.b"), "touch SITE/spread/b.py"
    ),
    "an editable distribution": Case(optional("new_one"), "mkdir SITE/new_one-1.dist-info"),
    "entry points": Case(
        "import importlib.metadata as m; list(m.entry_points())", "mkdir SITE/new_one-1.dist-info"
    ),
    "a file in shared memory": Case("open('SHARED').read()", "echo other > SHARED"),
}

HARMLESS = {
    "taking the whole environment": Case(
        "import os, subprocess\n"
        "dict(os.environ); os.environ.copy(); {**os.environ}; list(os.environ.items())\n"
        "subprocess.run(['true'], env={**os.environ, 'A': '1'})",
        "NET=other",
    ),
    "a variable that is no text": Case("import os; os.environ.get('BYTES')"),
    "a hash seed of the workers' own": Case("import os; os.environ.get('PYTHONHASHSEED')"),
    "files written natively": Case(
        "import torch, safetensors.torch as s\n"
        "torch.save({}, 'own.pt'); torch.load('own.pt')\n"
        "s.save_file({'a': torch.ones(1)}, 'own.safetensors'); s.load_file('own.safetensors')"
    ),
    "files and directories made and removed": Case(
        "import os, shutil, tempfile\n"
        "os.mkdir('own'); os.symlink('own', 'own2'); os.listdir('own')\n"
        "open('own/x', 'w').close(); open('own/x').read()\n"
        "os.rename('own/x', 'own/y'); os.path.exists('own/y')\n"
        "os.link('own/y', 'own/z'); os.utime('own/z'); os.chmod('own/z', 0o600)\n"
        "os.remove('own2'); shutil.rmtree('own'); os.path.exists('own/y')\n"
        "with tempfile.TemporaryDirectory() as t:\n"
        "    open(t + '/x', 'w').close(); os.listdir(t); os.path.isdir(t)"
    ),
    "a log": Case(
        "import os\nfor _ in 'ab':\n    os.path.exists('own.log'); open('own.log', 'a').write('x')",
        "echo more >> own.log",
    ),
    "a walk over everything": Case(
        "import os\n"
        "from pathlib import Path\n"
        "for p in Path('.').rglob('*'): p.is_file()\n"
        "list(os.walk('.'))",
        "touch artifacts/new .git/new; echo x > .git/HEAD; rm -r __pycache__",
    ),
    "standard modules asking for themselves": Case(
        "import subprocess; subprocess.run(['true'])", "PATH=other"
    ),
    "a time in the future": Case("open('future.txt').read()"),
    "text in kwargs": Case("pass"),
    "what is no regular file": Case(
        "import os\nfor n in ('fifo', 'socket', 'secret'): os.path.exists(n)"
    ),
    "a database that is written": Case(
        "import sqlite3, os; os.path.exists('d.db')\n"
        "with sqlite3.connect('d.db') as d:\n"
        "    d.execute('create table if not exists t(x)'); d.execute('insert into t values(1)')"
    ),
    "a log that can be read": Case("open('own.log', 'a+').write('x')", "echo more >> own.log"),
    "temporary files in the project": Case(
        "import tempfile, os\nh, n = tempfile.mkstemp(dir='.'); os.close(h); os.remove(n)"
    ),
    "one distribution's version": Case(
        "import importlib.metadata as m; m.version('torch')", "touch new.py"
    ),
    "a current directory that goes": Case(
        "import os\nos.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); os.path.exists('x')"
    ),
    "functions sent to another process": Case(
        "import os, pickle; assert pickle.loads(pickle.dumps(os.stat))"
    ),
    "the name of a finder on sys.path": Case(
        "import os, sys\nsys.path.append('x.__path_hook__'); os.path.exists('x.__path_hook__')",
        "touch x.__path_hook__",
    ),
    "a path that is no text": Case("import sys; sys.path.insert(0, b'x')\n" + optional("extra")),
    "resolving a path": Case(
        "from pathlib import Path; Path('data/a.txt').resolve()", ANOTHER_FILE
    ),
}

MEANWHILE = {
    "an input is removed": Case("open('data/a.txt').read()", meanwhile="rm data/a.txt"),
    "a directory is put in another's place": Case(
        "open('data/a.txt').read()", meanwhile="cp -a data data2; mv data data3; mv data2 data"
    ),
    "a link is changed": Case("open('current/file').read()", meanwhile="ln -sfn v2 current"),
    "a link that is only resolved is changed": Case(
        "import os; os.readlink('current')", meanwhile="ln -sfn v2 current"
    ),
    "what was looked for appears": Case(
        "import os; os.path.exists('flag')", meanwhile="touch -d @1 flag"
    ),
    "a listed directory gets a file": Case("import os; os.listdir('data')", meanwhile=ANOTHER_FILE),
    "a listed directory goes": Case("import os; os.listdir('empty')", meanwhile="rmdir empty"),
    "size and time are kept": Case(
        "open('data/a.txt').read()",
        meanwhile="cp -p data/a.txt b; printf 2 > data/a.txt; touch -r b data/a.txt; rm b",
    ),
}


def make_site(directory: Path) -> Path:
    """Where distributions are installed: one that does not import, and a part of a namespace."""
    for name in (
        "broken_one/__init__.py",
        "broken_one/data.txt",
        "broken_one-1.dist-info/RECORD",
        "spread/a.py",
    ):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()
    (directory / "broken_one-1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: broken_one\nVersion: 1\n"
    )
    (directory / "broken_one-1.dist-info/top_level.txt").write_text("broken_one\n")
    (directory / "broken_one/__init__.py").write_text(
        "raise ImportError('built for another release')\n"
    )
    return directory


def make_project(root: Path) -> None:
    for directory in (
        "data",
        "given",
        "empty",
        "v1",
        "v2",
        "classes/one",
        "package",
        "artifacts",
        ".git",
        "vendor",
        "vendor/lib-1.0.dist-info",
        "__pycache__",
        "../outside",
    ):
        (root / directory).mkdir(parents=True, exist_ok=True)
    for name in (
        "data/a.txt",
        "v1/file",
        "v2/file",
        "package/__init__.py",
        "package/part.py",
        ".git/HEAD",
    ):
        (root / name).write_text("1")
    (root / "here.py").write_text("K = 1\n")
    (root / "vendor/lib.py").write_text("K = 1\n")
    (root / "vendor/lib-1.0.dist-info/RECORD").touch()
    (root / "base.db").touch()
    (root / "future.txt").touch()
    os.utime(root / "future.txt", (2**33, 2**33))
    os.mkfifo(root / "fifo")
    (root / "secret").touch(mode=0)
    (root / "current").symlink_to("v1")
    (root / "linked").symlink_to("../outside")
    for name in ("bare", "other"):
        source = root.parent / f"{name}.py"
        source.write_text(f"{name} = 1\n")
        py_compile.compile(str(source), cfile=str(root / f"{name}.pyc"))


ENVIRONMENT = {
    **os.environ,
    "NET": "net",
    "PYTHONHASHSEED": "0",
    os.fsdecode(b"BYTES"): os.fsdecode(b"\xff"),
}


Observed = dict[str, tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """What each case's project code was seen to use, and the project as it was then."""
    base = tmp_path_factory.mktemp("watch")
    memory = Path("/dev/shm")  # noqa: S108
    shared = memory if os.access(memory, os.W_OK) else base
    lines, roots = [], {}
    for number, (name, case) in enumerate({**SEEN, **HARMLESS, **MEANWHILE}.items()):
        roots[name] = root = base / str(number) / "project"
        make_project(root)
        file = shared / f"aoti_build-test-{os.getpid()}"
        file.write_text("1")
        code = case.code.replace("SHARED", str(file)).replace(
            "SITE", str(make_site(root.parent / "site"))
        )
        lines.append(json.dumps([name, str(root), code, case.meanwhile]))
    try:
        answer = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("watching.py"))],
            input="\n".join(lines),
            capture_output=True,
            text=True,
            check=False,
            env=ENVIRONMENT,
        )
        yield named(answer, roots)
    finally:
        file.unlink()


def named(answer: subprocess.CompletedProcess[str], roots: dict[str, Path]) -> Observed:
    results = [
        json.loads(line) for line in answer.stdout.splitlines() if line.startswith('{"name"')
    ]
    by_name = {result["name"]: result for result in results}
    return {
        name: (root, by_name.get(name, {"error": answer.stderr})) for name, root in roots.items()
    }


def changed(root: Path, used: dict[str, Any], later: str) -> set[str]:
    """What of `used` the next build would find changed after the shell words `later`."""
    variables = dict(ENVIRONMENT)
    del variables["PYTHONHASHSEED"]  # the workers' own
    if later.endswith("=other"):
        variables[later.removesuffix("=other")] = "other"
    else:
        subprocess.run(["sh", "-c", later], cwd=root, check=True)
    distributions._installed.cache_clear()
    digests = StatCache(root / "none.json")
    now = {
        name: digests.digest(name if name.startswith("/") else f"{root}/{name}")
        for name in used["sources"]
    }
    now |= variable_parts(used["variables"], variables)
    path = (str(root.parent / "site"), *used["path"])
    imports = ImportPath(str(root), (str(root),), variables)
    imports.installed = path
    places = imports.module_parts(used["modules"])
    now |= {f"{name} (module)": found for name, found in places.items()}
    now |= {
        f"{name} (distribution)": distributions.identity(name, path=path)
        for name in used["distributions"]
    }
    was = {**used["sources"], **used["variables"]}
    was |= {f"{name} (module)": found for name, found in used["modules"].items()}
    was |= {f"{name} (distribution)": found for name, found in used["distributions"].items()}
    return {name for name in was if was[name] != now[name]}


@pytest.mark.parametrize("name", SEEN)
def test_the_next_build_sees_a_change_of(name: str, found: Observed) -> None:
    root, used = found[name]
    assert "sources" in used, used.get("error") or used
    assert not changed(root, used, "true")
    shared = next((path for path in used["sources"] if "aoti_build-test-" in path), "")
    later = SEEN[name].later.replace("SHARED", shared).replace("SITE", str(root.parent / "site"))
    assert changed(root, used, later), used


@pytest.mark.parametrize("name", HARMLESS)
def test_no_build_fails_or_is_repeated_for(name: str, found: Observed) -> None:
    root, used = found[name]
    assert "sources" in used, used.get("error") or used
    assert not changed(root, used, HARMLESS[name].later or "true"), used


@pytest.mark.parametrize("name", MEANWHILE)
def test_nothing_is_published_if(name: str, found: Observed) -> None:
    _, used = found[name]
    assert EDITED in used.get("edited", ""), used.get("error") or used


def test_an_optional_dependency_is_seen_when_it_is_installed(
    found: Observed,
) -> None:
    _, used = found["an optional module of the project"]
    assert used["modules"]["extra"] is None


WATCHED = """
import os, sys
from aoti_build._torch.discovery.audit_events import record_audit_events
from aoti_build._torch.discovery.patches import install_patches
from aoti_build._torch.discovery.recorder import AccessRecorder
root = os.path.realpath(sys.argv[1]) + os.sep
is_project = lambda path: path.startswith(root)
recorder = AccessRecorder(is_project, (root,))
record_audit_events(recorder)
install_patches(recorder, is_project)
sys.path.insert(0, root)
import constants
print(constants.K)
import shutil
shutil.copystat(root + "constants.py", root + "another.py", follow_symlinks=False)
os.stat("constants.py", dir_fd=os.open(root, os.O_RDONLY))
"""


def test_out_of_date_bytecode_is_not_believed_and_the_standard_library_still_works(
    tmp_path: Path,
) -> None:
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
        [sys.executable, "-c", WATCHED, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout.strip() == "2", answer.stderr
