"""Which files, distributions and variables an export used, so that a change in any of them is seen
next time.

Files: every module imported from outside site-packages, the standard library and this package, and
whatever else `watch` beside this saw being read. A name that was looked for and is not there counts
as well, with no digest; a directory that was listed, under its name with a slash at the end; a link
that was resolved, with ``//link`` at the end. Distributions: those of all modules imported from
site-packages; and modules that were looked for and not loaded. Files that the process wrote itself
(downloads, caches) are no inputs in the sense of "edited meanwhile"; files of system directories
are no inputs at all.
"""

from __future__ import annotations

import os
import site
import stat
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from aoti_build._torch.discovery.unaudited import wrap
from aoti_build._torch.discovery.watch import State, Watch, state
from aoti_build._torch.started import ENVIRONMENT
from aoti_build.artifact.fingerprint import variable_parts
from aoti_build.common.digests import (
    DIRECTORY,
    LINK,
    digest_bytes,
    digest_file,
    digest_names,
    is_listed,
    names_in,
)
from aoti_build.errors import EditedMeanwhile
from aoti_build.host import distributions as installed

_OWN = Path(__file__).resolve().parents[2]
# Where the system's own libraries and settings lie; not /usr/local, /var or /opt, where models are
# kept as well.
_SYSTEM = (
    "/proc", "/sys", "/dev", "/etc", "/run", "/bin", "/sbin", "/lib", "/lib64", "/usr/bin",
    "/usr/include", "/usr/lib", "/usr/lib64", "/usr/libexec", "/usr/sbin", "/usr/share/locale",
    "/usr/share/zoneinfo",
)  # fmt: skip
# Data may lie here all the same (it is looked at, never written).
_DATA = ("/dev/shm/", "/run/media/", "/run/user/")  # noqa: S108
# As it was before a watch wraps it: what is looked at here was not looked at by the project.
_lstat = os.lstat
# The kernel's clock for file times moves in steps of up to 10 ms; twice that, to be safe.
_TICK_NS = 20_000_000
# Directories of the project's tools: to walk over them is not to depend on them.
_TOOLS = frozenset({
    ".git", ".hg", ".hypothesis", ".idea", ".ipynb_checkpoints", ".mypy_cache", ".nox",
    ".pytest_cache", ".ruff_cache", ".svn", ".tox", ".venv", ".vscode", "__pycache__",
})  # fmt: skip


@dataclass
class Discovery:
    """Collects from its creation on; `sources`, `distributions`, `modules` and `variables` say what
    was found so far.

    `declared` are the files that models.yaml names as sources; `environment` says what the build's
    own environment has for variables that this process was given another value of (None: nothing);
    `skew_ns` is how far the file system's clock is ahead of this process'."""

    root: Path
    declared: tuple[str, ...] = ()
    ignored: tuple[Path, ...] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)
    skew_ns: int = 0
    _loaded: set[str] = field(default_factory=lambda: set(sys.modules))
    # User code may change it.
    _path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))

    def __post_init__(self) -> None:
        self._started_ns = time.time_ns() + self.skew_ns
        started_with = {**ENVIRONMENT, **self.environment}
        self._environment = {
            name: value for name, value in started_with.items() if value is not None
        }
        self._site = _site_directories()
        self._roots = (os.path.realpath(self.root) + os.sep, str(self.root) + os.sep)
        self._temporary = os.path.realpath(tempfile.gettempdir()) + os.sep
        skipped = (*self._site, *_stdlib_directories(), _OWN, *_SYSTEM, *self.ignored)
        self._skip = tuple(
            os.path.realpath(path) + os.sep
            for path in map(str, skipped)
            # A project may itself lie in a system directory: then only its own ignored parts are
            # skipped.
            if not self._roots[0].startswith(os.path.realpath(path) + os.sep)
        )
        self._real = RealPaths()
        self._watch = Watch(self._is_project, self._roots)
        wrap(self._watch, self._is_project)
        for name in self.declared:
            self._watch.note_opened(self.root / name)

    def note_kwargs(self, value: Any) -> None:
        """A text among the factory's arguments that names a file or directory of the project:
        whatever it is read with, native code included, it is an input, a directory with all that is
        in it."""
        if isinstance(value, Mapping | list | tuple):
            for inner in value.values() if isinstance(value, Mapping) else value:
                self.note_kwargs(inner)
        elif isinstance(value, str) and value:
            path = os.path.join(self.root, value)
            if os.path.isfile(path):
                self._watch.note_opened(path)
            elif os.path.isdir(path) and not self._roots[0].startswith(
                os.path.join(os.path.realpath(path), "")
            ):
                self._note_tree(path)

    def _note_tree(self, top: str) -> None:
        for directory, names, files in os.walk(top):
            names[:] = [
                name
                for name in names
                if self._is_project(os.path.realpath(Path(directory, name)) + os.sep)
            ]
            names[:] = [name for name in names if name not in _TOOLS]
            self._watch.note_listed(directory, anyway=True)
            for name in files:
                self._watch.note_opened(Path(directory, name))

    def sources(self) -> dict[str, str | None]:
        """Path (relative to the root where it lies below it, with POSIX slashes) -> sha256, None if
        it is absent.

        Raises `EditedMeanwhile` if one is not what it was when it was first looked at, or changed
        so shortly before that a later change need not show: what was used can then not be told from
        what is there.
        """
        self._real = RealPaths()
        found: dict[str, str | None] = {**dict(self._listings()), **dict(self._links())}
        invented, written = _invented_names(), self._watch.written
        modules = self._modules()
        for path in sorted(
            modules | {path for path in tuple(self._watch.seen) if self._counts(path)}
        ):
            own = path in written or self._real(path) in written
            if own and path not in self._watch.opened and path not in modules:
                continue  # a log, a cache that is only filled
            if self._is_temporary(path) and self._is_new(path):
                continue  # made by this process or one of its own, such as a compiler
            now = state(path)
            if not own and self._changed(path, now):
                raise EditedMeanwhile(self._name(path))
            if now is not None or path not in invented:
                found[self._name(path)] = now if now == DIRECTORY else _digest(path)
        # Under the name in models.yaml too, which may be that of a symbolic link.
        return found | {name: digest_file(self.root / name) for name in self.declared}

    def distributions(self) -> dict[str, str | None]:
        """The distributions that imported modules belong to, name -> `distributions.identity`."""
        used = {
            module
            for module, path in _module_files(self._real)
            if path.startswith(_prefixes(self._site))
        }
        used |= self._missing()  # one that is installed and did not import, or was only looked for
        names = {name for module in used for name in self._owners.get(module.partition(".")[0], ())}
        names |= set(self._watch.distributions)
        for path in tuple(self._watch.asked):  # their data
            for site_directory in self._site:
                if path.startswith(site_directory + os.sep):
                    names |= self._owners_of_entry(
                        path[len(site_directory) + 1 :].partition(os.sep)[0]
                    )
        return {name: installed.identity(name, path=self._path) for name in sorted(names)}

    def modules(self) -> dict[str, str | None]:
        """Modules that were looked for and are not loaded, name -> `installed_module`: an optional
        dependency that is installed later, or taken away, is seen."""
        return {
            name: installed.installed_module(name, path=self._path)
            for name in sorted(self._missing())
        }

    def _missing(self) -> set[str]:
        """By the top-level name, except in a namespace, which several distributions fill."""
        found = set()
        for name in tuple(self._watch.modules):
            top = name.partition(".")[0]
            package = sys.modules.get(top)
            if package is None and "." not in name:
                found.add(top)
            elif name not in sys.modules and (
                package is None or getattr(package, "__file__", None) is None
            ):
                found.add(name)
        return found

    def variables(self) -> dict[str, str | None]:
        """The environment variables that project code asked for, name -> digest of the value it
        began with."""
        return variable_parts(tuple(self._watch.variables), self._environment)

    def _changed(self, path: str, now: State) -> bool:
        """Whether `path` is not what it was at the first look, or could have changed since without
        showing."""
        then = self._watch.seen.get(path, now)
        if not isinstance(now, tuple) or not isinstance(then, tuple):
            return now != then
        if path in self._watch.touched:
            return now[:3] != then[:3]
        looked = self._watch.looked.get(path, self._started_ns - self.skew_ns) + self.skew_ns
        # The change time alone: programs can set the other one, into the future too.
        return now != then or now[-1] > looked - _TICK_NS

    def _is_new(self, path: str) -> bool:
        """Whether there was nothing of the name when the build began."""
        then = self._watch.seen.get(path)
        return then is None or (isinstance(then, tuple) and then[-1] >= self._started_ns)

    def _listings(self) -> Iterator[tuple[str, str]]:
        own = {path.rpartition("/")[::2] for path in tuple(self._watch.written)}
        for directory, before in tuple(self._watch.listed.items()):
            if not self._is_listing(directory):
                continue
            try:
                now = names_in(directory)
            except OSError:
                raise EditedMeanwhile(self._name(directory) + "/") from None
            real = os.path.realpath(directory)
            if any(
                (real, name.rstrip("/")) not in own and is_listed(name) for name in before ^ now
            ):
                raise EditedMeanwhile(self._name(directory) + "/")
            yield self._name(directory) + "/", digest_names(now)

    def _is_listing(self, directory: str) -> bool:
        real = os.path.realpath(directory)
        if directory in self._watch.written or real in self._watch.written:
            return False  # made by this process
        if self._is_temporary(directory) and not (
            os.path.isdir(real) and os.stat(real).st_ctime_ns < self._started_ns
        ):
            return False  # or by one of its own
        return self._is_project(real + os.sep) and not self._is_tools(directory)

    def _links(self) -> Iterator[tuple[str, str]]:
        for link, before in tuple(self._watch.links.items()):
            # Another checkout has another.
            around = any(root.startswith(link + os.sep) for root in self._roots)
            if (
                around
                or link in self._watch.written
                or not self._is_project(link)
                or self._is_tools(link)
            ):
                continue
            if not os.path.islink(link) or os.readlink(link) != before:
                raise EditedMeanwhile(self._name(link))
            yield self._name(link) + LINK, digest_bytes(os.fsencode(before))

    def _modules(self) -> set[str]:
        """Project modules, and modules that somebody put among the installed ones by hand."""
        prefixes = _prefixes(self._site)
        return {
            path
            for name, path in _module_files(self._real)
            if self._counts(path)
            or (
                name not in self._loaded
                and path.startswith(prefixes)
                and name.partition(".")[0] not in self._owners
            )
        }

    def _is_project(self, path: str) -> bool:
        return path.startswith(_DATA) or not path.startswith(self._skip)

    def _counts(self, path: str) -> bool:
        if (
            not self._is_project(self._real(path))
            or "<" in path
            or f"{os.sep}__pycache__{os.sep}" in path
        ):
            return False
        seen, asked = self._watch.seen.get(path), path in self._watch.asked
        if seen == DIRECTORY and not asked:
            return False  # on the way to something else
        if path not in self._watch.opened and self._is_tools(path):
            return False
        return seen is not None or asked or self._below_root(path)

    def _is_temporary(self, path: str) -> bool:
        return path.startswith((self._temporary, *_DATA)) and not self._below_root(path)

    def _is_tools(self, path: str) -> bool:
        """Whether a directory of the project's tools is on the way from the root to `path`."""
        return self._below_root(path + os.sep) and not _TOOLS.isdisjoint(
            self._name(path).split("/")
        )

    def _below_root(self, path: str) -> bool:
        return path.startswith(self._roots)

    def _name(self, path: str) -> str:
        for root in self._roots:
            if (path + os.sep).startswith(root):
                return Path(path[len(root) :]).as_posix()
        return path

    def _owners_of_entry(self, entry: str) -> set[str]:
        """The distributions that an entry of a directory of installed ones belongs to."""
        if entry.endswith(".dist-info"):
            return {entry.removesuffix(".dist-info").rpartition("-")[0]}
        return self._owners.get(entry.partition(".")[0], set())

    @cached_property
    def _owners(self) -> dict[str, set[str]]:
        return _owners(self._site)


def _digest(path: str) -> str | None:
    """As `StatCache.digest`: None for what is no regular file, or cannot be read."""
    try:
        return digest_file(Path(path)) if os.path.isfile(path) else None
    except OSError:
        return None


def _prefixes(directories: set[str]) -> tuple[str, ...]:
    return tuple(path + os.sep for path in directories)


class RealPaths:
    """`os.path.realpath` for many paths in few directories, each of which is resolved once: 3,000
    modules lie in 300 directories, ten levels down."""

    def __init__(self) -> None:
        self._directories: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        directory, name = os.path.split(path)
        try:
            is_link = stat.S_ISLNK(_lstat(path).st_mode)
        except OSError:
            is_link = False
        if is_link or name in ("", os.curdir, os.pardir):
            return os.path.realpath(path)
        if directory not in self._directories:
            self._directories[directory] = os.path.realpath(directory)
        return os.path.join(self._directories[directory], name)


def _module_files(real: RealPaths) -> list[tuple[str, str]]:
    return [
        (name, real(path))
        for name, module in list(sys.modules.items())
        if isinstance(path := getattr(module, "__file__", None), str) and os.path.isfile(path)
    ]


def _invented_names() -> set[str]:
    """Names that are asked for and are none of files: torch.ops says its own is "_ops.py", and
    `inspect` asks for that; the finder of an editable install has an entry on sys.path."""
    names = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    relative = [
        name
        for name in (*names, *sys.path)
        if isinstance(name, str) and name and not os.path.isabs(name)
    ]
    try:
        return {os.path.abspath(name) for name in relative}
    except OSError:  # the current directory was removed
        return set()


def _owners(directories: set[str]) -> dict[str, set[str]]:
    """Top-level module -> distributions, as importlib.metadata.packages_distributions, which takes
    0.4 s: where a distribution lists its top-level modules, its record of (torch: 20,000) files
    need not be read."""
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
    """Where installed distributions lie: what `site` says, and any other entry of sys.path that
    holds some."""
    known = {
        *site.getsitepackages(),
        site.getusersitepackages(),
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
    }
    known |= {
        entry
        for entry in sys.path
        if entry and os.path.isdir(entry) and any(Path(entry).glob("*.dist-info"))
    }
    return {os.path.realpath(path) for path in known}


def _stdlib_directories() -> set[str]:
    archive = (  # on sys.path, whether it is there or not
        f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    )
    libraries = {
        os.path.join(prefix, sys.platlibdir, archive) for prefix in (sys.base_prefix, sys.prefix)
    }
    return {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *libraries}
