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
    commit = _git(root, "rev-parse", "HEAD")
    is_dirty = None
    if commit:
        is_dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    return {
        "aoti_build": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git_commit": commit,
        "git_dirty": is_dirty,
    }


def _git(root: Path, *arguments: str) -> str | None:
    """The output of a git command; None without git, outside a checkout, or after an error."""
    try:
        process = subprocess.run(
            ["git", *arguments],
            cwd=root,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if process.returncode != 0:
        return None
    return process.stdout.strip()
