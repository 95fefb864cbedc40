"""Parts of a release that other commands provide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from aoti_build.artifact.signing.keyless_signing import KeylessSigner, require_no_token
from aoti_build.artifact.signing.private_keys import SigningKey, read_signing_key
from aoti_build.artifact.signing.sign import sign
from aoti_build.commands.bench.command import Options, bench
from aoti_build.commands.release.bundle import Signer
from aoti_build.commands.release.push import OnLine
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import AotiBuildError, UsageError
from aoti_build.measurement.gate import Rule, parse_limits
from aoti_build.models_file.project import Project, Target


class GateReport(Protocol):
    """What a gate found. `error` ends the release."""

    @property
    def exit_code(self) -> int: ...

    @property
    def error(self) -> AotiBuildError | None: ...

    def as_json(self) -> JsonObject: ...


# Measures the targets, after they were verified.
Gate = Callable[[Project, Sequence[Target]], GateReport]
# Makes the content of `report.html`, which says that it was made at the time of the release. Pages
# are made by a layer above this one.
Page = Callable[[Project, Sequence[Target], str], bytes]


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
    limits = parse_limits(fail_if) if fail_if else {}
    options = Options(against=against, rule=Rule(limits=limits))

    def gate(project: Project, targets: Sequence[Target]) -> GateReport:
        return bench(project, tuple(targets), options)

    return gate


def signer(key: str, passphrase: str, certificates: Sequence[str]) -> Signer | None:
    """What signs with the private key in the file `key`; None without one.

    `passphrase` names an environment variable, and `certificates` are files.

    Raises as `read_signing_key`, before anything is built, and UsageError without a key.
    """
    if not key:
        if passphrase or certificates:
            raise UsageError(
                "there is a passphrase or a certificate, and no key to sign with",
                hint="name the private key with --sign",
            )
        return None
    signing_key = read_signing_key(
        Path(key),
        passphrase_variable=passphrase or None,
        certificates=[Path(name) for name in certificates],
    )
    return partial(_signature, signing_key)


def keyless_signer(token_file: str, trust_config: str, on_line: OnLine) -> Signer:
    """What signs with Sigstore, by the identity token in a file or of this CI service.

    `trust_config` is the file with the configuration of a Sigstore instance. Empty texts are
    options that are not set. `on_line` receives who signed.

    Raises as `KeylessSigner.require_ready`, before anything is built.
    """
    require_no_token("--identity-token-file", token_file)
    keyless = KeylessSigner(
        token_file=Path(token_file) if token_file else None,
        trust_config=Path(trust_config) if trust_config else None,
    )
    keyless.require_ready()
    return partial(_keyless_signature, keyless, on_line)


def _signature(key: SigningKey, directory: Path) -> bytes:
    return sign(directory, key)


def _keyless_signature(keyless: KeylessSigner, on_line: OnLine, directory: Path) -> bytes:
    signed = keyless.sign(directory)
    on_line(f"signed as {signed.identity}, for whom {signed.provider} vouched")
    return signed.content
