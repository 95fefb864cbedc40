"""Published test vectors of OpenSSF Model Signing, from a checkout of its conformance suite.

AOTI_BUILD_OMS_VECTORS names the checkout of https://github.com/sampras343/model-signing-conformance.
Its cases are not part of this repository. Those of keyless signatures were made with the public
instance of Sigstore, and are verified without a network. They need the extra ``sigstore``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from aoti_build.artifact.signing.compare import compare_directory
from aoti_build.artifact.signing.keyless import read_trusted_identity
from aoti_build.artifact.signing.trust import read_trusted_keys
from aoti_build.artifact.signing.verify import (
    SignedListing,
    Trusted,
    read_signature,
    verify_signature,
)
from aoti_build.errors import SignatureError

CHECKOUT = os.environ.get("AOTI_BUILD_OMS_VECTORS")
pytestmark = pytest.mark.skipif(not CHECKOUT, reason="AOTI_BUILD_OMS_VECTORS names no checkout")
SUITE = Path(CHECKOUT or "/nonexistent", "test")
DEFAULT_KEY = "keys/certificate/signing-key-pub.pem"
# Accepted by the suite and refused here: the layout of v0.2, and the name "." of a model that is
# one file, as tools before 1.0.1 wrote it.
REFUSED_HERE = (
    "v0.2.0",
    "historical-v0.3.1-elliptic-key",
    "historical-v1.0.0-elliptic-key",
)


def cases(kind: str) -> list[Path]:
    return sorted(
        file.parent for file in (SUITE / "test-cases/verify" / kind).glob("*/config.json")
    )


def name_of(case: Path) -> str:
    return case.name


def listing_of(case: Path, config: Any, place: Path) -> SignedListing:
    content = read_signature(case, signature_name="bundle.sig")
    return verify_signature(content, trusted_by(config["verify"], place))


def trusted_by(options: Any, place: Path) -> Trusted:
    if "identity" in options:
        if importlib.util.find_spec("sigstore") is None:
            pytest.skip("sigstore is not installed: pip install 'aoti_build[sigstore]'")
        return read_trusted_identity(options["identity"], options["identity_provider"])
    keys = []
    for name in options.get("cert_chain") or [options.get("public_key", DEFAULT_KEY)]:
        source = SUITE / "assets" / name
        copy = place / source.name
        # One case names a key that the suite does not have.
        shutil.copyfile(source if source.exists() else SUITE / "assets" / DEFAULT_KEY, copy)
        copy.chmod(0o644)
        keys.append(copy)
    return read_trusted_keys(keys)


def model_of(case: Path, config: Any, place: Path) -> Path:
    """A copy of the case's model, with the changes that the case makes to it."""
    source = SUITE / "assets" / config["model"]
    if config.get("model_relative_to") == "test_dir":
        source = case / config["model"]
    copy = place / "model"
    if source.is_file():
        copy.mkdir()
        shutil.copy(source, copy)
    else:
        shutil.copytree(source, copy)
    # What a bundle ignores may not exist here.
    for name in config["verify"].get("ignore_paths", []):
        (copy / name).unlink()
    changes = config.get("model_modifications", {})
    for name in changes.get("delete", []):
        (copy / name).unlink()
    for kind in ("inject", "tamper"):
        for name, text in changes.get(kind, {}).items():
            (copy / name).write_text(text)
    return copy


@pytest.mark.parametrize("case", cases("positive") + cases("historical"), ids=name_of)
def test_good_bundles_are_accepted(case: Path, tmp_path: Path) -> None:
    config = json.loads((case / "config.json").read_text())
    if any(part in case.name for part in REFUSED_HERE):
        with pytest.raises(SignatureError):
            listing_of(case, config, tmp_path)
        return
    listing = listing_of(case, config, tmp_path)
    compare_directory(listing, model_of(case, config, tmp_path))
    expected = config.get("expected_signed_files", listing.files)
    assert sorted(listing.files) == sorted(expected)


@pytest.mark.parametrize("case", cases("negative"), ids=name_of)
def test_bad_bundles_are_refused(case: Path, tmp_path: Path) -> None:
    config = json.loads((case / "config.json").read_text())
    with pytest.raises(SignatureError):
        compare_directory(listing_of(case, config, tmp_path), model_of(case, config, tmp_path))
