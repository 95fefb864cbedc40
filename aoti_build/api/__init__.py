"""The commands as functions, for scripts: `aoti_build.build`, `verify`, `release` and others.

They do what the tasks of the same names do. They return reports, raise the errors of
`aoti_build.errors`, and print nothing. A report has `as_json()`, which is the document of
``--json``, and all but that of `status` have `exit_code`.

The commands are imported when they are called, so `import aoti_build.api` is cheap.
"""

from __future__ import annotations

from aoti_build.api.projects import build, load_project, run, status, verify
from aoti_build.api.releases import (
    release,
    release_diff,
    release_pull,
    release_push,
    run_release,
    verify_release,
)

__all__ = [
    "build",
    "load_project",
    "release",
    "release_diff",
    "release_pull",
    "release_push",
    "run",
    "run_release",
    "status",
    "verify",
    "verify_release",
]
