"""The shape of a manifest, as docs/reference/formats.md describes it: every field that is read.

A manifest may come with artifacts from elsewhere, or out of a store that others write to. Its
digest of itself shows that it is complete, not who made it. Names and digests become paths, numbers
become divisors and sizes, and texts are looked up. So every value is tested here, once.

Each reader raises ValueError for a value that is not as it should be. `manifest_types` has the same
tables as types.
"""

from __future__ import annotations

from typing import Any

from aoti_build.artifact.reasons import REASON_OF_GROUP
from aoti_build.common.digests import DIRECTORY, MOST_BLOCKS
from aoti_build.common.fields import (
    MAX_DIRECTORY_NAME,
    MAX_PATH,
    NAME,
    anything,
    digest,
    either,
    flag,
    integer,
    list_of,
    matching,
    module_name,
    number,
    one_of,
    or_none,
    table,
    table_of,
    text,
)
from aoti_build.common.memory_formats import RANKS
from aoti_build.common.sizes import parse, solution_order
from aoti_build.host.devices import device_names

# A word of torch or of aoti_build, such as a dtype, a device or an action.
_WORD = matching("[a-z][a-z0-9_-]{0,39}")
_TARGET = matching(f"{NAME}/{NAME}", 2 * MAX_DIRECTORY_NAME)
_FILE_NAME = matching("[A-Za-z0-9][A-Za-z0-9._-]*", MAX_DIRECTORY_NAME)
_MODELS_FILE = matching(r"[^/\0][^\0]*", MAX_PATH)
_TEXTS = list_of(text)
# ASCII without control characters, since errors print these values to a terminal.
_PLAIN = matching("[ -~]+", MAX_DIRECTORY_NAME)
_BOUND = or_none(number)
# The dtypes that an output of a wider dtype may be computed in. A comparison has bounds for these.
_NARROWER = (
    "float32",
    "complex64",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "int8",
    "uint8",
)
_OPERATOR = matching("[A-Za-z0-9_]+::[A-Za-z0-9_.]+", MAX_DIRECTORY_NAME)

_BLOCKS = table({"size": integer(1), "blake3": list_of(digest, 2, MOST_BLOCKS)})
FILE = table({"sha256": digest, "size": integer()}, {"blocks": _BLOCKS})

_LARGEST_ALIGNMENT = 1 << 20  # bytes
_WEIGHTS = either(
    table({"external": one_of(True), "alignment": integer(1, _LARGEST_ALIGNMENT)}),
    table({"external": one_of(False), "why": text}),
)


def _device(value: Any) -> None:
    # The registry of devices is asked when a manifest is read, not when this module is imported.
    one_of(*device_names())(value)


_IMPORT = table({"module": module_name, "operators": list_of(_OPERATOR), "types": _TEXTS})
_REQUIRES = table(
    {
        "device": _device,
        "platform": _PLAIN,
        "machine": _PLAIN,
        "torch": _PLAIN,
        "cpu_features": list_of(_PLAIN),
    },
    {
        "compute_capability": matching("[0-9]{1,3}[.][0-9]{1,3}"),
        "gpu_code": list_of(_PLAIN, 1),
        "imports": list_of(_IMPORT, 1),
        "instructions": table({"seen": or_none(_TEXTS)}, {"why": text}),
    },
)

# A size is a number, or an expression in the names of dims (`aoti_build.common.sizes`).
_SHAPE = list_of(either(integer(), text))
_TENSOR = table({"name": text, "dtype": _WORD, "shape": _SHAPE})
_INPUT_TENSOR = table(
    {"name": text, "dtype": _WORD, "shape": _SHAPE},
    {"memory_format": one_of(*RANKS)},
)
_CONSTANT = table({"name": text, "constant": text})
_NUMBER = table({"name": text, "number": one_of("int", "float", "bool"), "value": text})


def _input(value: Any) -> None:
    """An input: a tensor, which may have a memory format, or a constant that is compiled in."""
    if _is_constant(value):
        return
    _INPUT_TENSOR(value)
    memory_format = value.get("memory_format")
    if memory_format and len(value["shape"]) != RANKS[memory_format]:
        raise ValueError(f"{memory_format} is for tensors of another rank")


def _output(value: Any) -> None:
    """An output: a tensor, a constant, or a number that is computed from sizes or data."""
    if type(value) is dict and "number" in value:
        _NUMBER(value)
        if "dtype" not in value:
            return
    if not _is_constant(value):
        _TENSOR(value)


def _is_constant(value: Any) -> bool:
    """Whether an entry is a constant and nothing else.

    Readers take every entry with a dtype for a tensor.
    """
    if type(value) is not dict or "constant" not in value:
        return False
    _CONSTANT(value)
    return "dtype" not in value


_WEIGHT = table(
    {
        "name": text,
        "kind": one_of("parameter", "buffer", "constant"),
        "dtype": _WORD,
        "shape": list_of(integer()),
        "device": _WORD,
    },
    {"stride": list_of(integer()), "tied_to": text, "view": one_of(True)},
)
_DIM = table({"min": integer(), "max": integer(), "multiple_of": integer(1)})
_SIGNATURE = table(
    {
        "inputs": list_of(_input),
        "outputs": list_of(_output),
        "dims": table_of(text, _DIM),
        "mutates": table({"inputs": _TEXTS, "buffers": _TEXTS}),
    },
    {
        "weights": list_of(_WEIGHT),
        "special": list_of(table_of(text, integer())),
        "computed_in": table_of(text, one_of(*_NARROWER)),
    },
)


def _signature(value: Any) -> None:
    """Inputs, outputs, dims and writes, where inputs and dims agree."""
    _SIGNATURE(value)
    dims = value["dims"]
    _check_input_sizes(value["inputs"], dims)
    for sizes in value.get("special", []):
        _check_special_sizes(sizes, dims)


def _check_input_sizes(inputs: list[Any], dims: dict[str, Any]) -> None:
    """All sizes must follow from the dims, and the sizes of a call must give every dim."""
    sizes = []
    for entry in inputs:
        if "dtype" not in entry:
            continue  # a constant; its other fields are not read
        for size in entry["shape"]:
            if type(size) is str:
                sizes.append(parse(size))
    for size in sizes:
        if not size.terms or not dims.keys() >= set(size.names):
            raise ValueError("has a size that does not follow from its dims")
    if len(solution_order(sizes)) != len(sizes):
        raise ValueError("has sizes that do not determine its dims")


def _check_special_sizes(sizes: dict[str, int], dims: dict[str, Any]) -> None:
    for name, size in sizes.items():
        dim = dims.get(name)
        if dim is None or not dim["min"] <= size <= dim["max"]:
            raise ValueError("has special sizes that its dims do not have")


_FIGURES = table({"name": text, "ok": flag}, {"max_abs": _BOUND})
_CASE = table({"name": text, "outputs": list_of(_FIGURES)}, {"skipped": text})
_LOSS = table({"name": text, "relative_rmse": _BOUND, "sqnr_db": _BOUND, "ok": flag})
_FINDINGS = {
    "tolerance": table(
        {"atol": _BOUND, "rtol": _BOUND, "outputs": table_of(text, table_of(text, _BOUND))},
        {"baseline": number},
    ),
    "cases": list_of(_CASE),
    "vacuous": list_of(table({"output": text, "of": text})),
    "no_fp64": or_none(text),
    "baseline": list_of(_LOSS),
    "seconds": number,
    "latency": table({"artifact": number, "eager": or_none(number)}),
}
# An artifact that failed its check is never published, so `passed` is never false.
_CHECK = either(
    table({"passed": one_of(True)}, _FINDINGS),
    table({"passed": one_of(None), "why": text}, _FINDINGS),
)

_REASON = table({"reason": _WORD, "what": text, "old": anything, "new": anything})
_PROVENANCE = table(
    {},
    {"aoti_build": text, "created": text, "git_commit": or_none(text), "git_dirty": or_none(flag)},
)

# Paths with the digest of the file, or null if there was no file.
_PATHS = table_of(text, or_none(either(digest, one_of(DIRECTORY))))
_GROUPS = {
    "spec": table_of(text, anything),
    "config": table_of(text, anything),
    "sources": _PATHS,
    "distributions": table_of(matching("(?s).+", MAX_DIRECTORY_NAME), or_none(text)),
    "modules": table_of(text, or_none(text)),
    "variables": table_of(text, or_none(digest)),
    "weights": _PATHS,
    "toolchain": table_of(text, text),
    "environment": table_of(text, text),
}

MANIFEST = table(
    {
        "target": _TARGET,
        "models_file": _MODELS_FILE,
        "key": digest,
        "graph_key": digest,
        "weights": _WEIGHTS,
        "files": table_of(_FILE_NAME, FILE),
        "requires": _REQUIRES,
        "signature": _signature,
        "check": _CHECK,
        "seconds": table_of(text, number),
        "action": _WORD,
        "reasons": list_of(_REASON),
        "provenance": _PROVENANCE,
        # A manifest of a release without one of the groups is out of date, not damaged.
        "source": table({}, {group: _GROUPS[group] for group in REASON_OF_GROUP}),
    }
)
