"""When an artifact was built, by which release, and from which commit."""

from __future__ import annotations

import subprocess
from datetime import datetime, timezone
from pathlib import Path

from aoti_build import __version__
from aoti_build.artifact.manifest_types import ProvenanceRecord

_GIT_TIMEOUT = 30  # seconds


def provenance(root: Path) -> ProvenanceRecord:
    """The provenance of an artifact that is built now in the project directory `root`.

    Git's commit and dirty flag are None if `root` is not in a checkout.
    """
    commit = git_text(root, "rev-parse", "HEAD")
    is_dirty = None
    if commit:
        is_dirty = bool(git_text(root, "status", "--porcelain", "--untracked-files=no"))
    return {
        "aoti_build": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git_commit": commit,
        "git_dirty": is_dirty,
    }


def full_commit(root: Path, revision: str) -> str | None:
    """The commit that a git revision such as ``v1.2`` names in the project directory `root`.

    None if there is no such commit, or `root` is not in a checkout.
    """
    name = f"{revision}^{{commit}}"
    return git_text(root, "rev-parse", "--verify", "--quiet", "--end-of-options", name)


def committed_file(root: Path, commit: str, path: str) -> bytes | None:
    """The content of a file in a commit; None without it. The path is relative to `root`."""
    return _git_output(root, "cat-file", "blob", f"{commit}:./{path}")


def git_text(root: Path, *arguments: str) -> str | None:
    """The output of a git command as text; None without git, outside a checkout, or on failure."""
    output = _git_output(root, *arguments)
    if output is None:
        return None
    return output.decode(errors="replace").strip()


def _git_output(root: Path, *arguments: str) -> bytes | None:
    try:
        process = subprocess.run(
            ["git", *arguments],
            cwd=root,
            capture_output=True,
            timeout=_GIT_TIMEOUT,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if process.returncode != 0:
        return None
    return process.stdout
