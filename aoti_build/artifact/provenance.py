"""Who made an artifact, when, and from which commit."""

from __future__ import annotations

import subprocess
from datetime import datetime, timezone
from pathlib import Path

from aoti_build import __version__
from aoti_build.common.json_object import JsonObject


def provenance(root: Path) -> JsonObject:
    """The release of aoti_build, the time (UTC, ISO 8601), and git's commit and dirty flag where
    `root` is in a checkout."""
    commit = _git(root, "rev-parse", "HEAD")
    return {
        "aoti_build": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git_commit": commit,
        "git_dirty": (
            bool(_git(root, "status", "--porcelain", "--untracked-files=no")) if commit else None
        ),
    }


def _git(root: Path, *words: str) -> str | None:
    """Git's answer, or None without git or outside a repository."""
    try:
        answer = subprocess.run(
            ["git", *words],
            cwd=root,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
