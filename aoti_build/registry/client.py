"""The operations on one repository of a registry, by the OCI distribution specification 1.1."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, urlencode, urljoin, urlsplit

from aoti_build.common.digests import digest_bytes, digest_file
from aoti_build.common.fields import loads
from aoti_build.errors import AotiBuildError, ArtifactError, NetworkError, UsageError
from aoti_build.registry.authentication import Authentication
from aoti_build.registry.credentials import DOCKER_HUB
from aoti_build.registry.oci_manifest import MANIFEST_LIMIT, MEDIA_TYPE, ReleaseLayer
from aoti_build.registry.reference import Reference
from aoti_build.registry.transport import Answer, Body, PassingError, Transport, persistently

PULL = "pull"
PUSH = "pull,push"
_DOCKER_HUB_API = "registry-1.docker.io"
_PIECE = 1 << 20  # bytes of one read
_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MESSAGE_LIMIT = 1 << 16  # bytes of an error that is read
_LONGEST_MESSAGE = 300  # characters of one that is shown
_BINARY = {"Content-Type": "application/octet-stream"}


class Registry:
    """A repository of a registry.

    It is asked over https, and over http if it runs on this host or is `insecure`. `actions` is
    `PULL` or `PUSH`. All methods raise:
        UsageError: the registry refuses access.
        NetworkError: the registry cannot be reached, or fails.
    """

    def __init__(self, reference: Reference, actions: str, *, insecure: bool = False) -> None:
        self._reference = reference
        self._where = str(reference)
        self._is_plain = insecure or reference.is_on_this_host
        host = _DOCKER_HUB_API if reference.host == DOCKER_HUB else reference.host
        scheme = "http" if self._is_plain else "https"
        self._base = f"{scheme}://{host}/v2/{reference.repository}/"
        self._transport = Transport(is_local=reference.is_on_this_host)
        self._authentication = Authentication(
            self._transport, reference, actions, insecure=insecure
        )

    def manifest(self, name: str) -> bytes | None:
        """The manifest with this tag or digest; None if there is none.

        Raises `ArtifactError` if it has another digest than the registry or `name` says, or is too
        large.
        """
        url = self._url(f"manifests/{name}")

        def work() -> bytes | None:
            with self._send("GET", url, {"Accept": MEDIA_TYPE}) as answer:
                if answer.status == 404:
                    return None
                self._require(answer, 200)
                content = answer.read(MANIFEST_LIMIT + 1)
                expected = [answer.headers.get("Docker-Content-Digest"), name]
                self._check_manifest(content, [text for text in expected if text])
                return content

        return persistently(work, "reading the manifest", self._where)

    def has_blob(self, sha256: str) -> bool:
        """Whether the repository has a blob already."""
        url = self._url(f"blobs/sha256:{sha256}")

        def work() -> bool:
            with self._send("HEAD", url) as answer:
                if answer.status == 404:
                    return False
                self._require(answer, 200)
                return True

        return persistently(work, "asking for a file", self._where)

    def upload_blob(self, sha256: str, body: Body) -> None:
        """Upload a blob, in one piece. The registry compares its digest before it keeps it."""

        def work() -> None:
            with self._send("POST", self._url("blobs/uploads/"), body=b"") as answer:
                self._require(answer, 202)
                place = self._location(answer, self._url("blobs/uploads/"))
            query = urlencode({"digest": f"sha256:{sha256}"})
            url = f"{place}{'&' if urlsplit(place).query else '?'}{query}"
            with self._send("PUT", url, _BINARY, body) as answer:
                if answer.status == 400:
                    _require_unchanged(body, sha256)
                self._require(answer, 201)

        persistently(work, "the upload", self._where)

    def upload_manifest(self, content: bytes, tag: str) -> str:
        """Give a tag to a manifest whose blobs are all there, and return its digest."""
        digest = f"sha256:{digest_bytes(content)}"

        def work() -> None:
            url = self._url(f"manifests/{tag}")
            with self._send("PUT", url, {"Content-Type": MEDIA_TYPE}, content) as answer:
                self._require(answer, 201)
                stored = answer.headers.get("Docker-Content-Digest") or digest
                if stored != digest:
                    raise self._altered(f"it stored {stored[:80]} in place of {digest}")

        persistently(work, "the upload of the manifest", self._where)
        return digest

    def download(self, layer: ReleaseLayer, path: Path) -> None:
        """Write a file of a release to a new file. Its size and digest are compared on the way.

        Raises:
            ArtifactError: the registry has no such file, or other bytes.
            OSError: the file cannot be written.
        """
        url = self._url(f"blobs/sha256:{layer.sha256}")

        def work() -> None:
            with self._send("GET", url) as answer:
                if answer.status == 404:
                    raise self._altered(f"it lacks {layer.path}, which the manifest lists")
                self._require(answer, 200)
                self._write(answer, layer, path)

        persistently(work, "the download", self._where)

    def _write(self, answer: Answer, layer: ReleaseLayer, path: Path) -> None:
        state = hashlib.sha256()
        remaining = layer.size
        # An earlier attempt may have left a part.
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            while remaining:
                piece = answer.read(min(remaining, _PIECE))
                if not piece:
                    raise self._short(answer, layer, layer.size - remaining)
                state.update(piece)
                file.write(piece)
                remaining -= len(piece)
        if answer.read(1):
            raise self._altered(f"{layer.path} has more than the {layer.size} bytes of its entry")
        if state.hexdigest() != layer.sha256:
            raise self._altered(
                f"{layer.path} has the sha256 {state.hexdigest()}, and its entry {layer.sha256}"
            )

    def _short(self, answer: Answer, layer: ReleaseLayer, received: int) -> Exception:
        """The error of a body that ended too early: because the connection broke, or because the
        registry has less."""
        text = f"{received} of the {layer.size} bytes of {layer.path} arrived"
        if answer.headers.get("Content-Length") == str(received):
            return self._altered(text)
        return PassingError(text)

    @contextlib.contextmanager
    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> Iterator[Answer]:
        """One request, with a login if the registry asks for one, and to where it redirects a
        read."""
        has_logged_in = False
        redirects = 0
        while True:
            sent = dict(headers or {})
            is_registry = _origin(url) == _origin(self._base)
            # Storage behind a registry is another service, and gets no token of it.
            if is_registry and self._authentication.header is not None:
                sent["Authorization"] = self._authentication.header
            with self._transport.send(method, url, sent, body) as answer:
                if answer.status == 401 and is_registry and not has_logged_in:
                    has_logged_in = True
                    self._authentication.answer(answer)
                    continue
                if answer.status in _REDIRECTS and method in ("GET", "HEAD"):
                    redirects += 1
                    if redirects > _MOST_REDIRECTS:
                        raise self._failed("it redirects without an end")
                    url = self._location(answer, url)
                    continue
                yield answer
                return

    def _location(self, answer: Answer, base: str) -> str:
        """Where an answer leads to. An encrypted registry must not lead to what is not."""
        text = answer.headers.get("Location") or ""
        try:
            url = urljoin(base, text)
            parts = urlsplit(url)
            is_complete = bool(parts.hostname) and parts.port != 0
        except ValueError:  # of a port that is none, too
            is_complete = False
        schemes = ("https", "http") if self._is_plain else ("https",)
        if not text or not is_complete or parts.scheme not in schemes or "@" in parts.netloc:
            raise self._failed("it leads to an address that is not asked, or to none")
        return url

    def _require(self, answer: Answer, status: int) -> None:
        """Raise an error unless the answer has this status."""
        if answer.status == status:
            return
        if answer.status in (401, 403):
            raise self._authentication.refused(answer.status)
        text = self._authentication.without_secrets(_registry_message(answer))
        if answer.status == 404:
            raise UsageError(
                "the registry has no such repository",
                where=self._where,
                cause=text,
                hint="see that the name is right; some registries want a repository to be created"
                " first",
            )
        raise self._failed(text)

    def _check_manifest(self, content: bytes, names: list[str]) -> None:
        if len(content) > MANIFEST_LIMIT:
            raise self._altered(f"its manifest has more than {MANIFEST_LIMIT} bytes")
        digest = f"sha256:{digest_bytes(content)}"
        for name in names:
            if name.startswith("sha256:") and name != digest:
                raise self._altered(f"its manifest has the digest {digest}, and not {name[:80]}")

    def _url(self, path: str) -> str:
        return self._base + quote(path, safe="/:")

    def _failed(self, cause: str) -> NetworkError:
        return NetworkError(
            "the registry does not do what was asked",
            where=self._where,
            cause=cause,
            hint="ask whoever runs the registry, or try again later",
        )

    def _altered(self, cause: str) -> AotiBuildError:
        return ArtifactError(
            "the registry has other bytes than the release",
            where=self._where,
            cause=cause,
            hint="push the release again, or pull it from another registry",
        )


def _require_unchanged(body: Body, sha256: str) -> None:
    if isinstance(body, Path) and digest_file(body) != sha256:
        raise ArtifactError(
            "a file of the release was changed while it was uploaded",
            where=str(body),
            hint="make the release again, and push that one",
        )


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _registry_message(answer: Answer) -> str:
    """What a registry says of a failure, as the distribution specification has it."""
    said = f"it answered {answer.status}"
    try:
        document = loads(answer.read(_MESSAGE_LIMIT))
        error = document["errors"][0]
        text = f"{error['code']}: {error.get('message', '')}"
    except (PassingError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return said
    return f"{said}: {text[:_LONGEST_MESSAGE]}"
