"""The commands for releases: make them, compare them, exchange them, and receive them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from aoti_build.api.arguments import (
    MODELS_FILE,
    OnProgress,
    PathLike,
    ProjectLike,
    Selection,
    ignore,
    pattern_of,
)
from aoti_build.api.projects import chosen
from aoti_build.errors import UsageError

if TYPE_CHECKING:
    from aoti_build.commands.release.pull import PullReport
    from aoti_build.commands.release.push import PushReport
    from aoti_build.commands.release.report import ReleaseReport
    from aoti_build.commands.release_diff.report import ReleaseDiff
    from aoti_build.commands.run.report import RunReport
    from aoti_build.commands.verify_release.report import ReleaseVerification

Paths: TypeAlias = PathLike | Sequence[PathLike]
# Called with each line of progress.
OnLine: TypeAlias = Callable[[str], None]


def release(
    project: ProjectLike = MODELS_FILE,
    targets: Selection = None,
    *,
    version: str,
    out: PathLike,
    sign: PathLike | None = None,
    sign_passphrase: str | None = None,
    sign_certificates: Paths | None = None,
    sign_sigstore: bool = False,
    identity_token_file: PathLike | None = None,
    trust_config: PathLike | None = None,
    previous: PathLike | None = None,
    allow_dirty: bool = False,
    archive: PathLike | None = None,
    against: PathLike | None = None,
    fail_if: str = "",
    push: str | None = None,
    insecure: bool = False,
    on_progress: OnProgress | None = None,
) -> ReleaseReport:
    """Build and verify strictly, then write a bundle, as ``invoke release`` does.

    What keeps a release from being made raises nothing; see `exit_code` of the report. The
    arguments are the options of the task. `sign_passphrase` names an environment variable.

    Raises:
        UsageError: an argument is wrong or empty, the bundle is there already, or the project is
            not as a commit has it. Nothing was released.
        ArtifactError: `previous` is no release.
        ToolchainError: this host cannot build or verify.
        Interrupted: Ctrl-C was pressed. Nothing was released.
    """
    from aoti_build.commands.release.command import ReleaseOptions
    from aoti_build.commands.release.command import release as command
    from aoti_build.models_file import check_files
    from aoti_build.report.release_page import release_page

    loaded, selected = chosen(project, targets)
    check_files(loaded, selected)
    options = ReleaseOptions(
        version=version,
        directory=_text("out", out),
        sign=_text("sign", sign),
        passphrase=_text("sign_passphrase", sign_passphrase),
        certificates=_texts("sign_certificates", sign_certificates),
        sign_sigstore=sign_sigstore,
        token_file=_text("identity_token_file", identity_token_file),
        trust_config=_text("trust_config", trust_config),
        previous=_text("previous", previous),
        allow_dirty=allow_dirty,
        archive=_text("archive", archive),
        against=_text("against", against),
        fail_if=fail_if,
        push=_text("push", push),
        insecure=insecure,
    )
    return command(
        loaded,
        selected,
        options,
        on_progress=on_progress or ignore,
        page=release_page,
    )


def release_diff(
    old: PathLike,
    new: PathLike,
    *,
    fail_if: str = "",
    strict: bool = False,
    run: bool = False,
    keys: Paths | None = None,
    revoked: PathLike | None = None,
    unsigned: bool = False,
    timeout: float = 600.0,
    on_progress: OnProgress | None = None,
) -> ReleaseDiff:
    """Compare two releases, as ``invoke release-diff`` does.

    `fail_if` has limits such as ``size>1.1,drift>1e-3``. One that is exceeded raises nothing; see
    `exit_code` of the report. With `run`, both releases are verified and their packages are called;
    `keys`, `revoked`, `unsigned` and `timeout` are then those of `verify_release`. Without it, no
    signature is verified.

    Raises:
        UsageError: there is no such release, or an argument is wrong.
        ArtifactError: a record is none, or a file that is read is damaged.
        SignatureError: the signature or a file of a release is refused.
        ToolchainError: this host lacks cryptography, or what every package needs.
        Interrupted: Ctrl-C was pressed.
    """
    from aoti_build.commands.release_diff.command import release_diff as command
    from aoti_build.commands.release_diff.limits import parse_policy
    from aoti_build.commands.release_diff.opened import RunOptions

    options = RunOptions(
        keys=_key_files(keys),
        revoked=_given("revoked", revoked),
        unsigned=unsigned,
        limit=timeout,
    )
    return command(
        _text("old", old),
        _text("new", new),
        parse_policy(fail_if, strict=strict),
        run=options if run else None,
        on_progress=on_progress or ignore,
    )


def release_push(
    directory: PathLike,
    address: str,
    *,
    replace: bool = False,
    insecure: bool = False,
    on_line: OnLine | None = None,
) -> PushReport:
    """Upload a release to a registry, as ``invoke release-push`` does.

    Raises:
        UsageError: an argument is wrong, the tag names something else, or access is refused.
        ArtifactError: the files are not those of `release.json`. Nothing was uploaded.
        NetworkError: the registry cannot be reached, or fails.
    """
    from aoti_build.commands.release.push import push as command

    return command(
        _text("directory", directory),
        address,
        insecure=insecure,
        replace=replace,
        on_line=on_line or _ignore_line,
    )


def release_pull(
    address: str,
    out: PathLike,
    *,
    keys: Paths | None = None,
    revoked: PathLike | None = None,
    min_version: str | None = None,
    insecure: bool = False,
    on_line: OnLine | None = None,
) -> PullReport:
    """Download a release from a registry, as ``invoke release-pull`` does.

    With `keys`, files or directories of files, one of them must have signed the release. None
    verifies no signature. `revoked` and `min_version` are those of `verify_release`, and need keys.

    Raises:
        UsageError: an argument is wrong, nothing is at the address, or access is refused.
        ArtifactError: what is there is no release, or not what its manifest says.
        SignatureError: no trusted key signed it, or it is older than `min_version`.
        NetworkError: the registry cannot be reached, or fails.
    """
    from aoti_build.commands.release.pull import pull as command

    return command(
        address,
        _text("out", out),
        public_keys=_key_files(keys),
        revoked=_given("revoked", revoked),
        min_version=min_version,
        insecure=insecure,
        on_line=on_line or _ignore_line,
    )


def verify_release(
    directory: PathLike,
    targets: Selection = None,
    *,
    keys: Paths | None = None,
    revoked: PathLike | None = None,
    identity: str | None = None,
    identity_provider: str | None = None,
    trusted_root: PathLike | None = None,
    unsigned: bool = False,
    min_version: str | None = None,
    strict: bool = False,
    timeout: float = 600.0,
    runtime: str = "python",
    on_progress: OnProgress | None = None,
) -> ReleaseVerification:
    """Verify a received release, as ``invoke verify --release`` does.

    `keys` are files or directories of files. None means the keys that root trusts on this host.
    `revoked` is a file with fingerprints of keys that are not trusted any more. `identity` and
    `identity_provider` require a keyless signature instead, and `trusted_root` is the file with the
    keys of a Sigstore instance. `min_version` is the oldest version that is accepted.
    `timeout` is in seconds and limits each process. `runtime` is ``python``, ``cpp`` or
    ``cuda-graphs``. A package that fails raises nothing; see `exit_code` of the report.

    Raises:
        SignatureError: the signature or a file is refused.
        ArtifactError: the release cannot be read.
        UsageError: an argument is wrong, or there is no usable key.
        ToolchainError: this host lacks cryptography, or what every package needs.
        Interrupted: Ctrl-C was pressed.
    """
    from aoti_build.commands.verify.report import RUNTIMES
    from aoti_build.commands.verify_release.command import verify_release as command
    from aoti_build.commands.verify_release.options import VerifyReleaseOptions

    if runtime not in RUNTIMES:
        raise UsageError(f"runtime {runtime!r} is not one of {', '.join(RUNTIMES)}")
    options = VerifyReleaseOptions(
        directory=Path(_text("directory", directory)),
        keys=_key_files(keys),
        revoked=_given("revoked", revoked),
        identity=identity,
        identity_provider=identity_provider,
        trusted_root=_given("trusted_root", trusted_root),
        unsigned=unsigned,
        min_version=min_version,
        pattern=pattern_of(targets) or "",
        strict=strict,
        limit=timeout,
        runtime=runtime,
    )
    return command(options, on_progress=on_progress or ignore)


def run_release(
    directory: PathLike,
    targets: Selection = None,
    *,
    keys: Paths | None = None,
    revoked: PathLike | None = None,
    identity: str | None = None,
    identity_provider: str | None = None,
    trusted_root: PathLike | None = None,
    unsigned: bool = False,
    min_version: str | None = None,
    inputs: Sequence[str] = (),
    output: str = "",
    seed: int = 1,
    repeat: int = 10,
    cuda_graphs: bool = False,
    on_progress: OnProgress | None = None,
) -> RunReport:
    """Examine a received release and run its packages, as ``invoke run --release`` does.

    Whose signature is required is said as for `verify_release`. `inputs` and `output` are those of
    `run`.

    Raises:
        SignatureError: the signature or a file is refused.
        ArtifactError: the release cannot be read.
        UsageError: an argument is wrong, or there is no usable key.
        ToolchainError: this host lacks cryptography, or what every package needs.
        Interrupted: Ctrl-C was pressed.
    """
    from aoti_build.commands.received.options import ReceiverOptions
    from aoti_build.commands.run.release import run_release as command

    options = ReceiverOptions(
        directory=Path(_text("directory", directory)),
        keys=_key_files(keys),
        revoked=_given("revoked", revoked),
        identity=identity,
        identity_provider=identity_provider,
        trusted_root=_given("trusted_root", trusted_root),
        unsigned=unsigned,
        min_version=min_version,
        pattern=pattern_of(targets) or "",
    )
    return command(
        options,
        inputs=inputs,
        output=output,
        seed=seed,
        repeat=repeat,
        cuda_graphs=cuda_graphs,
        on_progress=on_progress or ignore,
    )


def _key_files(keys: Paths | None) -> tuple[str, ...]:
    """The names of key files, which are there unless None was given.

    A setting without any key must not mean that no signature or another key is required.
    """
    files = _texts("keys", keys)
    if keys is not None and not files:
        raise UsageError(
            "keys is empty, which names no key",
            hint="name the public key of whoever signs releases, or omit keys",
        )
    return files


def _texts(name: str, paths: Paths | None) -> tuple[str, ...]:
    if paths is None:
        return ()
    listed = [paths] if isinstance(paths, str | os.PathLike) else paths
    return tuple(_text(name, path) for path in listed)


def _text(name: str, path: PathLike | None) -> str:
    """An argument as the commands have it, where an empty text means that it is not given.

    Raises `UsageError` for an empty text of the caller, such as a setting that is not set. Without
    that, a release would not be signed although `sign` is given.
    """
    if path is None:
        return ""
    text = os.fspath(path)
    if not text:
        raise UsageError(f"{name} is empty", hint=f"give it a value, or omit {name}")
    return text


def _given(name: str, path: PathLike | None) -> str | None:
    """An argument of which None means that it is not given. Raises as `_text`."""
    return None if path is None else _text(name, path)


def _ignore_line(line: str) -> None:
    pass
