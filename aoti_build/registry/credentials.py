"""Who the user is to a registry: from the environment, or from docker's configuration.

docs/how-to/registry.md says in which order. Nothing here is ever printed.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aoti_build.common.fields import loads
from aoti_build.common.json_object import JsonObject
from aoti_build.common.reading import TEXT_LIMIT, read_bytes
from aoti_build.common.secrets import REGISTRY_PASSWORD
from aoti_build.errors import UsageError

USER = "AOTI_BUILD_REGISTRY_USER"
PASSWORD = REGISTRY_PASSWORD
# The name that docker gives to its own registry.
DOCKER_HUB = "docker.io"
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_SECONDS = 60
# What helpers answer if they know nothing of a registry.
_UNKNOWN = b"credentials not found"
# The user of an identity token, in place of a name.
_TOKEN_USER = "<token>"  # noqa: S105 - no secret


@dataclass(frozen=True)
class Credentials:
    """A user with a password, or an identity token that a registry gave out for one."""

    user: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)

    def basic(self) -> str:
        """The value of an ``Authorization`` header."""
        text = f"{self.user}:{self.password}".encode()
        return f"Basic {base64.b64encode(text).decode()}"


def find_credentials(host: str) -> Credentials | None:
    """The credentials for a registry, whose host may have a port. None if there are none.

    Raises `UsageError` if docker's configuration or a helper cannot be used, or if one of the two
    variables is set alone.
    """
    user, password = os.environ.get(USER, ""), os.environ.get(PASSWORD, "")
    if user and password:
        return Credentials(user, password)
    if user or password:
        missing = PASSWORD if user else USER
        raise UsageError(
            f"{missing} is not set, and {USER if user else PASSWORD} is",
            hint="set both variables or neither",
        )
    file = _configuration_file()
    if file is None:
        return None
    return _from_configuration(_read(file), file, host)


def _configuration_file() -> Path | None:
    directory = os.environ.get("DOCKER_CONFIG", "")
    try:
        path = Path(directory) if directory else Path.home() / ".docker"
    except RuntimeError:  # this user has no home
        return None
    file = path / "config.json"
    return file if file.exists() else None


def _read(file: Path) -> JsonObject:
    try:
        document = loads(read_bytes(file, TEXT_LIMIT))
    except (OSError, ValueError) as error:
        # The text of a parser's error may quote the file.
        cause = error.strerror if isinstance(error, OSError) else "it is no valid JSON"
        raise _unusable(file, cause or "it cannot be read") from None
    if not isinstance(document, dict):
        raise _unusable(file, "it is no JSON object")
    return document


def _from_configuration(document: JsonObject, file: Path, host: str) -> Credentials | None:
    helpers = document.get("credHelpers") or {}
    entries = document.get("auths") or {}
    if not isinstance(helpers, dict) or not isinstance(entries, dict):
        raise _unusable(file, "credHelpers and auths must be JSON objects")
    keys = _keys_of(host)
    for key in keys:
        if key in helpers:
            return _from_helper(helpers[key], key, file)
    store = document.get("credsStore")
    if store:
        for key in keys:
            found = _from_helper(store, key, file)
            if found is not None:
                return found
    for key in keys:
        entry = entries.get(key)
        if isinstance(entry, dict) and entry:
            return _from_entry(entry, key, file)
    return None


def _keys_of(host: str) -> tuple[str, ...]:
    """The names that the configuration may have for a registry."""
    if host == DOCKER_HUB:
        return (_DOCKER_HUB_KEY, host)
    return (host, f"https://{host}")


def _from_entry(entry: Mapping[str, object], key: str, file: Path) -> Credentials | None:
    """The credentials in an entry of ``auths``. None if it has none, as beside a helper."""
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Credentials(_TOKEN_USER, "", identity_token=token)
    text = entry.get("auth")
    if not text:
        return None
    try:
        user, colon, password = base64.b64decode(str(text), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = ""
    if not colon:
        raise _unusable(file, f"auth of {key} is not user:password in Base64")
    # docker itself leaves zero bytes at the end of some.
    return Credentials(user, password.rstrip("\0"))


def _from_helper(name: object, key: str, file: Path) -> Credentials | None:
    """What the program ``docker-credential-NAME`` knows. None if that is nothing."""
    if not isinstance(name, str) or not _HELPER_NAME.fullmatch(name):
        raise _unusable(file, f"the helper for {key} has no name of a program")
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=key.encode(),
            capture_output=True,
            timeout=_HELPER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        # The output of a helper has a password, so it is in no message.
        cause = error.strerror if isinstance(error, OSError) else "it did not end"
        raise _helper_failed(program, key, cause or "it cannot be started") from None
    if done.returncode != 0:
        if _UNKNOWN in done.stdout.lower() or _UNKNOWN in done.stderr.lower():
            return None
        raise _helper_failed(program, key, f"it ended with {done.returncode}")
    try:
        answer = json.loads(done.stdout)
        user, secret = answer["Username"], answer["Secret"]
    except (ValueError, TypeError, KeyError):
        raise _helper_failed(program, key, "its answer has no Username and Secret") from None
    if user == _TOKEN_USER:
        return Credentials(_TOKEN_USER, "", identity_token=str(secret))
    return Credentials(str(user), str(secret))


def _unusable(file: Path, cause: str) -> UsageError:
    return UsageError(
        "docker's configuration cannot be used",
        where=str(file),
        cause=cause,
        hint=f"correct it, or set {USER} and {PASSWORD}",
    )


def _helper_failed(program: str, key: str, cause: str) -> UsageError:
    return UsageError(
        f"{program} does not give credentials for {key}",
        cause=cause,
        hint=f"log in again, or set {USER} and {PASSWORD}",
    )
