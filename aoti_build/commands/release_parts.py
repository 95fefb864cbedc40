"""Parts of a release that other commands provide.

Each function here is the one place that knows whether its part is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from aoti_build.commands.release_bundle import Signer
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import AotiBuildError, UsageError
from aoti_build.models_file.project import Project, Target

_SIGNING = "aoti_build.artifact.signing"
_KEYS = f"{_SIGNING}.private_keys"
_SIGN = f"{_SIGNING}.sign"


class GateReport(Protocol):
    """What a gate found. `error` ends the release."""

    @property
    def exit_code(self) -> int: ...

    @property
    def error(self) -> AotiBuildError | None: ...

    def as_json(self) -> JsonObject: ...


# Measures the targets, after they were verified.
Gate = Callable[[Project, Sequence[Target]], GateReport]
# Makes the content of `report.html`. Pages are made by a layer above this one.
Page = Callable[[Project, Sequence[Target]], bytes]


def bench_gate(against: str, fail_if: str) -> Gate | None:
    """The gate of ``--against BASE --fail-if EXPR``; None without these options.

    Raises `UsageError` before anything is built if an option is wrong.
    """
    if not against and not fail_if:
        return None
    if not against:
        raise UsageError(
            "--fail-if compares with an earlier package, and --against names none",
            hint="add --against with a directory, a key of the store, or a git revision",
        )
    raise UsageError(
        "bench is not available, so --against cannot be used",
        hint="omit --against and --fail-if",
    )


def signer(key: str) -> Signer | None:
    """What signs with the private key in the file `key`; None without one.

    Raises as `read_signing_key` before anything is built, and `UsageError` if this installation
    cannot sign.
    """
    if not key:
        return None
    if find_spec(_SIGNING) is None:
        raise UsageError(
            "signatures are not available in this installation, so --sign cannot be used",
            hint="omit --sign",
        )
    keys: Any = import_module(_KEYS)
    signing: Any = import_module(_SIGN)
    signing_key = keys.read_signing_key(Path(key))

    def sign(directory: Path) -> bytes:
        content: bytes = signing.sign(directory, signing_key)
        return content

    return sign
