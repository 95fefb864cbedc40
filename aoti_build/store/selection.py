"""Which store a project uses."""

from __future__ import annotations

from pathlib import Path

from aoti_build.artifact.paths import store_beside
from aoti_build.store.interface import Store
from aoti_build.store.local import LocalStore


def open_store(artifacts: Path) -> Store:
    """The store of the artifacts in `artifacts`: what ``AOTI_BUILD_STORE`` names, or
    ``artifacts/.store``.

    Raises `UsageError` for a kind of store that does not exist.
    """
    return LocalStore(store_beside(artifacts))
