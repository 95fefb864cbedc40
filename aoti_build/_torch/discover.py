"""Which files and which distributions an export used, so that a change in any of them is seen next time.

Files: every module imported from outside site-packages, the standard library and this package, and every other file
that was opened for reading meanwhile (a vocabulary, a config), caught by an audit hook. Distributions: those of all
modules
imported from site-packages, by version. Files that the process wrote itself (downloads, caches) are not inputs in the
sense of "edited meanwhile"; files of temporary, system and cache directories are not inputs at all.
"""

from __future__ import annotations

import importlib.metadata
import os
import site
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from aoti_build.digests import digest_file
from aoti_build.errors import BuildError

_OWN = Path(__file__).resolve().parents[1]
_SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/lib64", "/run", "/var")


@dataclass
class Discovery:
    """Collects from its creation on; `sources` and `distributions` say what was found so far. `declared` are the files
    that models.yaml names as sources."""

    root: Path
    declared: tuple[str, ...] = ()
    ignored: tuple[Path, ...] = ()
    _read: set[str] = field(default_factory=set)
    _written: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._real_root = os.path.realpath(self.root) + os.sep
        skipped = (*_site_directories(), *_stdlib_directories(), tempfile.gettempdir(), _OWN, *_SYSTEM, *self.ignored)
        self._skip = tuple(
            os.path.realpath(path) + os.sep
            for path in map(str, skipped)
            # A project may itself lie in a temporary directory: then only its own ignored parts are skipped.
            if not self._real_root.startswith(os.path.realpath(path) + os.sep)
        )
        self._note_safetensors()
        self._compile_from_source()
        sys.addaudithook(self._audit)

    def note(self, path: str | bytes | os.PathLike[str]) -> None:
        """`path` was read: an input under its own name, which may be a link's, and under that of its target."""
        name = os.fsdecode(path)
        self._read |= {os.path.abspath(name), os.path.realpath(name)}

    def sources(self, started_ns: int) -> dict[str, str]:
        """Path (relative to the root where it lies below it, with POSIX slashes) -> sha256.

        Raises `BuildError` if one changed after `started_ns`, the moment the build began by the file system's clock:
        what was used can then not be told from what is there.
        """
        found = {}
        for path in sorted(self._modules() | {path for path in self._read if self._counts(path)}):
            status = os.stat(path)
            own = os.path.realpath(path) in self._written
            if max(status.st_ctime_ns, status.st_mtime_ns) >= started_ns and not own:
                raise edited_meanwhile(self._name(path))
            found[self._name(path)] = digest_file(Path(path))
        # Under the name in models.yaml too, which may be that of a symbolic link.
        return found | {name: digest_file(self.root / name) for name in self.declared}

    def distributions(self) -> dict[str, str]:
        """The distributions that imported modules belong to, name -> version."""
        directories = _site_directories()
        owners = _owners(directories)
        prefixes = tuple(path + os.sep for path in directories)
        names = {
            name
            for module, path in _module_files()
            if path.startswith(prefixes)
            for name in owners.get(module.partition(".")[0], ())
        }
        return {name: importlib.metadata.version(name) for name in sorted(names)}

    def _modules(self) -> set[str]:
        return {path for _, path in _module_files() if self._counts(path)}

    def _counts(self, path: str) -> bool:
        skipped = os.path.realpath(path).startswith(self._skip)
        return not skipped and not path.endswith(".pyc") and os.path.isfile(path)

    def _name(self, path: str) -> str:
        for root in (self._real_root, str(self.root) + os.sep):
            if path.startswith(root):
                return Path(path[len(root) :]).as_posix()
        return path

    def _note_safetensors(self) -> None:
        """Its reader is native code, whose opens no audit hook sees."""
        import safetensors
        import safetensors.torch

        native = safetensors.safe_open

        def noting(filename: Any, *args: Any, **kwargs: Any) -> Any:
            self.note(filename)
            return native(filename, *args, **kwargs)

        for module in (safetensors, safetensors.torch):
            vars(module)["safe_open"] = noting

    def _compile_from_source(self) -> None:
        """Believe no bytecode of the project's: a .pyc counts as fresh by size and time, which an edit can keep; and a
        module run by its path would be read from there only. A loader whose `path_stats` fails compiles the source."""
        stats = SourceFileLoader.path_stats

        def checked(loader: SourceFileLoader, path: str) -> Mapping[str, Any]:
            if not os.path.realpath(path).startswith(self._skip):
                raise OSError("bytecode of project files is not used")
            return stats(loader, path)

        SourceFileLoader.path_stats = checked  # type: ignore[method-assign, assignment]

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str | bytes):
            flags = args[2] if isinstance(args[2], int) else 0
            if flags & (os.O_WRONLY | os.O_RDWR):
                self._written.add(os.path.realpath(os.fsdecode(args[0])))
            # "r+" reads as well: numpy.memmap's default.
            if not flags & os.O_WRONLY and not flags & os.O_TRUNC:
                self.note(args[0])
        elif event in ("os.rename", "shutil.move"):
            self._written.add(os.path.realpath(os.fsdecode(args[1])))


def edited_meanwhile(name: str) -> BuildError:
    """The error for an input that changed during the build."""
    return BuildError(
        f"{name} was edited while this target was built, so nothing was published",
        hint="build again; it may be done already",
    )


def _module_files() -> list[tuple[str, str]]:
    return [
        (name, os.path.realpath(path))
        for name, module in list(sys.modules.items())
        if isinstance(path := getattr(module, "__file__", None), str)
    ]


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
