"""The state of the project's git repository, as a release records it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from aoti_build.artifact.provenance import git_text

_UNKNOWN = "git could not say which"
# ``git@host:owner/name.git``, which ssh takes in place of an address.
_SCP_ADDRESS = re.compile(r"(?:[^@/:]+@)?([^@/:]+):(?!//)(.+)")


@dataclass(frozen=True)
class Checkout:
    """A checkout.

    Attributes:
        commit: what is checked out.
        committed_at: the time of the commit, in seconds since 1970 in UTC.
        changed: the files that git knows and that differ from the commit.
        repository: the address of the remote, without credentials. None if there is none.
    """

    commit: str
    committed_at: int
    changed: tuple[str, ...]
    repository: str | None


def read_checkout(root: Path, artifacts: Path) -> Checkout | None:
    """The checkout that the directory `root` is in; None if git knows of no commit there.

    Changes below the directory `artifacts` do not count: a release builds these files.
    """
    commit = git_text(root, "rev-parse", "HEAD")
    seconds = git_text(root, "show", "--no-patch", "--no-show-signature", "--format=%ct", "HEAD")
    if not commit or not seconds:
        return None
    return Checkout(
        commit=commit,
        committed_at=int(seconds),
        changed=_changed_files(root, artifacts),
        repository=_repository(root),
    )


def unknown_files(root: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Those of the files that git does not know. Names are relative to `root`."""
    wanted = sorted(set(names))
    if not wanted:
        return ()
    listed = git_text(root, "--literal-pathspecs", "ls-files", "-z", "--", *wanted)
    known = set((listed or "").split("\0"))
    return tuple(name for name in wanted if name not in known)


def _changed_files(root: Path, artifacts: Path) -> tuple[str, ...]:
    pathspecs = [":/"]
    # Artifacts beside the sources are no directory that could be left out.
    if artifacts != root and artifacts.is_relative_to(root):
        pathspecs.append(f":(exclude,literal){artifacts.relative_to(root).as_posix()}")
    # The user's settings could leave out what is not below `root`, or submodules.
    words = ("--no-ext-diff", "--no-relative", "--ignore-submodules=none", "--name-only")
    changed = git_text(root, "diff", *words, "HEAD", "--", *pathspecs)
    listed = git_text(root, "ls-files", "-v", "-z", "--", *pathspecs)
    if changed is None or listed is None:
        return (_UNKNOWN,)
    skipped = [entry[2:] for entry in listed.split("\0") if _is_skipped(entry)]
    return (*changed.splitlines(), *[name for name in skipped if _is_changed(root, name)])


def _is_skipped(entry: str) -> bool:
    """Whether `git diff` leaves a file out, by its entry in `git ls-files -v`.

    A small letter means ``--assume-unchanged``, and an S ``--skip-worktree``.
    """
    return entry[:1].islower() or entry.startswith("S ")


def _is_changed(root: Path, name: str) -> bool:
    """Whether a file that is there has other content than in the commit."""
    if not (root / name).is_file():
        return False  # as in a sparse checkout
    return git_text(root, "hash-object", "--", name) != git_text(
        root, "rev-parse", f"HEAD:./{name}"
    )


def _repository(root: Path) -> str | None:
    """The address of the remote that the branch follows, or of ``origin``."""
    branch = git_text(root, "symbolic-ref", "--quiet", "--short", "HEAD")
    remote = git_text(root, "config", "--get", f"branch.{branch}.remote") if branch else None
    address = git_text(root, "config", "--get", f"remote.{remote or 'origin'}.url")
    return public_address(address) if address else None


def public_address(address: str) -> str | None:
    """The address without user, password, query and fragment.

    None for a path of this machine, which says nothing to others.
    """
    if "://" not in address:
        match = _SCP_ADDRESS.fullmatch(address)
        return f"ssh://{match[1]}/{match[2].lstrip('/')}" if match else None
    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    if parts.scheme == "file" or not parts.hostname:
        return None
    return urlunsplit((parts.scheme, f"{parts.hostname}{port}", parts.path, "", ""))


def repository_name(address: str | None, root: Path) -> str:
    """The name of a project: the last part of its repository's address, or its directory's."""
    if address is not None:
        last = address.rstrip("/").rpartition("/")[2].removesuffix(".git")
        if last:
            return last
    return root.name or "project"
