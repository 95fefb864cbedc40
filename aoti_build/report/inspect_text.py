"""The report of `inspect` as a tree for a terminal, and the differences of two packages as a list.

Names and values come from files that anybody may have written: see `terminal.for_terminal`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aoti_build.report.terminal import error_lines, for_terminal, printable_line, size_text

if TYPE_CHECKING:
    from aoti_build.artifact.manifest import Manifest
    from aoti_build.commands.inspect.command import Inspected, InspectReport
    from aoti_build.commands.inspect.diff import Difference, DiffReport

# How much of a tree to show, from the most to the least: the depth of branches, and the rows of
# each list.
_VIEWS = (*((9, rows) for rows in (12, 8, 5, 3, 2, 1, 0)), (1, 0), (0, 0))
# Characters of one value in a difference.
_LONGEST_VALUE = 200


@dataclass(frozen=True)
class _Node:
    """A line of the tree, and the nodes below it."""

    text: str
    children: Sequence[_Node] = ()


def _branch(text: str, rows: Sequence[str]) -> _Node:
    """A node with a leaf for each row."""
    return _Node(text, [_Node(row) for row in rows])


def inspect_lines(
    report: InspectReport, rows: int | None = None, width: int | None = None
) -> list[str]:
    """A tree for each artifact with its problems below, and the choices of this host.

    With `rows`, the trees show as much as fits into so many, and at least a line each. With
    `width`, lines are cut.
    """
    trees = [_artifact(artifact) for artifact in report.artifacts]
    view = _best_view(report, trees, rows) if rows else None
    shown = [tree if view is None else _viewed(tree, *view) for tree in trees]
    lines = [printable_line(line) for line in _report_lines(report, shown)]
    if view is not None and shown != trees:
        lines += ["", "--all shows everything"]
    if width is None:
        return lines
    return [line if len(line) <= width else f"{line[: width - 2]}.." for line in lines]


def _report_lines(report: InspectReport, trees: Sequence[_Node]) -> list[str]:
    lines: list[str] = []
    for artifact, tree in zip(report.artifacts, trees, strict=True):
        lines += _tree_lines(tree)
        # A line each needs no empty lines between.
        if tree.children or artifact.problems:
            lines.append("")
        for problem in artifact.problems:
            lines += error_lines(problem)
            lines.append("")
    for choice in report.choices or ():
        lines.append(f"{choice.model} on this host")
        lines += [f"  {line}" for line in str(choice).splitlines()]
        lines.append("")
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _best_view(report: InspectReport, trees: Sequence[_Node], rows: int) -> tuple[int, int]:
    """The view that shows the most and fits, or else the smallest."""
    for view in _VIEWS:
        lines = _report_lines(report, [_viewed(tree, *view) for tree in trees])
        # Two more say that there is more, and the last is the shell's.
        if len(lines) <= rows - 3:
            return view
    return _VIEWS[-1]


def _viewed(node: _Node, depth: int, most: int) -> _Node:
    """The tree with branches down to `depth`, and lists of up to `most` rows."""
    if not node.children:
        return node
    is_list = not any(child.children for child in node.children)
    if not depth:
        return _Node(node.text)
    if not is_list:
        return _Node(node.text, [_viewed(child, depth - 1, most) for child in node.children])
    left_out = len(node.children) - most
    if left_out <= 0:
        return node
    if not most:
        plural = "" if left_out == 1 else "s"
        return _Node(f"{node.text} ({left_out} row{plural})")
    return _Node(node.text, [*node.children[:most], _Node(f"and {left_out} more")])


@for_terminal
def diff_lines(report: DiffReport) -> list[str]:
    """A line for each difference, by part, and then the problems of both sides."""
    lines = [f"a  {report.a.name}", f"b  {report.b.name}", ""]
    by_part: dict[str, list[Difference]] = {}
    for difference in report.differences:
        by_part.setdefault(difference.part, []).append(difference)
    for part, differences in by_part.items():
        lines.append(part)
        lines += [f"  {_difference_text(difference)}" for difference in differences]
    if not report.differences:
        lines.append("no difference")
    for problem in (*report.a.problems, *report.b.problems):
        lines.append("")
        lines += error_lines(problem)
    return lines


def _artifact(artifact: Inspected) -> _Node:
    package = artifact.package
    manifest = artifact.manifest
    head = artifact.name
    if artifact.path != artifact.name:
        head += f"  {artifact.path}"
    if package is None:
        children = list(_manifest_nodes(manifest)) if manifest else []
        return _Node(f"{head}  {artifact.state}", children)
    children = [_made_by(package, manifest)]
    for model in package["models"]:
        children.append(_model(model, manifest))
    if manifest:
        children += _manifest_nodes(manifest)
    children.append(_members(package["members"]))
    return _Node(f"{head}  {size_text(package['bytes'])}", children)


def _made_by(package: Mapping[str, Any], manifest: Manifest | None) -> _Node:
    made_by = package["made_by"]
    if manifest is not None:
        text = _provenance_text(manifest.provenance)
    elif made_by["aoti_build"]:
        # Without a manifest there is only the package's own claim.
        text = "aoti_build, as the package claims"
    else:
        text = "not aoti_build"
    rows = [f"key: {made_by['key']}"] if made_by["key"] else []
    return _branch(f"made by: {text}", rows)


def _provenance_text(facts: Mapping[str, Any]) -> str:
    """``aoti_build 0.1.0, 2025-03-11T14:02:09+00:00, commit 0123456789ab, with local changes``."""
    parts = [f"aoti_build {facts.get('aoti_build', '')}".strip()]
    if facts.get("created"):
        parts.append(str(facts["created"]))
    if facts.get("git_commit"):
        parts.append(f"commit {str(facts['git_commit'])[:12]}")
    if facts.get("git_dirty"):
        parts.append("with local changes")
    return ", ".join(parts)


def _model(model: Mapping[str, Any], manifest: Manifest | None) -> _Node:
    facts = []
    for name in ("device", "platform", "machine", "isa"):
        if model[name]:
            facts.append(model[name])
    if model["compute_capability"] and model["device"] != "cpu":
        facts.append(f"compute capability {model['compute_capability']}")
    if model["march"]:
        options = " ".join(f"-march={march}" for march in model["march"])
        facts.append(f"compiled with {options}")
    children = list(_signature(manifest.signature if manifest else model["signature"]))
    children += [_library(library) for library in model["libraries"]]
    children += _kernels(model)
    children += _constants(model)
    # The head has the facts of torch's own metadata.
    metadata = []
    for name, value in model["metadata"].items():
        if not name.startswith("AOTI_"):
            metadata.append(f"{name}: {value}")
    if metadata:
        children.append(_branch("metadata", metadata))
    return _Node(f"model {model['name']}: {', '.join(facts)}", children)


def _signature(signature: Mapping[str, Any]) -> Iterator[_Node]:
    for kind in ("inputs", "outputs"):
        if signature[kind]:
            yield _branch(kind, [_tensor_text(tensor) for tensor in signature[kind]])
    if signature["dims"]:
        rows = [f"{name}: {_dim_text(dim)}" for name, dim in signature["dims"].items()]
        yield _branch("sizes", rows)
    # The signature of a package without a manifest does not have this field.
    mutates = signature.get("mutates")
    if mutates and mutates["inputs"]:
        yield _Node(f"writes into its inputs {', '.join(mutates['inputs'])}")
    if mutates and mutates["buffers"]:
        yield _Node(f"has state, kept from call to call in {', '.join(mutates['buffers'])}")


def _tensor_text(tensor: Mapping[str, Any]) -> str:
    if "constant" in tensor:
        return f"{tensor['name']}  always {tensor['constant']}"
    kind = []
    if tensor.get("dtype"):
        kind.append(str(tensor["dtype"]))
    shape = tensor.get("shape")
    if shape is not None:
        kind.append(f"[{', '.join(map(str, shape))}]")
    if tensor.get("memory_format"):
        kind.append(str(tensor["memory_format"]))
    parts = [tensor["name"], " ".join(kind)]
    return "  ".join(part for part in parts if part)


def _dim_text(dim: Mapping[str, int]) -> str:
    text = "not limited"
    if dim.get("min") or dim.get("max"):
        text = f"{dim.get('min', '?')} to {dim.get('max', '?')}"
    step = dim.get("multiple_of", 1)
    return text if step == 1 else f"{text}, multiples of {step}"


def _library(library: Mapping[str, Any]) -> _Node:
    rows = [f"for {library['machine']}, {library['bits']}-bit"]
    if library["needed"]:
        rows.append(f"needs {', '.join(library['needed'])}")
    if library["versions"]:
        versions = [f"{name} {version}" for name, version in library["versions"].items()]
        rows.append(f"at least {', '.join(versions)}")
    if library["compiler"]:
        rows.append(f"compiled by {library['compiler']}")
    head = f"library: {_file_name(library['name'])}  {size_text(library['bytes'])}"
    return _branch(head, rows)


def _kernels(model: Mapping[str, Any]) -> Iterator[_Node]:
    counts: Counter[str] = Counter()
    rows = []
    for kernel in model["kernels"]:
        arch = kernel["arch"]
        counts[_joined(" ", kernel["kind"], arch)] += 1
        name = kernel["name"] or _file_name(kernel["file"])
        rows.append(_joined("  ", name, arch, kernel["tool"]))
    if rows:
        totals = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        yield _branch(f"kernels: {totals}", rows)
    if model["operators"]:
        yield _Node(f"operators of torch: {', '.join(model['operators'])}")


def _constants(model: Mapping[str, Any]) -> Iterator[_Node]:
    # The largest first, because the list is cut.
    constants = sorted(model["constants"], key=lambda constant: -constant["size"])
    weights = model["weights"]
    if not constants and not weights["files"]:
        return
    head = f"constants: {len(constants)}, {size_text(weights['bytes'])}"
    if weights["where"] == "library":
        head += ", inside the shared library"
    elif weights["where"] == "files":
        files = []
        for file in weights["files"]:
            files.append(f"{_file_name(file['name'])} {size_text(file['bytes'])}")
        head += f", in {', '.join(files)}"
    rows = []
    for constant in constants:
        folded = ", folded" if constant["folded"] else ""
        rows.append(f"{_tensor_text(constant)}  {size_text(constant['size'])}{folded}")
    yield _branch(head, rows)


def _manifest_nodes(manifest: Manifest) -> Iterator[_Node]:
    """The facts that only the manifest has."""
    yield _branch("keys", [f"artifact: {manifest.key}", f"graph: {manifest.graph_key}"])
    yield _Node(f"weights: {_weights_text(manifest.weights)}")
    yield _branch("requires", _requirements(manifest))
    toolchain = manifest.source.get("toolchain", {})
    if toolchain:
        rows = []
        for name, value in toolchain.items():
            # The features of the processor are among the requirements.
            if name != "cpu.features":
                rows.append(f"{name}: {value}")
        yield _branch("built with", rows)
    yield _Node(_check_text(manifest))
    files = []
    for name, file in sorted(manifest.files.items()):
        files.append(f"{name}  {size_text(file.size)}  {file.sha256[:12]}")
    yield _branch("files", files)


def _weights_text(weights: Mapping[str, Any]) -> str:
    if weights.get("external"):
        return "apart from the code"
    return f"part of the code: {weights['why']}"


def _requirements(manifest: Manifest) -> list[str]:
    needs = manifest.requires
    rows = [f"{needs['device']}, {needs['platform']}, {needs['machine']}, torch {needs['torch']}"]
    capability = needs.get("compute_capability")
    if capability:
        row = f"compute capability {capability}"
        if needs.get("gpu_code"):
            row += f", with code for {', '.join(needs['gpu_code'])}"
        rows.append(row)
    if needs["cpu_features"]:
        rows.append("processor features: " + " ".join(needs["cpu_features"]))
    for entry in manifest.imports:
        row = f"module {entry['module']}"
        registered = [*entry["operators"], *entry["types"]]
        if registered:
            row += f", for {', '.join(registered)}"
        rows.append(row)
    return rows


def _check_text(manifest: Manifest) -> str:
    """The result of the comparison with eager mode."""
    if manifest.unverified:
        return f"never compared with eager: {manifest.unverified}"
    cases = manifest.check.get("cases", [])
    errors = []
    for case in cases:
        for output in case["outputs"]:
            if output.get("max_abs") is not None:
                errors.append(output["max_abs"])
    worst = f", largest absolute error {max(errors):.4g}" if errors else ""
    return f"checked against eager: {len(cases)} cases{worst}"


def _members(members: Sequence[Mapping[str, Any]]) -> _Node:
    rows = [f"{member['name']}  {size_text(member['bytes'])}" for member in members]
    total = size_text(sum(member["bytes"] for member in members))
    return _branch(f"members: {len(members)}, {total}", rows)


def _difference_text(difference: Difference) -> str:
    a = _value_text(difference.a)
    b = _value_text(difference.b)
    if difference.a is None:
        return f"{difference.what}: only in b: {b}"
    if difference.b is None:
        return f"{difference.what}: only in a: {a}"
    return f"{difference.what}: {a} -> {b}"


def _value_text(value: object) -> str:
    """A value in one line. Digests and long values are cut."""
    if isinstance(value, Mapping):
        parts = []
        for name, entry in value.items():
            if entry is not None:
                parts.append(f"{name} {_value_text(entry)}")
        text = ", ".join(parts)
    elif isinstance(value, list):
        entries = [_value_text(entry) for entry in value]
        text = f"[{', '.join(entries)}]"
    else:
        text = str(value)
    # The first characters are enough to tell two digests apart.
    is_sha256 = len(text) == 64 and set(text) <= set("0123456789abcdef")
    if is_sha256:
        return text[:12]
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."


def _joined(separator: str, *parts: str | None) -> str:
    """The parts that are not empty."""
    return separator.join(part for part in parts if part)


def _file_name(path: str) -> str:
    return path.rpartition("/")[2]


def _tree_lines(node: _Node) -> list[str]:
    lines = [node.text]
    for child in node.children:
        is_last = child is node.children[-1]
        head, *below = _tree_lines(child)
        lines.append(("└─ " if is_last else "├─ ") + head)
        indentation = "   " if is_last else "│  "
        lines += [indentation + line for line in below]
    return lines
