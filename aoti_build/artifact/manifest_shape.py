"""What the fields of a manifest must be, as docs/reference/formats.md describes them: every field
that any module reads.

A manifest may be anybody's: it comes with artifacts from elsewhere, or out of a store that others
write to. Its digest of itself says that it is whole, and nothing of who made it. Names and digests
become paths, numbers become divisors and sizes, and texts are looked up, so all of that is settled
here, once.
"""

from __future__ import annotations

from typing import Any

from aoti_build.artifact.reasons import REASON_OF_GROUP
from aoti_build.common.digests import DIRECTORY, MOST_BLOCKS
from aoti_build.common.fields import (
    MAX_DIRECTORY_NAME,
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
from aoti_build.common.sizes import parse, solution_order
from aoti_build.host.devices import device_names

# Words of torch and of ours, such as a dtype, a device or an action.
_WORD = matching("[a-z][a-z0-9_-]{0,39}")
_TARGET = matching(f"{NAME}/{NAME}", 2 * MAX_DIRECTORY_NAME)
_FILE_NAME = matching("[A-Za-z0-9][A-Za-z0-9._-]*", MAX_DIRECTORY_NAME)
_MODELS_FILE = matching(r"[^/\0]+", MAX_DIRECTORY_NAME)
_TEXTS = list_of(text)
_PLAIN = matching("[ -~]+", MAX_DIRECTORY_NAME)  # what errors say to a terminal
_BOUND = or_none(number)
# Types that an output of a wider one may be computed in; a comparison has bounds for these.
_FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
_NARROWER = ("float32", "complex64", "float16", "bfloat16", *_FLOAT8, "int8", "uint8")
_OPERATOR = matching("[A-Za-z0-9_]+::[A-Za-z0-9_.]+", MAX_DIRECTORY_NAME)

FILE = table(
    {"sha256": digest, "size": integer()},
    {"blocks": table({"size": integer(1), "blake3": list_of(digest, 2, MOST_BLOCKS)})},
)

_WEIGHTS = either(
    table({"external": one_of(True), "alignment": integer(1, 1 << 20)}),
    table({"external": one_of(False), "why": text}),
)


def _device(value: Any) -> None:
    one_of(*device_names())(value)


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
        "imports": list_of(
            table({"module": module_name, "operators": list_of(_OPERATOR), "types": _TEXTS}), 1
        ),
        "instructions": table({"seen": or_none(_TEXTS)}, {"why": text}),
    },
)

_SHAPE = list_of(either(integer(), text))  # sizes, and expressions in the names of dims
_TENSOR = table({"name": text, "dtype": _WORD, "shape": _SHAPE})
_CONSTANT = table({"name": text, "constant": text})
_NUMBER = table({"name": text, "number": one_of("int", "float", "bool"), "value": text})


def _leaf(value: Any) -> None:
    """An input: a tensor, or what is compiled in."""
    (_CONSTANT if type(value) is dict and "constant" in value else _TENSOR)(value)


def _signature(value: Any) -> None:
    """Inputs and outputs, dims and writes; each input's size follows those dims, and they are told
    by the inputs."""
    _SIGNATURE(value)
    found = [
        parse(size)
        for entry in value["inputs"]
        for size in entry.get("shape", ())
        if type(size) is str
    ]
    follow = all(size.terms and value["dims"].keys() >= set(size.names) for size in found)
    if not follow or len(solution_order(found)) != len(found):
        raise ValueError("has a size that its dims do not tell")
    for sizes in value.get("special", ()):
        dims = {name: value["dims"].get(name) for name in sizes}
        if not all(dim and dim["min"] <= sizes[name] <= dim["max"] for name, dim in dims.items()):
            raise ValueError("has special sizes that are not those of its dims")


def _output(value: Any) -> None:
    """An output: as an input, or a number that follows from sizes or data."""
    (_NUMBER if type(value) is dict and "number" in value else _leaf)(value)


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
_SIGNATURE = table(
    {
        "inputs": list_of(_leaf),
        "outputs": list_of(_output),
        "dims": table_of(
            text, table({"min": integer(), "max": integer(), "multiple_of": integer(1)})
        ),
        "mutates": table({"inputs": _TEXTS, "buffers": _TEXTS}),
    },
    {
        "weights": list_of(_WEIGHT),
        "special": list_of(table_of(text, integer())),
        "computed_in": table_of(text, one_of(*_NARROWER)),
    },
)

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
}
# Nothing that failed is ever published.
_CHECK = either(
    table({"passed": one_of(True)}, _FINDINGS),
    table({"passed": one_of(None), "why": text}, _FINDINGS),
)

_REASON = table({"reason": _WORD, "what": text, "old": anything, "new": anything})
_PROVENANCE = table(
    {},
    {"aoti_build": text, "created": text, "git_commit": or_none(text), "git_dirty": or_none(flag)},
)

_SEEN = table_of(text, or_none(either(digest, one_of(DIRECTORY))))  # files, by what was found
_GROUPS = {
    "spec": table_of(text, anything),
    "config": table_of(text, anything),
    "sources": _SEEN,
    "distributions": table_of(matching("(?s).+", MAX_DIRECTORY_NAME), or_none(text)),
    "modules": table_of(text, or_none(one_of("installed"))),
    "variables": table_of(text, or_none(digest)),
    "weights": _SEEN,
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
        # A manifest of a release that did not have a group is out of date and not damaged.
        "source": table({}, {group: _GROUPS[group] for group in REASON_OF_GROUP}),
    }
)
