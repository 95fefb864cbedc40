"""Single HTTP requests, and the repetition of work that failed for a passing reason."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias, TypeVar

from aoti_build import __version__
from aoti_build.errors import NetworkError

# Seconds before the second, third and fourth attempt.
DELAYS = (0.5, 1.0, 2.0)
_LONGEST_WAIT = 30.0  # seconds, whatever a registry asks for
_TIMEOUT = 60.0  # seconds without any progress
# Answers that may be another one a little later: RFC 9110 and RFC 6585.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})

Body: TypeAlias = bytes | Path
ResultT = TypeVar("ResultT")


class PassingError(Exception):
    """A failure that may be gone at the next attempt.

    `wait` has the seconds that the other side asked to wait.
    """

    def __init__(self, cause: str, wait: float = 0.0) -> None:
        super().__init__(cause)
        self.wait = wait


class Stream(Protocol):
    """The body of an answer."""

    def read(self, amount: int = -1, /) -> bytes: ...

    def close(self) -> object: ...


@dataclass(frozen=True)
class Answer:
    """The answer to one request, whatever its status is."""

    status: int
    headers: Message
    body: Stream

    def read(self, limit: int) -> bytes:
        """At most `limit` bytes of the body. Raises `PassingError` if the connection breaks."""
        pieces = []
        while limit > 0:
            try:
                piece = self.body.read(limit)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise PassingError(f"the connection broke: {_text(error)}") from error
            if not piece:
                break
            pieces.append(piece)
            limit -= len(piece)
        return b"".join(pieces)


class _EveryAnswer(urllib.request.HTTPErrorProcessor):
    """Gives out every answer. `client` decides what a redirect or a failure means."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:  # noqa: ARG002
        return response

    https_response = http_response


class Transport:
    """Sends requests. `is_local` keeps those to this machine away from proxies."""

    def __init__(self, *, is_local: bool) -> None:
        handlers: list[urllib.request.BaseHandler] = [_EveryAnswer()]
        if is_local:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    @contextlib.contextmanager
    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None = None,
    ) -> Iterator[Answer]:
        """Send one request to an http or https URL, and give out its answer.

        The file of a body that is a path is sent as it is read. Raises:
            PassingError: there was no answer, or one that says that it may pass.
            NetworkError: the certificate of the other side is not trusted.
        """
        with contextlib.ExitStack() as resources:
            data: bytes | IO[bytes] | None = None
            length: Mapping[str, str] = {}
            if isinstance(body, Path):
                data = resources.enter_context(body.open("rb"))
                length = {"Content-Length": str(body.stat().st_size)}
            elif body is not None:
                data = body
                length = {"Content-Length": str(len(body))}
            request = urllib.request.Request(  # noqa: S310 - callers check the scheme
                url,
                data=data,
                headers={"User-Agent": f"aoti_build/{__version__}", **headers, **length},
                method=method,
            )
            answer = self._answer(request)
            resources.callback(answer.body.close)
            if answer.status in _PASSING:
                raise PassingError(f"it answered {answer.status}", _asked_wait(answer.headers))
            yield answer

    def _answer(self, request: urllib.request.Request) -> Answer:
        try:
            response = self._opener.open(request, timeout=_TIMEOUT)
        except urllib.error.URLError as error:
            reason = error.reason
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise _untrusted(request.host, reason) from error
            raise PassingError(_text(reason)) from error
        # A ValueError is an address that a registry named and that is none.
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PassingError(_text(error)) from error
        return Answer(response.status, response.headers, response)


def persistently(work: Callable[[], ResultT], what: str, where: str) -> ResultT:
    """The result of `work`, which is done again after a `PassingError`, four times in all.

    Raises `NetworkError` after the last. `what` is work that failed, such as "the upload".
    """
    cause: PassingError | None = None
    for delay in (*DELAYS, None):
        try:
            return work()
        except PassingError as error:
            cause = error
            if delay is not None:
                time.sleep(max(delay, error.wait))
    raise NetworkError(
        f"{what} failed {len(DELAYS) + 1} times",
        where=where,
        cause=str(cause),
        hint="see that the registry runs and that this host can reach it, then run the command"
        " again",
    ) from cause


def _asked_wait(headers: Message) -> float:
    """The seconds in ``Retry-After``. 0 without one, and for a date."""
    text = (headers.get("Retry-After") or "").strip()
    if not text.isascii() or not text.isdecimal() or len(text) > 6:
        return 0.0
    return min(float(text), _LONGEST_WAIT)


def _text(error: object) -> str:
    return str(error) or type(error).__name__


def _untrusted(host: str, error: ssl.SSLCertVerificationError) -> NetworkError:
    return NetworkError(
        "the certificate of the registry is not trusted",
        where=host,
        cause=error.verify_message,
        hint="let SSL_CERT_FILE name a PEM file with the authority that issued it",
    )
