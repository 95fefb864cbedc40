"""Which files, distributions and variables an export used, so that a change in any of them is seen next time.

Files: every module imported from outside site-packages, the standard library and this package, and whatever else
`aoti_build._torch.watch` saw being read. A name that was looked for and is not there counts as well, with no digest,
and a directory that was listed, under its name with a slash at the end. Distributions: those of all modules imported
from site-packages. Files that the process wrote itself (downloads, caches) are no inputs in the sense of "edited
meanwhile"; files of system directories are no inputs at all.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from aoti_build._torch.watch import Watch
from aoti_build.digests import digest_file, digest_names, is_listed
from aoti_build.errors import EditedMeanwhile
from aoti_build.fingerprint import variable_parts
from aoti_build.toolchain import distribution_identity

_OWN = Path(__file__).resolve().parents[1]
# Where the system's own libraries and settings lie; not /usr/local, /var or /opt, where models are kept as well.
_SYSTEM = (
    "/proc", "/sys", "/dev", "/etc", "/run", "/bin", "/sbin", "/lib", "/lib64", "/usr/bin", "/usr/include", "/usr/lib",
    "/usr/lib64", "/usr/libexec", "/usr/sbin", "/usr/share/locale", "/usr/share/zoneinfo",
)  # fmt: skip
# Set for every worker, whatever the user's environment says.
_WORKER_VARIABLES = frozenset({"PYTHONHASHSEED", "PYTHONUNBUFFERED"})


@dataclass
class Discovery:
    """Collects from its creation on; `sources`, `distributions` and `variables` say what was found so far. `declared`
    are the files that models.yaml names as sources."""

    root: Path
    declared: tuple[str, ...] = ()
    ignored: tuple[Path, ...] = ()
    _loaded: set[str] = field(default_factory=lambda: set(sys.modules))
    _environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def __post_init__(self) -> None:
        self._roots = (os.path.realpath(self.root) + os.sep, str(self.root) + os.sep)
        self._temporary = os.path.realpath(tempfile.gettempdir()) + os.sep
        skipped = (*_site_directories(), *_stdlib_directories(), _OWN, *_SYSTEM, *self.ignored)
        self._skip = tuple(
            os.path.realpath(path) + os.sep
            for path in map(str, skipped)
            # A project may itself lie in a system directory: then only its own ignored parts are skipped.
            if not self._roots[0].startswith(os.path.realpath(path) + os.sep)
        )
        self._watch = Watch(self._is_project, self._roots)

    def note_kwargs(self, value: Any) -> None:
        """A text among the factory's arguments that names a file or directory of the project: whatever it is read
        with, native code included, it is an input, a directory with all that is in it."""
        if isinstance(value, Mapping | list | tuple):
            for inner in value.values() if isinstance(value, Mapping) else value:
                self.note_kwargs(inner)
        elif isinstance(value, str) and value and "\0" not in value:
            path = self.root / value
            if path.is_file():
                self._watch.note(path)
            elif path.is_dir():
                for file in path.rglob("*"):
                    self._watch.note(file)

    def sources(self, started_ns: int) -> dict[str, str | None]:
        """Path (relative to the root where it lies below it, with POSIX slashes) -> sha256, None if it is absent.

        Raises `EditedMeanwhile` if one changed after `started_ns`, the moment the build began by the file system's
        clock: what was used can then not be told from what is there.
        """
        found: dict[str, str | None] = dict(self._listings())
        invented = _invented_files()
        for path in sorted(self._modules() | {path for path in self._watch.read if self._counts(path)}):
            if not os.path.isfile(path):
                if not os.path.isdir(path) and path not in invented:
                    found[self._name(path)] = None
                continue
            status = os.stat(path)
            own = os.path.realpath(path) in self._watch.written
            new = max(status.st_ctime_ns, status.st_mtime_ns) >= started_ns
            temporary = path.startswith(self._temporary) and not self._below_root(path)
            if new and not own and not temporary:
                raise EditedMeanwhile(self._name(path))
            # Temporary files that this process or one of its own, such as a compiler, made meanwhile are no inputs.
            if not (temporary and (own or new)):
                found[self._name(path)] = digest_file(Path(path))
        # Under the name in models.yaml too, which may be that of a symbolic link.
        return found | {name: digest_file(self.root / name) for name in self.declared}

    def distributions(self) -> dict[str, str | None]:
        """The distributions that imported modules belong to, name -> `toolchain.distribution_identity`."""
        prefixes = _prefixes(_site_directories())
        names = {
            name
            for module, path in _module_files()
            if path.startswith(prefixes)
            for name in self._owners.get(module.partition(".")[0], ())
        }
        return {name: distribution_identity(name) for name in sorted(names)}

    def variables(self) -> dict[str, str | None]:
        """The environment variables that project code asked for, name -> digest of the value it began with."""
        return variable_parts(self._watch.variables - _WORKER_VARIABLES, self._environment)

    def _listings(self) -> Iterator[tuple[str, str]]:
        own = {path.rpartition("/")[::2] for path in self._watch.written}
        for directory, before in self._watch.listed.items():
            if not os.path.isdir(directory) or not self._is_project(directory):
                continue
            now = frozenset(os.listdir(directory))
            if any((directory, name) not in own and is_listed(name) for name in before ^ now):
                raise EditedMeanwhile(self._name(directory) + "/")
            yield self._name(directory) + "/", digest_names(now)

    def _modules(self) -> set[str]:
        """Project modules, and modules that somebody put among the installed ones by hand."""
        prefixes = _prefixes(_site_directories())
        return {
            path
            for name, path in _module_files()
            if self._counts(path)
            or (name not in self._loaded and path.startswith(prefixes) and name.partition(".")[0] not in self._owners)
        }

    def _is_project(self, path: str) -> bool:
        return not path.startswith(self._skip)

    def _counts(self, path: str) -> bool:
        if not self._is_project(os.path.realpath(path)) or path.endswith(".pyc") or "<" in path:
            return False
        return os.path.isfile(path) or self._below_root(path)

    def _below_root(self, path: str) -> bool:
        return path.startswith(self._roots)

    def _name(self, path: str) -> str:
        for root in self._roots:
            if (path + os.sep).startswith(root):
                return Path(path[len(root) :]).as_posix()
        return path

    @cached_property
    def _owners(self) -> dict[str, set[str]]:
        return _owners(_site_directories())


def _prefixes(directories: set[str]) -> tuple[str, ...]:
    return tuple(path + os.sep for path in directories)


def _module_files() -> list[tuple[str, str]]:
    return [
        (name, os.path.realpath(path))
        for name, module in list(sys.modules.items())
        if isinstance(path := getattr(module, "__file__", None), str) and os.path.isfile(path)
    ]


def _invented_files() -> set[str]:
    """What modules call their file that have none: torch.ops says "_ops.py", and `inspect` then asks for it."""
    names = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return {os.path.abspath(name) for name in names if isinstance(name, str) and not os.path.isabs(name)}


def _owners(directories: set[str]) -> dict[str, set[str]]:
    """Top-level module -> distributions, as importlib.metadata.packages_distributions, which takes 0.4 s: where a
    distribution lists its top-level modules, its record of (torch: 20,000) files need not be read."""
    owners: dict[str, set[str]] = {}
    for info in (info for directory in directories for info in Path(directory).glob("*.dist-info")):
        top_level, record = info / "top_level.txt", info / "RECORD"
        if top_level.is_file():
            modules = set(top_level.read_text(errors="replace").split())
        elif record.is_file():
            lines = record.read_text(errors="replace").splitlines()
            modules = {line.partition(",")[0].partition("/")[0].partition(".")[0] for line in lines}
        else:
            continue
        name = info.name.removesuffix(".dist-info").rpartition("-")[0]
        for module in modules:
            owners.setdefault(module, set()).add(name)
    return owners


def _site_directories() -> set[str]:
    """Where installed distributions lie: what `site` says, and any other entry of sys.path that holds some."""
    known = {
        *site.getsitepackages(),
        site.getusersitepackages(),
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
    }
    known |= {entry for entry in sys.path if entry and os.path.isdir(entry) and any(Path(entry).glob("*.dist-info"))}
    return {os.path.realpath(path) for path in known}


def _stdlib_directories() -> set[str]:
    return {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
