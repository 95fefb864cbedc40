"""The libraries that compute signatures, which the extras ``sign`` and ``sigstore`` install."""

from __future__ import annotations

from aoti_build.errors import ToolchainError


def require_cryptography() -> None:
    """Raise `ToolchainError` if cryptography is not installed or cannot be imported."""
    try:
        import cryptography.hazmat.primitives.asymmetric.ec
        import cryptography.x509  # noqa: F401 - both need the compiled part
    except ImportError as error:
        raise ToolchainError(
            "signatures need the package cryptography",
            cause=str(error),
            hint="pip install 'aoti_build[sign]'",
        ) from error


def require_sigstore() -> None:
    """Raise `ToolchainError` if sigstore is not installed or cannot be imported."""
    try:
        import sigstore.sign
        import sigstore.verify  # noqa: F401 - with all that it is built on
    except ImportError as error:
        raise ToolchainError(
            "keyless signatures need the package sigstore",
            cause=str(error),
            hint="pip install 'aoti_build[sigstore]'",
        ) from error
