"""The messages between the build process and its workers: jobs, results, events and answers.

Each message is one JSON document, in a file or on one line of a pipe:

    {"format": "aoti-build/message", "format_version": 1, "type": "compile-job", "root": ...}

Both sides use the types of this package. `decode` refuses everything else: a missing field, an
unknown field, a value of another type and another version are a `MessageError`. So a worker of
another release of aoti_build is recognised by its first message.

The figures in results are in `aoti_build.figures`. Paths are absolute.
"""

from __future__ import annotations

from aoti_build.messages.building import (
    BuildJob,
    BuildResult,
    CompileJob,
    CompileResult,
    LocalizeJob,
    LocalizeResult,
)
from aoti_build.messages.checking import (
    CheckJob,
    CheckResult,
    FreshJob,
    FreshResult,
    InputKind,
    OutputsJob,
    OutputsResult,
    ProbeJob,
    ProbeResult,
    RunJob,
    RunOutcome,
    RunRequest,
    RunResult,
)
from aoti_build.messages.codec import FORMAT, FORMAT_VERSION, decode, encode
from aoti_build.messages.dialogue import (
    ANSWERS,
    EVENTS,
    Answer,
    Compile,
    Event,
    Failure,
    KeysQuestion,
    Phase,
    Repack,
    Span,
    SpanKind,
    Stage,
    Take,
    Turn,
    TurnQuestion,
)
from aoti_build.messages.job import Job, PackageJob, ResultT, TargetJob
from aoti_build.messages.jobs import JOBS
from aoti_build.messages.measuring import (
    BenchJob,
    BenchResult,
    CallsJob,
    CallsResult,
    MeasureJob,
    MeasureResult,
    PeerJob,
    PeerResult,
)
from aoti_build.messages.parts import (
    AnyMessage,
    ErrorRecord,
    Import,
    Json,
    JsonObject,
    Message,
    Recorded,
    Signature,
    Tolerance,
    WeightsRecord,
)

__all__ = [
    "ANSWERS",
    "EVENTS",
    "FORMAT",
    "FORMAT_VERSION",
    "JOBS",
    "Answer",
    "AnyMessage",
    "BenchJob",
    "BenchResult",
    "BuildJob",
    "BuildResult",
    "CallsJob",
    "CallsResult",
    "CheckJob",
    "CheckResult",
    "Compile",
    "CompileJob",
    "CompileResult",
    "ErrorRecord",
    "Event",
    "Failure",
    "FreshJob",
    "FreshResult",
    "Import",
    "InputKind",
    "Job",
    "Json",
    "JsonObject",
    "KeysQuestion",
    "LocalizeJob",
    "LocalizeResult",
    "MeasureJob",
    "MeasureResult",
    "Message",
    "OutputsJob",
    "OutputsResult",
    "PackageJob",
    "PeerJob",
    "PeerResult",
    "Phase",
    "ProbeJob",
    "ProbeResult",
    "Recorded",
    "Repack",
    "ResultT",
    "RunJob",
    "RunOutcome",
    "RunRequest",
    "RunResult",
    "Signature",
    "Span",
    "SpanKind",
    "Stage",
    "Take",
    "TargetJob",
    "Tolerance",
    "Turn",
    "TurnQuestion",
    "WeightsRecord",
    "decode",
    "encode",
]
