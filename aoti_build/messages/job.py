"""What all jobs of worker processes have."""

from __future__ import annotations

from typing import Generic, TypeVar, get_args

import msgspec

from aoti_build.messages.parts import Import, Message, Signature, TargetDocument, Tolerance
from aoti_build.models_file.project import Target
from aoti_build.models_file.records import target_from_json

ResultT = TypeVar("ResultT", bound=Message)


class Job(Message, Generic[ResultT], frozen=True, kw_only=True):
    """Work for one worker process, whose current directory is the project's, `root`.

    Modules of the project are imported from the directories `python_path`, which are absolute.
    """

    root: str
    python_path: tuple[str, ...] = ()

    @classmethod
    def job_name(cls) -> str:
        """The name of the module in `aoti_build._torch.jobs` and of its function for the job."""
        return cls.type_name().removesuffix("-job")

    @classmethod
    def result_type(cls) -> type[ResultT]:
        """The type of the result, which is the argument of the class's base."""
        base = cls.__orig_bases__[0]  # type: ignore[attr-defined]  # set by typing
        return get_args(base)[0]  # type: ignore[no-any-return]


class TargetJob(Job[ResultT], frozen=True):
    """A job for one target."""

    target_document: TargetDocument = msgspec.field(name="target")

    @property
    def target(self) -> Target:
        return target_from_json(self.target_document)


class PackageJob(TargetJob[ResultT], frozen=True):
    """A job that loads the package `model` after `imports`.

    `reference_data` is the path of its reference data.
    """

    model: str
    reference_data: str
    tolerance: Tolerance
    signature: Signature
    imports: tuple[Import, ...]
