"""Whose keyless signature a release must have."""

from __future__ import annotations

from pathlib import Path

from aoti_build.artifact.signing.keyless import TrustedIdentity, read_trusted_identity
from aoti_build.commands.received.options import ReceiverOptions
from aoti_build.errors import UsageError


def trusted_identity(options: ReceiverOptions) -> TrustedIdentity | None:
    """The identity that must have signed; None if no option is about one.

    Raises `UsageError` for options that exclude each other or that are incomplete, and as
    `read_trusted_identity`.
    """
    values = {
        "--identity": options.identity,
        "--identity-provider": options.identity_provider,
        "--trusted-root": options.trusted_root,
    }
    given = [option for option, value in values.items() if value is not None]
    if not given:
        return None
    _refuse_others(options, given[0])
    for option, value in values.items():
        # The value of a variable that is not set would mean another identity, or another root.
        if value == "":
            raise UsageError(
                f"{option} names nothing",
                cause="its value is empty",
                hint="name what the publisher of the release says",
            )
    if options.identity is None or options.identity_provider is None:
        raise UsageError(
            f"{given[0]} needs both --identity and --identity-provider",
            cause="the same name means someone else at another provider",
            hint="such as --identity release@example.com --identity-provider"
            " https://accounts.google.com",
        )
    return read_trusted_identity(
        options.identity,
        options.identity_provider,
        trusted_root=Path(options.trusted_root).absolute() if options.trusted_root else None,
        release=options.directory,
    )


def _refuse_others(options: ReceiverOptions, given: str) -> None:
    others = {
        "--public-key": bool(options.keys),
        "--revoked": options.revoked is not None,
        "--unsigned": options.unsigned,
    }
    for option, is_set in others.items():
        if is_set:
            raise UsageError(
                f"{given} and {option} exclude each other",
                cause="a release is signed by a key, or without one by an identity",
                hint=f"omit one of {given} and {option}",
            )
