"""The jobs that make an artifact, and find out why one is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from aoti_build.figures import ModuleDifference, WrongWeight
from aoti_build.messages.job import Job, TargetJob
from aoti_build.messages.parts import (
    Import,
    JsonObject,
    Message,
    Positions,
    Recorded,
    Seconds,
    Signature,
    WeightsRecord,
)


class CompileResult(Message, frozen=True):
    """The program was compiled."""

    seconds: Seconds


class CompileJob(Job[CompileResult], frozen=True):
    """Run a C++ compiler by the words of `command`. `what` names its output in errors."""

    command: tuple[str, ...]
    what: str


class BuildResult(Message, frozen=True):
    """What is in the staging directory, and what it was made from.

    `reference_data_kept` means that the reference data is the stored one. `sources`,
    `distributions`, `modules` and `variables` are those that the model's code used. `weights` is
    set only after a compile. `undigested` is the cause if the graph has no digest. `eager_seconds`
    is what a call at the example sizes takes in eager mode, if that was measured.
    """

    key: str
    graph_key: str
    reference_data_kept: bool
    signature: Signature
    imports: tuple[Import, ...]
    sources: Recorded
    distributions: Recorded
    modules: Recorded
    variables: Recorded
    seconds: Seconds
    weights: WeightsRecord | None = None
    undigested: str | None = None
    eager_seconds: float | None = None


class BuildJob(TargetJob[BuildResult], frozen=True):
    """Make an artifact in the directory `staged`, as the answer to a `KeysQuestion` says.

    What lies in the directory `artifacts` is no source.
    Reference data beyond the limit is also written to the file `whole_reference_data`, in full.
    `architecture_options` are settings of inductor for the architecture. `toolchain` and
    `environment` are parts of the source key. `replaced_variables` have their values from before
    the parent process set its own. `skew_ns` is how far the clock of the sources' file system is
    ahead of this host's, in nanoseconds.
    """

    staged: str
    artifacts: str
    whole_reference_data: str
    cache_root: str
    architecture_options: JsonObject
    where: Positions
    toolchain: Mapping[str, str]
    environment: Mapping[str, str]
    replaced_variables: Mapping[str, str | None]
    skew_ns: int


class LocalizeResult(Message, frozen=True):
    """Where the artifact first differs from its model.

    `said` is that in a sentence, `weights` the wrong weights, `left` the differing module.
    """

    stage: Literal["weights", "export", "compile", "none"]
    said: str
    weights: tuple[WrongWeight, ...]
    left: ModuleDifference | None


class LocalizeJob(TargetJob[LocalizeResult], frozen=True):
    """Find out where the artifact first differs from its model.

    The weights in the package `model` are compared if they are external, with `alignment` in bytes.
    With `bisect` prefixes of the graph are compiled and compared.
    """

    where: Positions
    architecture_options: JsonObject
    cache_root: str
    model: str | None
    alignment: int | None
    bisect: bool
