"""Jobs, results, events, questions and answers between the build process and its workers.

Each message is one JSON document, in a file or on one line of a pipe, and says what it is:

    {"format": "aoti-build/message", "format_version": 1, "type": "compile-job", "root": ...}

Both sides use the types below. `decode` takes nothing else: a field that is not there, one field
too many, a value of another type and another version are a `MessageError`. So a worker of another
release of aoti_build is found out by its first message. `FORMAT_VERSION` goes up with each change
of these types.

What jobs find, down to the numbers, is in `figures`. What other documents define stays JSON here:
`Json` is any value, `JsonObject` a table of them, and further names say which table. Paths are
absolute.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeAlias, TypeVar, get_args

import msgspec

from aoti_build import __version__
from aoti_build.errors import AotiBuildError, MessageError
from aoti_build.figures import (
    TYPE,
    CallFigures,
    Loss,
    ModuleDifference,
    Part,
    Refusal,
    RunFigures,
    Vacuous,
    WrongWeight,
)
from aoti_build.models_file.project import Target
from aoti_build.models_file.records import target_from_json, target_to_json

FORMAT = "aoti-build/message"
FORMAT_VERSION = 1
_HEAD: Mapping[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION}

Json: TypeAlias = Any
JsonObject: TypeAlias = Mapping[str, Json]
TargetDocument: TypeAlias = JsonObject  # as `models_file.records.target_to_json` makes it
# Parts of manifests, as `artifact.manifest_shape` describes them.
Signature: TypeAlias = JsonObject
Tolerance: TypeAlias = JsonObject
Import: TypeAlias = JsonObject
WeightsPlace: TypeAlias = JsonObject
# Digests, or versions, by path, distribution, module or variable; None: it is not there.
Recorded: TypeAlias = Mapping[str, str | None]
# Where things are in models.yaml, for errors; by field, as `work.worker.yaml_positions` makes it.
Where: TypeAlias = Mapping[str, str]
Seconds: TypeAlias = Mapping[str, float]  # by phase
InputKind: TypeAlias = Literal["reference_data", "random", "tensors", "images"]  # of a run


def _type_name(class_name: str) -> str:
    """``CheckJob`` is a ``check-job``."""
    return re.sub("(?<=.)(?=[A-Z])", "-", class_name).lower()


class Message(Part, frozen=True, tag_field=TYPE, tag=_type_name):
    """A document of its own."""

    @classmethod
    def type_name(cls) -> str:
        return _type_name(cls.__name__)


AnyMessage = TypeVar("AnyMessage", bound=Message)
ResultT = TypeVar("ResultT", bound=Message)


class ErrorRecord(Part, frozen=True):
    """An `AotiBuildError` as it travels."""

    kind: str
    message: str
    target: str | None = None
    where: str | None = None
    cause: str | None = None
    hint: str | None = None

    @classmethod
    def of(cls, error: AotiBuildError) -> ErrorRecord:
        return cls(error.kind, error.message, error.target, error.where, error.cause, error.hint)


# Jobs and their results


class Job(Message, Generic[ResultT], frozen=True):
    """Work for one worker process, whose current directory is `root`, the project's."""

    root: str

    @classmethod
    def verb(cls) -> str:
        """The module of `aoti_build._torch.jobs`, and the function in it, that does the job."""
        return cls.type_name().removesuffix("-job")

    @classmethod
    def result_type(cls) -> type[ResultT]:
        """The type that the class names in its base."""
        base = cls.__orig_bases__[0]  # type: ignore[attr-defined]  # as typing left it
        return get_args(base)[0]  # type: ignore[no-any-return]


class TargetJob(Job[ResultT], frozen=True):
    """A job that is about one target."""

    target_document: TargetDocument = msgspec.field(name="target")

    @property
    def target(self) -> Target:
        return target_from_json(self.target_document)


class PackageJob(TargetJob[ResultT], frozen=True):
    """A job that loads the package `model`, after `imports`, and has its `reference_data` file."""

    model: str
    reference_data: str
    tolerance: Tolerance
    signature: Signature
    imports: tuple[Import, ...]


class CompileResult(Message, frozen=True):
    """The program was compiled."""

    seconds: Seconds


class CompileJob(Job[CompileResult], frozen=True):
    """Run a C++ compiler: `command`, in words. `what` names its output in errors."""

    command: tuple[str, ...]
    what: str


class BuildResult(Message, frozen=True):
    """What the staging directory holds, and what it was made from.

    `undigested` says why the graph has no digest, if it has none. `reference_data_kept`: the
    reference data is the stored one. `weights` is set after a compile only. `sources` and what
    follows are what the model's code used.
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
    weights: WeightsPlace | None = None
    undigested: str | None = None


class BuildJob(TargetJob[BuildResult], frozen=True):
    """Make an artifact of the target in the directory `staged`, as the answer to a `KeysQuestion`
    says.

    reference data beyond the limit go to the file `whole_reference_data` as well.
    `architecture_options` are settings of inductor for the architecture; `toolchain` and
    `environment` parts of the source key. `replaced_variables` have the values that were set before
    the parent set its own. `skew_ns`: nanoseconds that the clock of the sources' file system is
    ahead of this host's.
    """

    staged: str
    whole_reference_data: str
    cache_root: str
    architecture_options: JsonObject
    where: Where
    toolchain: Mapping[str, str]
    environment: Mapping[str, str]
    replaced_variables: Mapping[str, str | None]
    skew_ns: int


class CheckResult(Message, frozen=True):
    """`no_fp64` says why there was no float64 reference; `baseline` is None if models.yaml names
    none. `unavailable` says why the package cannot be run from C++ at all: then nothing passed, and
    there are no cases."""

    passed: bool
    cases: tuple[CallFigures, ...]
    vacuous: tuple[Vacuous, ...]
    no_fp64: str | None
    seconds: Seconds
    baseline: tuple[Loss, ...] | None = None
    unavailable: str | None = None


class CheckJob(PackageJob[CheckResult], frozen=True):
    """Compare the package with the reference data. With `runner`, a C++ program calls it."""

    runner: str | None


class ProbeResult(Message, frozen=True):
    """Each probe that was made, with its number."""

    probes: tuple[tuple[int, Refusal], ...]


class ProbeJob(PackageJob[ProbeResult], frozen=True):
    """Give the package inputs that it must refuse. The probes with numbers in `skip` crashed
    before. Each is announced as the phase ``probe NUMBER NAME``, so that the parent knows which one
    a crash belongs to."""

    runner: str | None
    skip: tuple[int, ...]


class FreshResult(Message, frozen=True):
    """The reference data was written."""

    seconds: Seconds


class FreshJob(TargetJob[FreshResult], frozen=True):
    """Make the file `reference_data` anew from the model's source, with this many `seeds`, for an
    artifact with this signature."""

    where: Where
    reference_data: str
    signature: Signature
    seeds: int


class LocalizeResult(Message, frozen=True):
    """Where the artifact leaves its model, in a sentence, with what was found there."""

    stage: Literal["weights", "export", "compile", "none"]
    said: str
    weights: tuple[WrongWeight, ...]
    left: ModuleDifference | None


class LocalizeJob(TargetJob[LocalizeResult], frozen=True):
    """Find out where the artifact leaves its model. The weights in the package `model` are looked
    at if they lie apart, with `alignment` in bytes; with `bisect`, prefixes are compiled."""

    where: Where
    architecture_options: JsonObject
    cache_root: str
    model: str | None
    alignment: int | None
    bisect: bool


class RunRequest(Part, frozen=True):
    """One run: on the files `paths`, or none for reference data and random inputs. Outputs go to
    the file `output`."""

    kind: InputKind
    paths: tuple[str, ...]
    output: str | None


class RunOutcome(Part, frozen=True):
    """The figures of one run, or the error that ended it."""

    figures: RunFigures | None = None
    error: ErrorRecord | None = None


class RunResult(Message, frozen=True):
    """The outcome of each run that was asked for, in the same order."""

    runs: tuple[RunOutcome, ...]


class RunJob(PackageJob[RunResult], frozen=True):
    """Call the package on each of `runs`, and time `repeat` calls of each."""

    where: Where
    seed: int
    repeat: int
    runs: tuple[RunRequest, ...]


JOBS: Mapping[str, type[Job[Any]]] = {
    job.verb(): job
    for job in (BuildJob, CheckJob, CompileJob, LocalizeJob, FreshJob, ProbeJob, RunJob)
}


# What a worker tells and asks while it works, and the answers


class Phase(Message, frozen=True):
    """A phase of the job has begun, or goes on: `name` is for people."""

    name: str


class Failure(Message, frozen=True):
    """The job ended with an error. It stands in the place of the result; it is an event where the
    result cannot be written."""

    error: ErrorRecord


class KeysQuestion(Message, frozen=True):
    """What shall a build do with the graph that has these keys?"""

    key: str
    graph_key: str


class Take(Message, frozen=True):
    """The package is in the staging directory, taken from the store; with `reference_data`, its
    reference data as well, which is kept if eager still gives what it holds."""

    reference_data: bool


class Repack(Message, frozen=True):
    """Exchange the weights in the package `template`, where each begins at a multiple of
    `alignment` bytes."""

    template: str
    alignment: int


class Compile(Message, frozen=True):
    """Compile the graph."""


Event: TypeAlias = Phase | Failure | KeysQuestion
EVENTS: tuple[type[Event], ...] = (Phase, Failure, KeysQuestion)
Answer: TypeAlias = Take | Repack | Compile
ANSWERS: tuple[type[Answer], ...] = (Take, Repack, Compile)


def encode(message: Message) -> dict[str, Json]:
    """The JSON document of a message."""
    return {**_HEAD, **msgspec.to_builtins(message, enc_hook=_plain)}


def _plain(value: Any) -> str | int | float:
    """What `json` takes and msgspec does not: texts and numbers of a type of their own."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    raise NotImplementedError(f"a message cannot hold a {type(value).__name__}")


def decode(document: Json, *kinds: type[AnyMessage], where: str | None = None) -> AnyMessage:
    """The message of one of `kinds` that a document is. Raises `MessageError`, which names `where`
    it was read."""
    if type(document) is not dict or document.get("format") != FORMAT:
        raise _unreadable(f"its format is not {FORMAT}", where)
    version, name = document.get("format_version"), document.get(TYPE)
    if type(version) is not int or version != FORMAT_VERSION:
        why = f"it has format version {version}, and aoti_build {__version__} reads"
        raise _unreadable(f"{why} {FORMAT_VERSION}", where)
    kind = next((kind for kind in kinds if kind.type_name() == name), None)
    if kind is None:
        expected = " or ".join(kind.type_name() for kind in kinds)
        raise _unreadable(f"it is a {name}, where a {expected} was expected", where)
    fields = {field: value for field, value in document.items() if field not in _HEAD}
    try:
        message = msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise _unreadable(f"{name}: {error}", where) from error
    if isinstance(message, TargetJob):
        try:
            _check_target(message.target_document)
        except (KeyError, TypeError, ValueError) as error:
            raise _unreadable(f"{name}: $.target: {error}", where) from error
    return message


def _check_target(document: TargetDocument) -> None:
    """Raises KeyError, TypeError or ValueError unless it is a target and nothing more."""
    found = target_to_json(target_from_json(document))
    if json.loads(json.dumps(found)) != document:
        raise ValueError("has a field that no target has")


def _unreadable(cause: str, where: str | None) -> MessageError:
    return MessageError(
        "a message between aoti_build and its worker process cannot be read",
        where=where,
        cause=cause,
        hint="both must be of one release: look for a second aoti_build on the worker's PYTHONPATH",
    )
