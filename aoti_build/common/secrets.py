"""Environment variables with secrets of the command itself, which its workers do not get.

Workers run the code of models and of packages. What they read from the environment is recorded in
manifests by digest, and a short password can be guessed from its digest.
"""

from __future__ import annotations

from collections.abc import Mapping

REGISTRY_PASSWORD = "AOTI_BUILD_REGISTRY_PASSWORD"  # noqa: S105 - the name of a variable
_secret = {REGISTRY_PASSWORD}


def withhold(variable: str) -> None:
    """Keep a variable from all processes that are started later."""
    _secret.add(variable)


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """A copy of an environment, for a process that runs code of others."""
    return {name: value for name, value in environment.items() if name not in _secret}
