"""The store of a project. Only this module reads ``AOTI_BUILD_STORE``."""

from __future__ import annotations

import os
import re
from pathlib import Path

from aoti_build.common.directories import path_in_variable
from aoti_build.errors import UsageError
from aoti_build.store.interface import Store
from aoti_build.store.local import LocalStore

VARIABLE = "AOTI_BUILD_STORE"


def open_store(artifacts: Path) -> Store:
    """The store of the artifacts in `artifacts`.

    It is in the directory that ``AOTI_BUILD_STORE`` names, or in ``artifacts/.store``.

    Raises:
        UsageError: the variable has a URL, such as ``s3://bucket``.
        DirectoryError: the variable has no usable path.
    """
    address = os.environ.get(VARIABLE, "")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", address):
        raise UsageError(
            f"{VARIABLE}={address} is not a directory",
            cause="only directories can be stores",
            hint=f"set {VARIABLE} to an absolute path, or unset it to use artifacts/.store",
        )
    return LocalStore(path_in_variable(VARIABLE) or artifacts / ".store")
