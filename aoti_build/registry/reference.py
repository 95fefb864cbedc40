"""Addresses of releases in registries: ``oci://host[:port]/repository:tag`` or ``...@sha256:...``.

The grammar is that of the OCI distribution specification 1.1.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace

from aoti_build.errors import UsageError

PREFIX = "oci://"
_FORM = "oci://registry.example.org/team/models:1.4.0"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::([0-9]{{1,5}}))?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST_REPOSITORY = 255
_LONGEST_HOST = 253
_LAST_PORT = 65535


@dataclass(frozen=True)
class Reference:
    """A release in a registry.

    Attributes:
        host: the registry, with its port if the address has one.
        repository: such as ``team/models``.
        tag: None if the address has none.
        digest: of the manifest, as ``sha256:`` with 64 hex digits. None if the address has none.
    """

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{PREFIX}{self.host}/{self.repository}{tag}{digest}"

    def pinned(self, digest: str) -> Reference:
        """The same release by the digest of its manifest alone."""
        return replace(self, tag=None, digest=digest)

    @property
    def is_on_this_host(self) -> bool:
        """Whether the registry runs on this machine."""
        return is_this_host(self.host_name)

    @property
    def host_name(self) -> str:
        """The host without its port and without brackets."""
        if self.host.startswith("["):
            return self.host[1:].partition("]")[0]
        return self.host.partition(":")[0].lower()


def is_this_host(name: str) -> bool:
    """Whether the name of a host, in small letters and without a port, is this machine's."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def parse_reference(text: str) -> Reference:
    """The address in a text. Raises `UsageError` unless it is one, with a tag or a digest."""
    if not text.startswith(PREFIX):
        raise _wrong(text, f"it does not begin with {PREFIX}")
    host, _, path = text.removeprefix(PREFIX).partition("/")
    if "@" in host:
        # The text is not repeated: there may be a password in it.
        raise UsageError(
            "the address of a registry must not contain a user or a password",
            hint="let `docker login` store them, or set AOTI_BUILD_REGISTRY_USER and"
            " AOTI_BUILD_REGISTRY_PASSWORD",
        )
    path, at, digest = path.partition("@")
    repository, colon, tag = path.partition(":")
    if not _is_host(host):
        raise _wrong(text, "its host is not one")
    if not _REPOSITORY.fullmatch(repository) or len(repository) > _LONGEST_REPOSITORY:
        raise _wrong(text, "the name of a repository has small letters, digits and . _ - /")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(text, "a tag has up to 128 letters, digits and . _ -")
    if at and not _DIGEST.fullmatch(digest):
        raise _wrong(text, "a digest is sha256: and 64 hex digits in small letters")
    if not colon and not at:
        raise _wrong(text, "it has neither a tag nor a digest")
    return Reference(host, repository, tag or None, digest or None)


def _is_host(text: str) -> bool:
    match = _HOST.fullmatch(text)
    if match is None or len(text) > _LONGEST_HOST:
        return False
    return match[1] is None or 0 < int(match[1]) <= _LAST_PORT


def _wrong(text: str, cause: str) -> UsageError:
    return UsageError(
        f"{text[:300]!r} is not the address of a release in a registry",
        cause=cause,
        hint=f"write it as {_FORM}",
    )
