"""What a caller of `load` or `explain` asks for: names, which become paths, and a device."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from aoti_build.errors import UsageError
from aoti_build.host.devices import device_names

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")  # of directories that builds make
_LONGEST_REPR = 80  # characters of a wrong value in a message


def artifacts_directory(argument: str | os.PathLike[str] | None) -> Path:
    """The directory of artifacts: `argument`, `AOTI_BUILD_ARTIFACTS`, or `artifacts` here.

    Raises `UsageError` for a value that cannot be a path.
    """
    if argument is None:
        argument = os.environ.get("AOTI_BUILD_ARTIFACTS") or "artifacts"
    try:
        path = os.fspath(argument)
        if isinstance(path, bytes) or b"\0" in os.fsencode(path):
            raise ValueError("it is no text of a path")
        return Path(path).absolute()
    except (TypeError, ValueError, OSError) as error:  # OSError: the current directory is gone
        raise UsageError(
            f"the directory of artifacts is {_brief(argument)}",
            cause=str(error),
            hint="give a path to artifacts=",
        ) from error


class Request(NamedTuple):
    """The arguments of `explain`. A `variant` or a `device` excludes all others."""

    model: str
    variant: str | None
    device: str | None
    device_index: int

    def exclusions(self, variant: str) -> tuple[str, ...]:
        """A sentence for each argument that excludes this variant."""
        reasons = []
        if self.variant and variant != self.variant:
            reasons.append(f"not requested: the requested variant is {self.variant}")
        if self.device and variant.partition("-")[0] != self.device:
            reasons.append(f"not requested: the requested device is {self.device}")
        return tuple(reasons)


def read_request(
    model: str,
    device: str | None,
    variant: str | None,
    device_index: int,
) -> Request:
    """The arguments of `explain`. Raises `UsageError` for one that cannot be meant."""
    name, variant_in_model = _split_target(model)
    if variant is not None:
        # An empty variant is an error too, and does not mean all of them.
        _check_name("variant", variant)
    if variant_in_model and variant and variant_in_model != variant:
        raise UsageError(
            f"{model!r} and variant={variant!r} name two variants", hint="give one of them"
        )
    _check_device(device, device_index)
    return Request(name, variant_in_model or variant, device, device_index)


def _split_target(model: str) -> tuple[str, str | None]:
    """The model and the variant of a target, or a model's name and None.

    Raises `UsageError` for anything else.
    """
    if not isinstance(model, str):
        raise _bad_name("model", model)
    name, slash, variant = model.partition("/")
    _check_name("model", name)
    if not slash:
        return name, None
    _check_name("variant", variant)
    return name, variant


def _check_name(kind: str, name: object) -> None:
    """Raise `UsageError` unless a build can give this name: names become paths."""
    if not isinstance(name, str) or not is_name(name):
        raise _bad_name(kind, name)


def is_name(text: str) -> bool:
    """Whether a build can give a model or a variant this name."""
    return _NAME.fullmatch(text) is not None


def _bad_name(kind: str, name: object) -> UsageError:
    return UsageError(
        f"there is no artifact {_brief(name)}",
        cause=f"that is not the name of a {kind}",
        hint='names are such as "resnet18", "cuda" or "resnet18/cuda"',
    )


def _check_device(device: str | None, device_index: int) -> None:
    if device is not None and device not in device_names():
        hint = f"it is one of {', '.join(device_names())}, or None"
        raise UsageError(f"there is no device {_brief(device)}", hint=hint)
    if not isinstance(device_index, int):
        hint = "it is a number, counted from 0"
        raise UsageError(f"device_index is {_brief(device_index)}", hint=hint)


def _brief(value: object) -> str:
    text = repr(value)
    if len(text) <= _LONGEST_REPR:
        return text
    return f"{text[: _LONGEST_REPR - 3]}..."
