"""How `aoti_build.load` is told to use CUDA graphs. No torch is imported here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aoti_build.errors import UsageError

_HINT = "pass True, a list of sizes such as [{'batch': 1}], or aoti_build.CudaGraphs(...)"


@dataclass(frozen=True)
class CudaGraphs:
    """Options of CUDA graphs. ``cuda_graphs=True`` of `aoti_build.load` stands for the defaults.

    Args:
        sizes: the sizes to record at load, each a value for every dim. Calls of other sizes run
            without a graph. None records each combination of sizes at its first call.
        limit: the most graphs. Calls of further sizes run without one.
        memory_limit: bytes of GPU memory. Once the graphs hold as much, no further one is recorded.
            None: no limit.
        static_outputs: return the tensors that the graph writes into, instead of copies. The next
            call of the same sizes overwrites them.

    Raises `UsageError` for a limit below 1.
    """

    sizes: Sequence[Mapping[str, int]] | None = None
    limit: int = 32
    memory_limit: int | None = None
    static_outputs: bool = False

    def __post_init__(self) -> None:
        if not _is_count(self.limit):
            raise UsageError(f"the limit of CUDA graphs is {self.limit!r}", hint="at least 1")
        if self.memory_limit is not None and not _is_count(self.memory_limit):
            raise UsageError(
                f"the memory limit of CUDA graphs is {self.memory_limit!r}",
                hint="a number of bytes, or None",
            )
        if self.sizes is None:
            return
        are_mappings = [isinstance(sizes, Mapping) for sizes in self.sizes]
        if isinstance(self.sizes, str | Mapping) or not all(are_mappings):
            raise UsageError(f"the sizes of CUDA graphs are {self.sizes!r}", hint=_HINT)
        if len(self.sizes) > self.limit:
            raise UsageError(
                f"there are {len(self.sizes)} sizes, and the limit of CUDA graphs is {self.limit}",
                hint="list fewer sizes, or pass aoti_build.CudaGraphs(sizes=..., limit=...)",
            )


def graph_options(value: Any) -> CudaGraphs | None:
    """The options that `cuda_graphs` of `aoti_build.load` stands for; None for False.

    Raises `UsageError` for a value that has no meaning.
    """
    if value is False or value is None:
        return None
    if value is True:
        return CudaGraphs()
    if isinstance(value, CudaGraphs):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return CudaGraphs(sizes=value)
    raise UsageError(f"cuda_graphs is {value!r}", hint=_HINT)


def report_text(report: Mapping[str, Any]) -> str:
    """A line about the graphs of a loaded model, from `cuda_graphs` in its metadata."""
    if report["why_not"] is not None:
        return f"no CUDA graphs: {report['why_not']}"
    count = len(report["graphs"])
    return f"CUDA graphs: {count} recorded, at most {report['limit']}"


def _is_count(value: Any) -> bool:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return is_integer and value >= 1
