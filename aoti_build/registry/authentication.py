"""Answers the challenge of a registry, by Basic or by a token of the service that it names.

The protocol is that of distribution's token authentication and of RFC 6750. A token lasts minutes
and is kept in memory only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlencode, urlsplit

from aoti_build.common.fields import loads
from aoti_build.errors import NetworkError, UsageError
from aoti_build.registry.credentials import PASSWORD, USER, Credentials, find_credentials
from aoti_build.registry.reference import Reference, is_this_host
from aoti_build.registry.transport import Answer, PassingError, Transport

_CLIENT = "aoti_build"
_TOKEN_LIMIT = 1 << 20  # bytes
_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)=(?:"([^"\\]*)"|([^\s,"]+))')
_HEADER_VALUE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class _Challenge:
    """What a registry asks for: ``basic`` or ``bearer``, with parameters."""

    scheme: str
    parameters: Mapping[str, str]


class Authentication:
    """The ``Authorization`` header of one command, which a challenge changes.

    `actions` is what it wants to do in the repository, such as ``pull,push``. A login that is
    `insecure` may be sent without encryption.
    """

    def __init__(
        self, transport: Transport, reference: Reference, actions: str, *, insecure: bool
    ) -> None:
        self._transport = transport
        self._reference = reference
        self._scope = f"repository:{reference.repository}:{actions}"
        self._insecure = insecure
        self._credentials: Credentials | None = None
        self._has_looked = False
        self.header: str | None = None

    def answer(self, answer: Answer) -> None:
        """Get the header that an answer with status 401 asks for.

        Raises:
            UsageError: the credentials are refused, unusable, or missing.
            NetworkError: the registry asks for something that is not known here.
            PassingError: the service of tokens cannot be reached.
        """
        credentials = self._find()
        challenges = _challenges(answer.headers.get_all("WWW-Authenticate") or [])
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                self.header = f"Bearer {self._token(challenge.parameters, credentials)}"
                return
        for challenge in challenges:
            if challenge.scheme == "basic":
                if credentials is None or not credentials.password:
                    raise self.refused(401)
                self.header = credentials.basic()
                return
        raise NetworkError(
            "the registry asks for a kind of login that is not known here",
            where=str(self._reference),
            cause="it offers neither Basic nor Bearer",
            hint="name a registry that offers one of them",
        )

    def refused(self, status: int) -> UsageError:
        """The error of a registry that refuses access."""
        credentials = self._find()
        host = self._reference.host
        if credentials is None:
            cause = f"it answered {status}, and there are no credentials for {host}"
        else:
            cause = f"it answered {status} to the credentials for {host}"
        return UsageError(
            "the registry refuses access",
            where=str(self._reference),
            cause=cause,
            hint=f"see that the name of the repository is right, then `docker login {host}`, or set"
            f" {USER} and {PASSWORD}",
        )

    def without_secrets(self, text: str) -> str:
        """The text of a registry, which may repeat what it was sent."""
        secrets = [(self.header or "").partition(" ")[2]]
        if self._credentials is not None:
            secrets.append(self._credentials.basic().partition(" ")[2])
            secrets += [self._credentials.password, self._credentials.identity_token]
        for secret in secrets:
            if secret:
                text = text.replace(secret, "***")
        return text

    def _find(self) -> Credentials | None:
        if not self._has_looked:
            self._credentials = find_credentials(self._reference.host)
            self._has_looked = True
        return self._credentials

    def _token(self, parameters: Mapping[str, str], credentials: Credentials | None) -> str:
        """A new token from the service that the challenge names."""
        realm = self._checked_realm(parameters["realm"])
        query = {"scope": parameters.get("scope") or self._scope}
        if "service" in parameters:
            query["service"] = parameters["service"]
        headers: dict[str, str] = {}
        method, url, body = "GET", f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}", None
        if credentials is not None and credentials.identity_token:
            method, url = "POST", realm
            query["grant_type"] = "refresh_token"
            query["refresh_token"] = credentials.identity_token
            query["client_id"] = _CLIENT
            body = urlencode(query).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        elif credentials is not None:
            headers["Authorization"] = credentials.basic()
        with self._transport.send(method, url, headers, body) as answer:
            if answer.status in (400, 401, 403):
                raise self.refused(answer.status)
            content = answer.read(_TOKEN_LIMIT)
            return _token_in(content, answer.status)

    def _checked_realm(self, realm: str) -> str:
        """The address of the service of tokens. It gets the password, so it must be encrypted."""
        try:
            parts = urlsplit(realm)
            is_complete = bool(parts.hostname) and parts.port != 0
        except ValueError:  # of a port that is none, too
            is_complete = False
        if not is_complete or "@" in parts.netloc or not self._may_have_login(parts):
            raise NetworkError(
                "the registry names a service of tokens that is not asked",
                where=str(self._reference),
                cause="its address must begin with https:// and have no user",
                hint="ask whoever runs the registry",
            )
        return realm

    def _may_have_login(self, place: SplitResult) -> bool:
        """Whether the login may be sent to a place. A plain registry of this host may have a plain
        service of tokens on this host, and nowhere else."""
        if place.scheme == "https":
            return True
        is_inside = self._reference.is_on_this_host and is_this_host(place.hostname or "")
        return place.scheme == "http" and (self._insecure or is_inside)


def _challenges(headers: list[str]) -> list[_Challenge]:
    challenges = []
    for header in headers:
        scheme, _, rest = header.strip().partition(" ")
        parameters = {name.lower(): quoted or plain for name, quoted, plain in _found(rest)}
        challenges.append(_Challenge(scheme.lower(), parameters))
    return challenges


def _found(text: str) -> list[tuple[str, str, str]]:
    return _PARAMETER.findall(text)


def _token_in(content: bytes, status: int) -> str:
    try:
        document = loads(content)
    except ValueError:
        document = None
    if isinstance(document, dict):
        for name in ("token", "access_token"):
            token = document.get(name)
            # A line break would begin another header.
            if isinstance(token, str) and _HEADER_VALUE.fullmatch(token):
                return token
    raise PassingError(f"the service of tokens answered {status} without a token")
