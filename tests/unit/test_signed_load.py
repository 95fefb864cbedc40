"""`load(..., require_signature=KEYS)`: what is refused before anything of a release is loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packages import members
from packages import write as write_zip
from releases import VERSION, Release, make_release
from signers import Holder, certify, write_pem, write_private, write_public
from small_projects import REAL_PYTHON, FakeWorker, sealed

import aoti_build
from aoti_build.artifact.bundle.signed import ContradictoryRelease, OldRelease
from aoti_build.artifact.manifest import read_manifest
from aoti_build.artifact.signing.private_keys import read_signing_key
from aoti_build.artifact.signing.refusals import (
    BadSignature,
    ExpiredCertificate,
    KeyFileError,
    ListingMismatch,
    MalformedSignature,
    NoSignature,
    RevokedKey,
    UnknownKey,
    UnreadableSignature,
    UnsupportedSignature,
)
from aoti_build.artifact.signing.sign import sign, write_signature
from aoti_build.artifact.signing.trust import read_trusted_keys
from aoti_build.common import directories, stat_cache
from aoti_build.common.digests import digest_file
from aoti_build.errors import ArtifactError, SignatureError, ToolchainError, UsageError
from aoti_build.host import compatibility
from aoti_build.runtime import private, process_directory
from aoti_build.runtime.choose import Choice
from aoti_build.runtime.package import Admitted, admit
from aoti_build.runtime.signed import admit_signed, open_release, signed_choice

PACKAGE = "models/small/cpu/model.pt2"
MANIFEST = "models/small/cpu/manifest.json"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private directory, and a torch that loads directories."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv(private.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(directories, "code_fault", lambda path: "")
    monkeypatch.setattr(compatibility, "torch_version", lambda: "2.14.1")
    monkeypatch.setattr(compatibility, "obstacles", lambda *_: [])
    monkeypatch.setattr(stat_cache, "RACY_NS", -(10**12))
    monkeypatch.setattr(process_directory, "_current", None)
    return tmp_path / "cache" / "unpacked"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Release]:
    """The release that all tests copy, once it is made."""
    tmp_path_factory.getbasetemp()
    return []


@pytest.fixture
def release(
    made: list[Release],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    fake_worker: FakeWorker,
) -> Release:
    if not made:
        made.append(make_release(tmp_path_factory.mktemp("made")))
    return made[0].copy(tmp_path / "received")


def load(release: Release, model: str = "small", **options: Any) -> tuple[Any, Admitted]:
    """What `load` does before it imports torch: the choice, and the checked package."""
    keys = options.pop("require_signature", release.public)
    verify = options.pop("verify", "full")
    min_version = options.pop("min_version", None)
    with open_release(release.bundle, keys, min_version, verify) as signed:
        choice = signed_choice(signed, model, **options)
        admitted = admit_signed(signed, choice.best(), verify)
    return choice, admitted


def refused(release: Release, error: type[Exception], match: str, **options: Any) -> Any:
    """`load` itself refuses with this very class. Torch would be imported after that."""
    options = {"require_signature": release.public, **options}
    with pytest.raises(error, match=match) as caught:
        aoti_build.load(options.pop("model", "small"), artifacts=release.bundle, **options)
    assert type(caught.value) is error
    assert "/proc/self" not in str(caught.value)
    if issubclass(error, ArtifactError):
        assert caught.value.exit_code == 4
    return caught.value


def test_a_signed_release_is_admitted(release: Release) -> None:
    choice, admitted = load(release)
    assert choice.chosen.target == "small/cpu"
    unpacked = Path(admitted.path)
    for name, content in members().items():
        file = unpacked.parent / name
        assert not file.exists() or file.read_bytes() == content
    assert choice.release["version"] == VERSION
    assert choice.release["signer"]["name"] == "signer.pem"
    assert choice.release["signer"]["fingerprint"] == (
        read_trusted_keys([release.public]).keys[0].fingerprint
    )


@pytest.mark.parametrize("kind", ["path", "text", "list", "directory", "read"])
def test_forms_of_keys(release: Release, kind: str) -> None:
    directory = release.place / "keys"
    directory.mkdir()
    shutil.copy(release.public, directory)
    keys: dict[str, Any] = {
        "path": release.public,
        "text": str(release.public),
        "list": [release.public],
        "directory": directory,
        "read": read_trusted_keys([release.public]),
    }
    assert load(release, require_signature=keys[kind])


@pytest.mark.parametrize("keys", ["", [], (), False, 0, 7, [""], [None], {}])
def test_an_empty_setting_is_not_no_requirement(release: Release, keys: Any) -> None:
    refused(release, UsageError, "names no key", require_signature=keys)


def test_keys_of_the_host(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    system = release.place / "system"
    monkeypatch.setattr("aoti_build.artifact.signing.trust.SYSTEM_KEYS", system)
    refused(release, KeyFileError, "no directory of trusted keys", require_signature=True)
    system.mkdir()
    shutil.copy(release.public, system)
    if os.geteuid() == 0:
        assert load(release, require_signature=True)
        os.chown(system / "signer.pem", 12345, -1)
    refused(release, KeyFileError, "must be root's", require_signature=True)


def test_no_option_weakens_a_signature(release: Release) -> None:
    refused(release, UsageError, "exclude each other", verify="off")
    with pytest.raises(UsageError, match="without require_signature"):
        aoti_build.load("small", artifacts=release.bundle / "models", min_version="1.0")
    refused(release, UsageError, "is not a version", min_version="v1")


def test_modules_of_the_release_are_not_imported(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They could shadow the library that verifies the signature."""
    monkeypatch.setattr("sys.path", ["", *sys.path])
    monkeypatch.chdir(release.bundle)
    refused(release, UsageError, "imports modules from the release")
    monkeypatch.chdir(release.place)
    assert load(release)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_an_altered_package(release: Release) -> None:
    _flip(release.file("model.pt2"))
    error = refused(release, ListingMismatch, f"changed since they were signed: '{PACKAGE}'")
    assert "invoke build" not in str(error)


def test_a_package_that_is_missing_or_no_file(release: Release) -> None:
    release.file("model.pt2").unlink()
    refused(release, ListingMismatch, "changed since they were signed")
    os.mkfifo(release.file("model.pt2"))
    refused(release, ListingMismatch, "changed since they were signed")


CHANGES: dict[str, Callable[[Any], object]] = {
    "requires": lambda document: document["requires"].update(cpu_features=[]),
    "check": lambda document: document["check"].update(passed=True, seconds=0.0),
    "imports": lambda document: document["requires"].update(
        imports=[{"module": "this", "operators": [], "types": []}]
    ),
    "blocks": lambda document: document["files"]["model.pt2"].update(
        blocks={"size": 1, "blake3": ["0" * 64] * document["files"]["model.pt2"]["size"]}
    ),
    "key": lambda document: document.update(key="0" * 64),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_altered_manifest(release: Release, change: str) -> None:
    release.edit(MANIFEST, CHANGES[change])
    refused(release, ListingMismatch, f"changed since they were signed: '{MANIFEST}'")


def test_package_and_manifest_altered_with_all_digests(release: Release) -> None:
    _flip(release.file("model.pt2"))
    digest = digest_file(release.file("model.pt2"))

    def change(document: Any) -> None:
        document["files"]["model.pt2"]["sha256"] = digest

    release.edit(MANIFEST, change)
    # Without a signature nothing is wrong with this artifact.
    manifest = read_manifest(release.file(""))
    assert admit(release.file(""), manifest).path  # type: ignore[arg-type]
    refused(release, ListingMismatch, f"changed since they were signed: '{MANIFEST}'")
    release.list_anew()
    refused(release, ListingMismatch, "changed since they were signed: 'release.json'")


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: text.replace(": ", ":  "),
        lambda text: text.replace('"action":', '"action": "restored", "action":', 1),
        lambda text: text.replace('"format_version": 5', '"format_version": 5.0'),
        lambda text: text + "\n",
    ],
    ids=["blanks", "doubled", "float", "line"],
)
@pytest.mark.parametrize("name", [MANIFEST, "release.json"])
def test_documents_written_anew(release: Release, name: str, rewrite: Callable[[str], str]) -> None:
    path = release.bundle / name
    before = path.read_text()
    path.write_text(rewrite(before).replace('"format_version": 1', '"format_version": 1.0'))
    if path.read_text() == before:
        pytest.skip("this document has no such field")
    refused(release, ListingMismatch, f"changed since they were signed: '{name}'")


def test_the_signature_is_missing(release: Release) -> None:
    (release.bundle / "model.sig").unlink()
    refused(release, NoSignature, "is not signed")
    # As after a signer that was killed: its file has another name.
    (release.bundle / ".model.sig.tmp").write_bytes(b"{}")
    refused(release, NoSignature, "is not signed")


@pytest.mark.parametrize(
    ("content", "error"), [(b"", MalformedSignature), (b'{"mediaType": ', MalformedSignature)]
)
def test_the_signature_is_cut(release: Release, content: bytes, error: type[Exception]) -> None:
    (release.bundle / "model.sig").write_bytes(content)
    refused(release, error, ".")


def test_the_signature_is_no_plain_file(release: Release) -> None:
    signature = release.bundle / "model.sig"
    os.truncate(signature, 1 << 30)
    refused(release, UnreadableSignature, "cannot be read")
    signature.unlink()
    os.mkfifo(signature)
    refused(release, UnreadableSignature, "cannot be read")
    signature.unlink()
    signature.symlink_to(release.public)
    refused(release, UnreadableSignature, "symbolic link")


def test_another_key(release: Release) -> None:
    write_public(release.place / "mine.pem", write_private(release.place / "other.pem"))
    release.sign("other.pem")
    refused(release, UnknownKey, "not trusted here")


def test_a_key_in_the_release(release: Release) -> None:
    inside = write_public(release.bundle / "signer.pem", write_private(release.place / "other.pem"))
    release.sign("other.pem")
    refused(release, KeyFileError, "from the release itself", require_signature=inside)
    (release.place / "link.pem").symlink_to(inside)
    refused(
        release,
        KeyFileError,
        "from the release itself",
        require_signature=release.place / "link.pem",
    )


def test_a_key_that_others_may_write(release: Release) -> None:
    release.public.chmod(0o666)
    refused(release, KeyFileError, "others could have written")


def test_a_revoked_key(release: Release) -> None:
    keys = release.place / "keys"
    keys.mkdir()
    shutil.copy(release.public, keys)
    fingerprint = read_trusted_keys([release.public]).keys[0].fingerprint
    (keys / "revoked").write_text(f"{fingerprint}\n")
    refused(release, RevokedKey, "was revoked", require_signature=keys)


def test_a_key_revoked_beside_the_file_that_is_named(release: Release) -> None:
    """A directory without keys may hold the list alone."""
    lists = release.place / "lists"
    lists.mkdir(mode=0o700)
    (lists / "revoked").write_text(digest_file(release.public))
    keys = [release.public, lists]
    refused(release, RevokedKey, "was revoked", require_signature=keys)


def test_an_expired_certificate(release: Release) -> None:
    from datetime import datetime, timedelta, timezone

    now = datetime.now(timezone.utc)
    root = certify(Holder("root"), authority=True, begin=now - timedelta(days=9))
    signer = Holder("signer")
    write_private(release.place / "own.pem", signer.key)
    times = {"begin": now - timedelta(days=8), "end": now - timedelta(days=1)}
    certify(signer, root, **times)
    chain = write_pem(release.place / "chain.pem", signer.pem())
    anchor = write_pem(release.place / "root.pem", root.pem())
    (release.bundle / "model.sig").unlink()
    earlier = now - timedelta(days=2)
    key = read_signing_key(release.place / "own.pem", certificates=[chain], now=earlier)
    write_signature(sign(release.bundle, key), release.bundle)
    refused(release, ExpiredCertificate, ".", require_signature=anchor)


def _signature(release: Release) -> Any:
    return json.loads((release.bundle / "model.sig").read_bytes())


def test_two_signatures_or_another_algorithm(release: Release) -> None:
    for change in (
        lambda document: document["dsseEnvelope"]["signatures"].append({"sig": "AAAA"}),
        lambda document: document["dsseEnvelope"]["signatures"].clear(),
    ):
        document = _signature(release)
        change(document)
        (release.bundle / "model.sig").write_text(json.dumps(document))
        with pytest.raises((MalformedSignature, UnsupportedSignature)):
            load(release)
        release.sign()
    document = _signature(release)
    document["dsseEnvelope"]["signatures"][0]["sig"] = "AAAA"
    (release.bundle / "model.sig").write_text(json.dumps(document))
    refused(release, BadSignature, "is not valid")


def test_the_signature_of_another_release(
    release: Release, tmp_path: Path, fake_worker: FakeWorker
) -> None:
    older = make_release(tmp_path / "older", "1.3.0")
    older.bundle.joinpath("model.sig").unlink()
    shutil.copy(release.place / "key.pem", older.place / "key.pem")
    older.sign()
    ours = (release.bundle / "model.sig").read_bytes()
    (release.bundle / "model.sig").write_bytes((older.bundle / "model.sig").read_bytes())
    refused(release, ListingMismatch, "changed since they were signed: 'release.json'")
    (release.bundle / "model.sig").write_bytes(ours)
    # The whole older release, put in the place of this one.
    shutil.rmtree(release.bundle)
    shutil.copytree(older.bundle, release.bundle)
    assert load(release)[0].release["version"] == "1.3.0"
    refused(release, OldRelease, "1.4.0 or later is required", min_version=VERSION)


@pytest.mark.parametrize(
    ("least", "accepted"),
    [("1.4", True), ("1.4.0rc1", True), ("1.4.0", True), ("1.4.0.post1", False), ("1.10", False)],
)
def test_versions_are_compared_as_numbers(release: Release, least: str, accepted: bool) -> None:
    if accepted:
        assert load(release, min_version=least)
    else:
        refused(release, OldRelease, "or later is required", min_version=least)


def test_directories_that_change_places(release: Release) -> None:
    models = release.bundle / "models"
    (models / "small").rename(models / "x")
    (models / "other").rename(models / "small")
    (models / "x").rename(models / "other")
    refused(release, ListingMismatch, f"changed since they were signed: '{MANIFEST}'")
    (models / "small").rename(models / "alias")
    refused(release, ListingMismatch, "never signed: cpu of alias", model="alias")


def test_the_directory_of_the_release_may_have_another_name(release: Release) -> None:
    release.bundle.rename(release.place / "current")
    release.bundle = release.place / "current"
    assert load(release)


def test_what_takes_the_name_of_the_release_is_not_opened(release: Release) -> None:
    with open_release(release.bundle, release.public, None, "full") as signed:
        choice = signed_choice(signed, "small")
        release.bundle.rename(release.place / "aside")
        release.bundle.mkdir()
        assert admit_signed(signed, choice.best(), "full").path


def test_an_unsigned_variant_beside_signed_ones(release: Release) -> None:
    """It would be the best one, and is only named."""
    models = release.bundle / "models"
    shutil.copytree(models / "small/cpu", models / "small/cpu-avx2")
    shutil.copytree(models / "small/cpu", models / "small/cuda")
    (models / "small/cuda/manifest.json").write_text("[")
    choice, _ = load(release)
    assert choice.chosen.target == "small/cpu"
    why = {candidate.target: candidate.why_not for candidate in choice.candidates}
    assert why["small/cuda"] == ("not signed: the release does not list it",)
    assert why["small/cpu-avx2"] == ("not signed: the release does not list it",)
    error = refused(release, ListingMismatch, "never signed: cuda of small", variant="cuda")
    assert "small" in error.cause


def explain(release: Release, model: str = "small", **options: Any) -> Choice:
    options = {"require_signature": release.public, **options}
    return aoti_build.explain(model, artifacts=release.bundle, **options)


def test_explain_chooses_as_a_signed_load_does(release: Release) -> None:
    shutil.copytree(release.file(""), release.bundle / "models/small/cpu-avx2")
    choice = explain(release, min_version="1.4")
    assert choice.as_json() == load(release)[0].as_json()
    assert str(choice).splitlines() == [
        "small/cpu: chosen",
        "small/cpu-fast: fits, but small/cpu comes first: it is the default preset",
        "small/cpu-avx2: not signed: the release does not list it",
    ]
    assert choice.release is not None
    assert choice.release["version"] == VERSION
    only = explain(release, "small/cpu-fast")
    assert only.chosen is not None
    assert only.chosen.target == "small/cpu-fast"


def test_explain_refuses_what_a_signed_load_refuses(release: Release) -> None:
    for options, error in (
        ({"min_version": "1.5"}, OldRelease),
        ({"require_signature": []}, UsageError),
        ({"variant": "cuda"}, UsageError),
        ({"require_signature": None, "min_version": "1.0"}, UsageError),
    ):
        with pytest.raises(error) as caught:
            explain(release, **options)
        assert type(caught.value) is error
    # The package is not read, and a load would refuse it.
    _flip(release.file("model.pt2"))
    assert explain(release).chosen is not None
    _flip(release.file("manifest.json"))
    with pytest.raises(ListingMismatch, match=f"changed since they were signed: '{MANIFEST}'"):
        explain(release)
    (release.bundle / "model.sig").unlink()
    with pytest.raises(NoSignature, match="is not signed"):
        explain(release)


EXPLAIN = """
import sys, aoti_build
print(aoti_build.explain("small", artifacts=sys.argv[1], require_signature=sys.argv[2]))
assert "torch" not in sys.modules
"""


def test_explain_needs_no_torch(release: Release) -> None:
    words = [REAL_PYTHON, "-c", EXPLAIN, str(release.bundle), str(release.public)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("small/cpu")


def test_another_variant_does_not_take_the_place_of_a_damaged_one(release: Release) -> None:
    for name in ("manifest.json", "model.pt2"):
        _flip(release.file(name))
        refused(release, ListingMismatch, "changed since they were signed")
        # Whoever asks for the other one gets it: nothing of the damaged one was read.
        assert load(release, variant="cpu-fast")[0].chosen.target == "small/cpu-fast"
    shutil.rmtree(release.bundle / "models/small/cpu")
    refused(release, ArtifactError, "cannot be read")


def test_models_that_are_not_in_the_release(release: Release) -> None:
    error = refused(release, UsageError, "no artifact smal", model="smal")
    assert "did you mean small?" in str(error)
    refused(release, UsageError, "no artifact small/cuda", variant="cuda")
    refused(release, UsageError, "no artifact", model="../small")


def test_what_is_signed_and_no_release(release: Release) -> None:
    (release.bundle / "release.json").unlink()
    release.sign()
    refused(release, ListingMismatch, "is no release")
    refused_inside = Release(release.place)
    refused_inside.bundle = release.bundle / "models"
    refused(refused_inside, NoSignature, "is not signed")
    refused_inside.bundle = release.place / "nowhere"
    refused(refused_inside, UsageError, "no release here")


def test_a_signer_who_contradicts_themselves(release: Release) -> None:
    def change(document: Any) -> None:
        for row in document["targets"]:
            row["package_sha256"] = "0" * 64

    release.edit("release.json", change)
    release.sign()
    refused(release, ContradictoryRelease, "different packages")


def test_a_target_that_is_there_twice(release: Release) -> None:
    release.edit("release.json", lambda record: record["targets"].append(record["targets"][0]))
    release.sign()
    refused(release, ContradictoryRelease, "has a target twice")


def test_a_directory_with_an_odd_name_is_not_named(release: Release) -> None:
    shutil.copytree(release.file(""), release.bundle / "models/small/cpu\x1b[2K")
    assert "\x1b" not in str(load(release)[0])


def test_a_release_that_says_its_check_failed(release: Release) -> None:
    def change(document: Any) -> None:
        for row in document["targets"]:
            row["verification"]["passed"] = False

    release.edit("release.json", change)
    release.sign()
    error = refused(release, ArtifactError, "no variant of small")
    assert "comparison with eager failed" in error.cause


def test_working_state_in_the_release_is_not_read(release: Release) -> None:
    status = os.stat(release.file("model.pt2"))
    key = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, "0" * 64]
    state = {"files": {str(release.file("model.pt2")): key}}
    for name in (".stat-cache.json", ".index.json", ".passed-checks.json"):
        (release.bundle / name).write_text(json.dumps(state))
        (release.bundle / "models" / name).write_text(json.dumps(state))
    (release.bundle / ".logs").mkdir()
    assert load(release, verify="stat")
    _flip(release.file("model.pt2"))
    refused(release, ListingMismatch, "changed since they were signed", verify="stat")


def _forged(release: Release, tmp_path: Path) -> Path:
    """A copy of the artifact with other code, whose unsigned load works."""
    directory = tmp_path / "artifacts/small/cpu"
    shutil.copytree(release.file(""), directory)
    files = {**members(), "model/data/aotinductor/model/evil.so": b"evil"}
    write_zip(directory / "model.pt2", files)
    document = json.loads((directory / "manifest.json").read_bytes())
    document["files"]["model.pt2"] = {
        "sha256": digest_file(directory / "model.pt2"),
        "size": (directory / "model.pt2").stat().st_size,
    }
    (directory / "manifest.json").write_text(json.dumps(sealed(document)))
    return directory


@pytest.mark.parametrize("verify", ["full", "stat"])
def test_what_unsigned_loads_left_in_the_cache(
    release: Release, tmp_path: Path, verify: Any, cache: Path
) -> None:
    """Entries are named by digests, and none has a digest that its package had not."""
    forged = _forged(release, tmp_path)
    manifest: Any = read_manifest(forged)
    for mode in ("off", "full", "stat"):
        admit(forged, manifest, mode).close()  # type: ignore[arg-type]
    # A manifest that gives the forged package the digest of the signed one.
    document = json.loads((forged / "manifest.json").read_bytes())
    signed_digest = digest_file(release.file("model.pt2"))
    document["files"]["model.pt2"]["sha256"] = signed_digest
    (forged / "manifest.json").write_text(json.dumps(sealed(document)))
    manifest = read_manifest(forged)
    admit(forged, manifest, "off").close()
    with pytest.raises(ArtifactError):
        admit(forged, manifest)
    _, admitted = load(release, verify=verify)
    assert signed_digest in admitted.path
    assert not list(Path(admitted.path).rglob("evil.so"))
    # And what was changed in the entry since is made anew.
    (code,) = Path(admitted.path).rglob("*.so")
    code.chmod(0o600)
    _flip(code)
    _, again = load(release, verify=verify)
    (code,) = Path(again.path).rglob("*.so")
    assert code.read_bytes() in members().values()


def test_without_room_for_a_private_copy(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others could write to the file itself between check and load."""
    monkeypatch.setattr("aoti_build.runtime.package.open_entry", lambda *_, **__: None)
    refused(release, ToolchainError, "private copy only")
    monkeypatch.undo()


def test_without_cryptography(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryptography.x509", None)
    error = refused(release, ToolchainError, "need the package cryptography")
    assert "aoti_build[sign]" in error.hint


@pytest.mark.parametrize("way", ["replace", "write", "directory"])
def test_a_package_that_changes_all_the_time(release: Release, tmp_path: Path, way: str) -> None:
    """Whatever is admitted is what was signed, and all else is refused."""
    right = release.file("model.pt2").read_bytes()
    wrong = right.replace(b"pt2", b"EVL")
    assert wrong != right
    assert len(wrong) == len(right)
    evil = tmp_path / "evil"
    shutil.copytree(release.file(""), evil)
    (evil / "model.pt2").write_bytes(wrong)
    stop = threading.Event()
    exchange = threading.Thread(target=_exchange, args=(release, evil, right, wrong, way, stop))
    exchange.start()
    outcomes = set()
    try:
        for _ in range(40):
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
            try:
                _, admitted = load(release)
            except ArtifactError as error:
                outcomes.add(type(error).__name__)
                continue
            outcomes.add("loaded")
            for file in Path(admitted.path).rglob("*"):
                assert not file.is_file() or b"EVL" not in file.read_bytes()
            admitted.close()
    finally:
        stop.set()
        exchange.join()
    assert outcomes <= {"loaded", "ListingMismatch", "ArtifactError"}


def _exchange(
    release: Release, evil: Path, right: bytes, wrong: bytes, way: str, stop: threading.Event
) -> None:
    package = release.file("model.pt2")
    number = 0
    while not stop.is_set():
        number += 1
        content = wrong if number % 2 else right
        if way == "write":
            with package.open("r+b") as file:
                file.write(content)
        elif way == "replace":
            (release.place / "new").write_bytes(content)
            os.replace(release.place / "new", package)
        else:
            artifact = release.file("")
            os.rename(artifact, release.place / "aside")
            os.rename(evil, artifact)
            os.rename(artifact, evil)
            os.rename(release.place / "aside", artifact)
        stop.wait(0.001)


REFUSAL = """
import sys, aoti_build
try:
    aoti_build.load("small", artifacts=sys.argv[1], require_signature=sys.argv[2])
except aoti_build.errors.SignatureError as error:
    print(error.exit_code, sorted({"torch", "numpy"} & set(sys.modules)))
"""


def test_a_refusal_imports_no_torch(release: Release) -> None:
    _flip(release.file("model.pt2"))
    words = [REAL_PYTHON, "-c", REFUSAL, str(release.bundle), str(release.public)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "4 []\n"


def test_all_refusals_of_signatures_are_errors_of_artifacts() -> None:
    for error in (OldRelease, ContradictoryRelease, ListingMismatch):
        assert issubclass(error, SignatureError)
        assert issubclass(error, ArtifactError)
