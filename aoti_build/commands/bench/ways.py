"""Which ways a benchmark measures, with which caches, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aoti_build.errors import UsageError
from aoti_build.host import distributions
from aoti_build.measurement.bench_samples import CACHED_WAYS, OWN_WAYS, Subject
from aoti_build.measurement.record import Cache, Way
from aoti_build.measurement.samples import PEERS
from aoti_build.models_file.project import Target

# The words of ``--ways``.
WORDS = {
    "artifact": Way.ARTIFACT,
    "graphs": Way.ARTIFACT_GRAPHS,
    "aoti_load_package": Way.AOTI_LOAD_PACKAGE,
    "eager": Way.EAGER,
    "compile": Way.COMPILE,
    "reduce-overhead": Way.COMPILE_REDUCE_OVERHEAD,
    "onnxruntime": Way.ONNXRUNTIME,
    "openvino": Way.OPENVINO,
}
# Those of ``--peers``.
LIBRARIES = (Way.ONNXRUNTIME, Way.OPENVINO)
_FOR_GPUS = (Way.ARTIFACT_GRAPHS, Way.COMPILE_REDUCE_OVERHEAD)
# Samples of ways that torch.compile or `aoti_load_package` make slow: a first one takes up to a
# minute, and the others some seconds. Their differences from the artifact are far larger than the
# noise.
_SLOW_EMPTY = 1
_SLOW_USED = 3


def read_ways(words: Sequence[str]) -> tuple[Way, ...]:
    """The ways that words of ``--ways`` name. Raises `UsageError`."""
    for word in words:
        if word not in WORDS:
            raise UsageError(f"--ways {word} is not one of {', '.join(WORDS)}")
    return tuple(WORDS[word] for word in words)


def default_ways(target: Target, *, gate: bool) -> tuple[Way, ...]:
    """The ways without ``--ways``, beside that of the artifact that is compared. A `gate` needs no
    other."""
    if gate:
        return ()
    ways = [Way.ARTIFACT, Way.AOTI_LOAD_PACKAGE, Way.EAGER, Way.COMPILE]
    if target.hardware.has_graphs:
        ways += _FOR_GPUS
    return tuple(ways)


def possible_ways(target: Target, ways: Sequence[Way]) -> tuple[tuple[Way, ...], tuple[str, ...]]:
    """The ways that this host can measure for the target, and a sentence for each other one."""
    possible, notes = [], []
    for way in ways:
        obstacle = _obstacle(target, way)
        if obstacle is None:
            possible.append(way)
        else:
            notes.append(f"{way} was not measured: {obstacle}")
    return tuple(possible), tuple(notes)


def _obstacle(target: Target, way: Way) -> str | None:
    if way in PEERS and target.device != "cpu":
        return "other libraries are measured on the CPU only"
    if way in PEERS and distributions.version_of(way) is None:
        return f"{way} is not installed"
    if way == Way.ARTIFACT_GRAPHS and not target.hardware.has_graphs:
        return "there are no CUDA graphs on this device"
    return None


def subjects_of(ways: Sequence[Way], artifacts: Path) -> list[Subject]:
    """The rows of a benchmark: each way, with used and with empty caches if it has any."""
    subjects = []
    for way in dict.fromkeys(ways):
        caches = f"new-{list(Way).index(way)}"
        if way not in CACHED_WAYS:
            subjects.append(Subject(str(way), way, None, artifacts, caches))
            continue
        for cache in (Cache.USED, Cache.EMPTY):
            name = name_of(way, cache)
            subjects.append(Subject(name, way, cache, artifacts, caches))
    return subjects


def name_of(way: Way, cache: Cache | None) -> str:
    """``torch.compile, empty cache``."""
    return str(way) if cache is None else f"{way}, {cache} cache"


def wanted_samples(subject: Subject, samples: int) -> int:
    """How many samples a row gets if the fast ones get `samples`."""
    if subject.way in OWN_WAYS or subject.cache is None:
        return samples
    return min(samples, _SLOW_EMPTY if subject.cache == Cache.EMPTY else _SLOW_USED)
