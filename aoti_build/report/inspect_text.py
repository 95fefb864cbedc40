"""What `inspect` found, as a tree for a terminal, and two packages' differences as a list.

Names and values come from files that anybody may have made: see `text.for_terminal`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aoti_build.report.terminal import for_terminal, size_text

if TYPE_CHECKING:
    from aoti_build.artifact.manifest import Manifest
    from aoti_build.commands.inspect import Inspected, InspectReport
    from aoti_build.commands.inspect_diff import Difference, DiffReport

_SHOWN = 12  # of a list of kernels or constants; --json has all of them
_LONGEST = 200  # characters of one value in a difference


@dataclass(frozen=True)
class _Node:
    text: str
    children: Sequence[_Node] = ()


@for_terminal
def inspect_lines(report: InspectReport) -> list[str]:
    """A tree for each artifact, with what is wrong with it below."""
    lines: list[str] = []
    for artifact in report.artifacts:
        lines += [*_lines(_artifact(artifact)), ""]
        lines += [
            line
            for problem in artifact.problems
            for line in (*f"error: {problem}".splitlines(), "")
        ]
    for choice in report.choices or ():
        lines += [
            f"{choice.model} on this host",
            *(f"  {line}" for line in str(choice).splitlines()),
            "",
        ]
    return lines[:-1]


@for_terminal
def diff_lines(report: DiffReport) -> list[str]:
    """A line per difference, by part; what is damaged at the end."""
    lines = [f"a  {report.a.name}", f"b  {report.b.name}", ""]
    for part in dict.fromkeys(difference.part for difference in report.differences):
        lines.append(part)
        lines += [f"  {_difference(one)}" for one in report.differences if one.part == part]
    if not report.differences:
        lines.append("no difference")
    for problem in (*report.a.problems, *report.b.problems):
        lines += ["", *f"error: {problem}".splitlines()]
    return lines


def _artifact(artifact: Inspected) -> _Node:
    package, manifest = artifact.package, artifact.manifest
    head = artifact.name if artifact.name == artifact.path else f"{artifact.name}  {artifact.path}"
    if package is None:
        return _Node(f"{head}  {artifact.state}", list(_recorded(manifest)) if manifest else ())
    children = [_made_by(package, manifest)]
    children += [_model(model, manifest) for model in package["models"]]
    children += _recorded(manifest) if manifest else ()
    children.append(_members(package["members"]))
    return _Node(f"{head}  {size_text(package['bytes'])}", children)


def _made_by(package: Mapping[str, Any], manifest: Manifest | None) -> _Node:
    made_by = package["made_by"]
    if manifest is not None:
        facts = manifest.provenance
        commit = f"commit {str(facts['git_commit'])[:12]}" if facts.get("git_commit") else ""
        parts = [
            str(facts.get("created", "")),
            commit,
            "with local changes" if facts.get("git_dirty") else "",
        ]
        text = ", ".join(
            part for part in (f"aoti_build {facts.get('aoti_build', '')}".strip(), *parts) if part
        )
    else:
        text = "aoti_build, by its own word" if made_by["aoti_build"] else "not aoti_build"
    key = [_Node(f"key: {made_by['key']}")] if made_by["key"] else []
    return _Node(f"made by: {text}", key)


def _model(model: Mapping[str, Any], manifest: Manifest | None) -> _Node:
    facts = [model[fact] for fact in ("device", "platform", "machine", "isa") if model[fact]]
    if model["compute_capability"] and model["device"] != "cpu":
        facts.append(f"compute capability {model['compute_capability']}")
    if model["march"]:
        facts.append("compiled with " + " ".join(f"-march={march}" for march in model["march"]))
    children = [*_signature(manifest.signature if manifest else model["signature"])]
    children += [_library(library) for library in model["libraries"]]
    children += _kernels(model)
    children += _constants(model)
    extra = {
        name: value for name, value in model["metadata"].items() if not name.startswith("AOTI_")
    }
    if extra:
        children.append(
            _Node("metadata", [_Node(f"{name}: {value}") for name, value in extra.items()])
        )
    return _Node(f"model {model['name']}: {', '.join(facts)}", children)


def _signature(signature: Mapping[str, Any]) -> Iterator[_Node]:
    for kind in ("inputs", "outputs"):
        if signature[kind]:
            yield _Node(kind, [_Node(_tensor(tensor)) for tensor in signature[kind]])
    if signature["dims"]:
        yield _Node(
            "sizes", [_Node(f"{name}: {_range(dim)}") for name, dim in signature["dims"].items()]
        )
    mutates = signature.get("mutates")  # a package alone does not say
    if mutates and mutates["inputs"]:
        yield _Node(f"writes into its inputs {', '.join(mutates['inputs'])}")
    if mutates and mutates["buffers"]:
        yield _Node(f"has state, kept from call to call in {', '.join(mutates['buffers'])}")


def _tensor(tensor: Mapping[str, Any]) -> str:
    if "constant" in tensor:
        return f"{tensor['name']}  always {tensor['constant']}"
    shape = tensor.get("shape")
    kind = [
        str(tensor.get("dtype") or ""),
        "" if shape is None else f"[{', '.join(map(str, shape))}]",
    ]
    return "  ".join(
        part for part in (tensor["name"], " ".join(part for part in kind if part)) if part
    )


def _range(dim: Mapping[str, int]) -> str:
    ends = (
        f"{dim.get('min', '?')} to {dim.get('max', '?')}"
        if dim.get("min") or dim.get("max")
        else "not limited"
    )
    step = dim.get("multiple_of", 1)
    return ends if step == 1 else f"{ends}, multiples of {step}"


def _library(library: Mapping[str, Any]) -> _Node:
    versions = ", ".join(f"{name} {version}" for name, version in library["versions"].items())
    facts = [f"for {library['machine']}, {library['bits']}-bit"]
    facts += [f"needs {', '.join(library['needed'])}"] if library["needed"] else []
    facts += [f"at least {versions}"] if versions else []
    facts += [f"compiled by {library['compiler']}"] if library["compiler"] else []
    return _Node(
        f"library: {_file(library['name'])}  {size_text(library['bytes'])}",
        [_Node(fact) for fact in facts],
    )


def _kernels(model: Mapping[str, Any]) -> Iterator[_Node]:
    kernels = model["kernels"]
    if kernels:
        counts = Counter(
            " ".join(filter(None, (kernel["kind"], kernel["arch"]))) for kernel in kernels
        )
        rows = [
            "  ".join(
                filter(
                    None, (kernel["name"] or _file(kernel["file"]), kernel["arch"], kernel["tool"])
                )
            )
            for kernel in kernels
        ]
        yield _Node(
            f"kernels: {', '.join(f'{count} {kind}' for kind, count in counts.items())}",
            _some(rows),
        )
    if model["operators"]:
        yield _Node(f"operators of torch: {', '.join(model['operators'])}")


def _constants(model: Mapping[str, Any]) -> Iterator[_Node]:
    constants, weights = model["constants"], model["weights"]
    files = ", ".join(
        f"{_file(file['name'])} {size_text(file['bytes'])}" for file in weights["files"]
    )
    place = {"files": f"in {files}", "library": "inside the shared library", "none": ""}[
        weights["where"]
    ]
    if not constants and not files:
        return
    rows = [
        f"{_tensor(constant)} "
        f" {size_text(constant['size'])}{', folded' if constant['folded'] else ''}"
        for constant in sorted(constants, key=lambda constant: -constant["size"])
    ]
    total = f"constants: {len(constants)}, {size_text(weights['bytes'])}"
    yield _Node(f"{total}, {place}" if place else total, _some(rows))


def _import(entry: Mapping[str, Any]) -> str:
    registers = ", ".join([*entry["operators"], *entry["types"]])
    return f"module {entry['module']}" + (f", for {registers}" if registers else "")


def _recorded(manifest: Manifest) -> Iterator[_Node]:
    """What only the manifest knows."""
    needs, check, toolchain = (
        manifest.requires,
        manifest.check,
        manifest.source.get("toolchain", {}),
    )
    yield _Node("keys", [_Node(f"artifact: {manifest.key}"), _Node(f"graph: {manifest.graph_key}")])
    apart = (
        "apart from the code"
        if manifest.weights.get("external")
        else f"part of the code: {manifest.weights['why']}"
    )
    yield _Node(f"weights: {apart}")
    wants = [f"{needs['device']}, {needs['platform']}, {needs['machine']}, torch {needs['torch']}"]
    if capability := needs.get("compute_capability"):
        code = f", with code for {', '.join(needs['gpu_code'])}" if needs.get("gpu_code") else ""
        wants.append(f"compute capability {capability}{code}")
    if needs["cpu_features"]:
        wants.append("processor features: " + " ".join(needs["cpu_features"]))
    wants += [_import(entry) for entry in manifest.imports]
    yield _Node("requires", [_Node(want) for want in wants])
    if toolchain:
        # The features are among what it requires.
        rows = [f"{name}: {value}" for name, value in toolchain.items() if name != "cpu.features"]
        yield _Node("built with", [_Node(row) for row in rows])
    cases = check.get("cases", [])
    errors = [
        output["max_abs"]
        for case in cases
        for output in case["outputs"]
        if output.get("max_abs") is not None
    ]
    worst = f", largest absolute error {max(errors):.4g}" if errors else ""
    checked = f"checked against eager: {len(cases)} cases{worst}"
    yield _Node(
        f"never compared with eager: {manifest.unverified}" if manifest.unverified else checked
    )
    beside = [
        f"{name}  {size_text(file.size)}  {file.sha256[:12]}"
        for name, file in sorted(manifest.files.items())
    ]
    yield _Node("files", [_Node(text) for text in beside])


def _members(members: Sequence[Mapping[str, Any]]) -> _Node:
    total = size_text(sum(member["bytes"] for member in members))
    rows = [f"{member['name']}  {size_text(member['bytes'])}" for member in members]
    return _Node(f"members: {len(members)}, {total}", _some(rows, 4 * _SHOWN))


def _difference(one: Difference) -> str:
    if one.a is None:
        return f"{one.what}: only in b: {_value(one.b)}"
    if one.b is None:
        return f"{one.what}: only in a: {_value(one.a)}"
    return f"{one.what}: {_value(one.a)} -> {_value(one.b)}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        parts = (f"{name} {_value(inner)}" for name, inner in value.items() if inner is not None)
        text = ", ".join(parts)
    elif isinstance(value, list):
        text = f"[{', '.join(map(_value, value))}]"
    else:
        text = str(value)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12]
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _some(rows: Sequence[str], most: int = _SHOWN) -> list[_Node]:
    more = [f"and {len(rows) - most} more"] if len(rows) > most else []
    return [_Node(row) for row in (*rows[:most], *more)]


def _file(name: str) -> str:
    return name.rpartition("/")[2]


def _lines(node: _Node) -> list[str]:
    lines = [node.text]
    for child in node.children:
        last = child is node.children[-1]
        head, *rest = _lines(child)
        lines.append(("└─ " if last else "├─ ") + head)
        lines += [("   " if last else "│  ") + line for line in rest]
    return lines
