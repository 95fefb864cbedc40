"""Loads from signed releases: `load(..., require_signature=KEYS)`.

The directory of the release is opened once. Its signature is verified first. Then `release.json`
and the manifests of the model are read from that directory. Their bytes must have the signed
digests before they are parsed, and before variants are ranked. The package is opened in the same
directory, and must have the signed digest too.

A file that was changed ends the load. No other variant takes the place of the one that it is part
of. A directory that the release does not list is never read, and never loaded.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from aoti_build.artifact.bundle import layout
from aoti_build.artifact.bundle.opened import refuse_imports_from
from aoti_build.artifact.bundle.record import ReleasedTarget
from aoti_build.artifact.bundle.signed import SignedBundle, open_signed
from aoti_build.artifact.manifest import MODEL
from aoti_build.artifact.signing.refusals import ASK_SENDER, ListingMismatch
from aoti_build.artifact.signing.trust import TrustedKeys, read_trusted_keys, system_trusted_keys
from aoti_build.errors import ArtifactError, UsageError
from aoti_build.runtime.choose import (
    Candidate,
    Choice,
    directory_names,
    examined,
    ranked,
    unknown_artifact,
)
from aoti_build.runtime.package import Admitted, Verify, admit, require_verify
from aoti_build.runtime.request import Request, artifacts_directory, is_name, read_request

FilePath: TypeAlias = "str | os.PathLike[str]"
# Files or directories with public keys or certificates, keys that were read, or True for those that
# root trusts on this host.
Keys: TypeAlias = "FilePath | Sequence[FilePath] | TrustedKeys | bool"


@contextlib.contextmanager
def open_release(
    artifacts: FilePath | None,
    keys: Keys,
    min_version: str | None,
    verify: Verify,
) -> Iterator[SignedBundle]:
    """Open a release, and verify its signature.

    Raises as `aoti_build.load` with `require_signature`.
    """
    require_verify(verify)
    if verify == "off":
        raise UsageError(
            'verify="off" and require_signature exclude each other',
            cause="a signature says nothing of a package that is not compared",
            hint='use verify="full" or "stat"',
        )
    path = artifacts_directory(artifacts)
    # Libraries that verify signatures are imported below.
    refuse_imports_from(path)
    with open_signed(path, trusted_keys(keys, path), min_version) as signed:
        yield signed


def trusted_keys(keys: Keys, release: Path) -> TrustedKeys:
    """The keys in the value of `require_signature`. Raises `UsageError` if it names none."""
    if isinstance(keys, TrustedKeys):
        return keys
    if keys is True:
        return system_trusted_keys(release=release)
    paths = [keys] if isinstance(keys, str | os.PathLike) else keys
    # An empty setting is a slip. It must not mean that no signature is required.
    if not isinstance(paths, Sequence) or not paths or not all(map(_is_path, paths)):
        raise UsageError(
            f"require_signature is {repr(keys)[:80]}, which names no key",
            hint="give the path of a public key, a list of paths, or True for the keys in"
            " /etc/aoti_build/trusted-keys",
        )
    return read_trusted_keys([Path(os.path.abspath(path)) for path in paths], release=release)


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike) and bool(os.fspath(value))


def signed_choice(
    signed: SignedBundle,
    model: str,
    *,
    device: str | None = None,
    variant: str | None = None,
    device_index: int = 0,
) -> Choice:
    """Choose among the variants of `model` that the release lists.

    Others that lie beside them are among the candidates, with that as the reason against them.

    Raises:
        UsageError: the release has no such model or variant.
        ListingMismatch: a manifest is not the signed one, or the requested variant was not signed.
    """
    request = read_request(model, device, variant, device_index)
    unsigned = _unsigned_variants(signed, request.model)
    _require_listed(signed, request, unsigned)
    candidates = [_unsigned(signed, f"{request.model}/{name}") for name in unsigned]
    for released in signed.record.targets:
        if released.target.startswith(f"{request.model}/"):
            candidates.append(_candidate(signed, released, request))
    return Choice(request.model, signed.path, ranked(candidates), identity(signed))


def _require_listed(signed: SignedBundle, request: Request, unsigned: Sequence[str]) -> None:
    models: dict[str, list[str]] = {}
    for released in signed.record.targets:
        model, _, variant = released.target.partition("/")
        models.setdefault(model, []).append(variant)
    variants = models.get(request.model, [])
    if request.variant in unsigned or (not variants and unsigned):
        names = [request.variant] if request.variant else unsigned
        raise ListingMismatch(
            f"the files are not the signed ones; never signed: {', '.join(names)} of"
            f" {request.model}",
            where=str(signed.path),
            cause=f"the release has {', '.join(models)}",
            hint=ASK_SENDER,
        )
    if not variants or (request.variant and request.variant not in variants):
        raise unknown_artifact(signed.path, request, list(models), variants)


def _unsigned_variants(signed: SignedBundle, model: str) -> list[str]:
    """The directories of the model that the release does not list. Nothing in them is read."""
    unsigned = []
    for name in directory_names(signed.bundle.opened / layout.MODELS / model):
        # Other names cannot be requested, and may hide something on a terminal.
        if is_name(name) and signed.released(f"{model}/{name}") is None:
            unsigned.append(name)
    return unsigned


def _unsigned(signed: SignedBundle, target: str) -> Candidate:
    directory = signed.path / layout.artifact_path(target)
    return Candidate(target, directory, None, ("not signed: the release does not list it",))


def _candidate(signed: SignedBundle, released: ReleasedTarget, request: Request) -> Candidate:
    directory = signed.path / layout.artifact_path(released.target)
    candidate = Candidate(released.target, directory, None)
    candidate = candidate.rejected(*request.exclusions(candidate.variant))
    if not candidate.fits:
        # A receiver may have removed variants that no call requests.
        return candidate
    if not released.verification.passed:
        candidate = candidate.rejected("its release says that the comparison with eager failed")
    return examined(candidate, signed.manifest(released), request.device_index)


def identity(signed: SignedBundle) -> dict[str, Any]:
    """What `metadata["load"]["release"]` says of the release and its signer."""
    signer = signed.listing.signer
    until = signer.valid_until
    return {
        "name": signed.record.name,
        "version": signed.record.version,
        "signer": {
            "kind": signer.kind,
            "name": signer.name,
            "fingerprint": signer.fingerprint,
            "subject": signer.subject,
            "valid_until": until.isoformat() if until else None,
        },
    }


def admit_signed(signed: SignedBundle, best: Candidate, verify: Verify) -> Admitted:
    """Check the package of a candidate of `signed_choice`, in the directory that was opened.

    Raises:
        ListingMismatch: it is not the signed one.
        DirectoryError, ToolchainError: there is no place for a private copy.
    """
    assert best.manifest is not None  # a candidate that fits has a manifest
    folder = layout.artifact_path(best.target)
    try:
        return admit(best.directory, best.manifest, verify, signed=signed.bundle.opened / folder)
    except ArtifactError as error:
        raise ListingMismatch(
            f"the files are not the signed ones; changed since they were signed:"
            f" '{folder}/{MODEL}'",
            target=best.target,
            where=str(signed.path),
            cause=error.cause,
            hint=ASK_SENDER,
        ) from error
