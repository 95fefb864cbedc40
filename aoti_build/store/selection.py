"""The store of a project."""

from __future__ import annotations

from pathlib import Path

from aoti_build.artifact.paths import store_directory
from aoti_build.store.interface import Store
from aoti_build.store.local import LocalStore


def open_store(artifacts: Path) -> Store:
    """The store of the artifacts in `artifacts`.

    It is in the directory that ``AOTI_BUILD_STORE`` names, or in ``artifacts/.store``. Raises
    UsageError if the variable names another kind of store.
    """
    return LocalStore(store_directory(artifacts))
