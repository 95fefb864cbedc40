"""A registry in this process, by the OCI distribution specification, with faults on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from aoti_build.artifact.bundle.record import ReleaseFile, ReleaseRecord, Source, release_json

TOKEN = "the-token"
USER, PASSWORD = "me", "a-secret-password"
MODEL = "models/first/cpu/model.pt2"
FILES = {
    MODEL: b"code" * 1000,
    "models/second/cpu/model.pt2": b"code" * 1000,
    "models/first/cpu/manifest.json": b"{}",
    "NOTES.md": b"notes",
}
REPOSITORY = "team/models"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def write_release(
    directory: Path, files: Mapping[str, bytes] = FILES, *, modes: Mapping[str, str] | None = None
) -> Path:
    """The directory of a release as a push and a pull read it: files and their record."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    recorded = {
        name: ReleaseFile(
            hashlib.sha256(content).hexdigest(), len(content), (modes or {}).get(name, "644")
        )
        for name, content in files.items()
    }
    record = ReleaseRecord(
        name="shop",
        version="1.4.0",
        created="2026-01-02T03:04:05Z",
        aoti_build="0.1.0",
        source=Source("a" * 40, dirty=False, repository="https://example.org/us/shop"),
        targets=(),
        files=recorded,
    )
    (directory / "release.json").write_text(json.dumps(release_json(record)))
    (directory / "SHA256SUMS").write_text("sums\n")
    return directory


@dataclass(frozen=True)
class Reply:
    """An answer in place of the usual one. `length` is the announced length of the body."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None


# Gets each request. None stands for the usual answer.
Fault = Callable[["Call"], "Reply | None"]


@dataclass(frozen=True)
class Call:
    """A request that the registry got."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class FakeRegistry:
    """Blobs by digest, manifests by tag or digest, and what was asked for."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.calls: list[Call] = []
        self.fault: Fault = lambda call: None
        self.login = ""  # basic or bearer
        self.port = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def address(self, name: str = ":1.4.0") -> str:
        return f"oci://{self.host}/{REPOSITORY}{name}"

    def made(self, method: str, pattern: str) -> list[Call]:
        """The requests with this method whose path has the pattern."""
        found = [call for call in self.calls if call.method == method]
        return [call for call in found if re.search(pattern, call.path)]

    def answer(self, call: Call) -> Reply:
        self.calls.append(call)
        reply = self.fault(call) or self._refusal(call)
        return reply or self._usual(call)

    def _refusal(self, call: Call) -> Reply | None:
        """The challenge for a request without a login."""
        if not self.login or call.path.startswith("/token"):
            return None
        basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.login == "basic":
            if call.headers.get("Authorization") == f"Basic {basic}":
                return None
            return Reply(401, headers={"WWW-Authenticate": 'Basic realm="fake"'})
        if call.headers.get("Authorization") == f"Bearer {TOKEN}":
            return None
        realm = f"http://{self.host}/token"
        challenge = f'Bearer realm="{realm}",service="fake",scope="repository:{REPOSITORY}:pull"'
        return Reply(401, headers={"WWW-Authenticate": challenge})

    def _usual(self, call: Call) -> Reply:
        path = urlsplit(call.path).path
        rest = path.removeprefix(f"/v2/{REPOSITORY}/")
        if path == "/token":
            return self._token(call)
        if rest == "blobs/uploads/" and call.method == "POST":
            # A relative place, which the specification allows.
            return Reply(202, headers={"Location": f"/v2/{REPOSITORY}/blobs/uploads/1?state=a%2Fb"})
        if rest == "blobs/uploads/1" and call.method == "PUT":
            return self._put_blob(call)
        if rest.startswith("blobs/"):
            content = self.blobs.get(rest.removeprefix("blobs/"))
            return _not_found("BLOB_UNKNOWN") if content is None else Reply(200, content)
        if rest.startswith("manifests/"):
            return self._manifest(call, rest.removeprefix("manifests/"))
        return _not_found("NAME_UNKNOWN")

    def _token(self, call: Call) -> Reply:
        expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if call.method == "POST":
            is_known = b"refresh_token=identity" in call.body
        else:
            is_known = call.headers.get("Authorization") == f"Basic {expected}"
        if not is_known:
            return Reply(401)
        return Reply(200, json.dumps({"token": TOKEN}).encode())

    def _put_blob(self, call: Call) -> Reply:
        query = parse_qs(urlsplit(call.path).query)
        (digest,) = query["digest"]
        assert query["state"] == ["a/b"]
        if digest_of(call.body) != digest:
            return _failure(400, "DIGEST_INVALID")
        self.blobs[digest] = call.body
        return Reply(201)

    def _manifest(self, call: Call, name: str) -> Reply:
        if call.method == "PUT":
            for layer in json.loads(call.body)["layers"]:
                if layer["digest"] not in self.blobs:
                    return _failure(400, "MANIFEST_BLOB_UNKNOWN")
            self.keep(call.body, name)
            return Reply(201, headers={"Docker-Content-Digest": digest_of(call.body)})
        content = self.manifests.get(name)
        if content is None:
            return _not_found("MANIFEST_UNKNOWN")
        return Reply(200, content, {"Docker-Content-Digest": digest_of(content)})

    def keep(self, manifest: bytes, name: str = "1.4.0") -> None:
        self.manifests[name] = self.manifests[digest_of(manifest)] = manifest


def _not_found(code: str) -> Reply:
    return _failure(404, code)


def _failure(status: int, code: str) -> Reply:
    errors = {"errors": [{"code": code, "message": "it is so"}]}
    return Reply(status, json.dumps(errors).encode())


@contextmanager
def running_registry(encryption: ssl.SSLContext | None = None) -> Iterator[FakeRegistry]:
    """A registry that answers on this host, over https if there is an encryption."""
    registry = FakeRegistry()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            reply = registry.answer(Call(self.command, self.path, dict(self.headers), body))
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            length = len(reply.body) if reply.length is None else reply.length
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815 - http.server calls these

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if encryption is not None:
        server.socket = encryption.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # of clients that hang up
    registry.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
