"""Imports point down only, as docs/explanation/architecture.md lists the layers, and torch stays
inside `_torch` and `runtime`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import aoti_build

PACKAGE = Path(aoti_build.__file__).parent
# Top-level module or package of aoti_build -> its layer. An import may go to the same layer or a
# lower one.
LAYERS = {
    "__init__": 0,
    "errors": 0,
    "figures": 0,
    "common": 1,
    "host": 2,
    "models_file": 3,
    "messages": 4,
    "artifact": 4,
    "store": 5,
    "registry": 5,
    "planning": 6,
    "work": 7,
    "measurement": 8,
    "commands": 9,
    "api": 10,
    "report": 10,
    "tasks": 11,
    "__main__": 11,
}
# Two that stand beside the layers, with the highest layer that each may import. `_torch` runs in
# workers. `runtime` loads packages in services and in workers, and the layers from `work` on may
# import it.
WORKER_SIDE = "_torch"
RUNTIME = "runtime"
MAY_IMPORT = {WORKER_SIDE: LAYERS["store"], RUNTIME: LAYERS["artifact"]}
# The modules of the runtime that run in a process without torch, for commands and for
# refusals before an import.
RUNTIME_WITHOUT_TORCH = {
    "__init__.py",
    "arguments.py",
    "binding.py",
    "buffers.py",
    "cache_entry.py",
    "choose.py",
    "constants.py",
    "gate.py",
    "graph_options.py",
    "leaves.py",
    "options.py",
    "package.py",
    "private.py",
    "process_directory.py",
    "request.py",
    "signed.py",
    "unpack.py",
    "unpacked_record.py",
}
HEAVY = {"torch", "torchvision", "numpy", "safetensors"}


def test_every_module_has_a_layer() -> None:
    present = {module_of(path) for path in PACKAGE.rglob("*.py")}
    unknown = sorted(present - {*LAYERS, WORKER_SIDE, RUNTIME})
    assert not unknown, (
        f"aoti_build.{unknown[0]} is in no layer: add it to LAYERS in {Path(__file__).name} and to "
        "docs/explanation/architecture.md, in the lowest layer that its imports allow"
    )


def test_imports_point_down() -> None:
    upward = [
        f"{place}: {importer} (layer {LAYERS[importer]}) imports {imported} (layer"
        f" {LAYERS[imported]})"
        for importer, imported, place in own_imports()
        if importer in LAYERS and imported in LAYERS and LAYERS[imported] > LAYERS[importer]
        # The package hands these functions out when one is asked for.
        if (importer, imported) != ("__init__", "api")
    ]
    assert not upward, "\n".join(upward)


def test_nobody_imports_what_runs_in_workers() -> None:
    importers = [
        place for importer, imported, place in own_imports() if imported == WORKER_SIDE != importer
    ]
    assert not importers, "start it with worker.run_worker instead: " + ", ".join(importers)


def test_what_runs_in_workers_and_services_imports_the_lower_layers_only() -> None:
    upward = [
        f"{place}: {importer} imports aoti_build.{imported}"
        for importer, imported, place in own_imports()
        if LAYERS.get(imported, 0) > MAY_IMPORT.get(importer, 99)
    ]
    assert not upward, "\n".join(upward)


def test_the_runtime_stands_on_its_own_and_nothing_below_work_imports_it() -> None:
    importers = {
        importer
        for importer, imported, _ in own_imports()
        if imported == RUNTIME and importer != RUNTIME
    }
    below = {name for name in importers if name != WORKER_SIDE and LAYERS[name] < LAYERS["work"]}
    assert below <= {"__init__"}, (
        "only the package itself, which hands out `load`, may: it does so when asked"
    )


def test_torch_is_imported_in_workers_and_services_only() -> None:
    places = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        for path in PACKAGE.rglob("*.py")
        if module_of(path) not in (WORKER_SIDE, RUNTIME)
        or (module_of(path) == RUNTIME and path.name in RUNTIME_WITHOUT_TORCH)
        for name, line in imported_names(path)
        if name.partition(".")[0] in HEAVY
    ]
    assert not places, "\n".join(places)


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside functions and for type checkers count as well."""
    modules = {dotted(path): path for path in PACKAGE.rglob("*.py")}
    graph = {}
    for name, path in modules.items():
        if path.name != "__init__.py":
            found = {nearest(imported, modules) for imported, _ in imported_names(path)}
            graph[name] = found - {name, None}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def nearest(imported: str, modules: Mapping[str, Path]) -> str | None:
    """The module that ``imported`` is, or is an attribute of; None for a package."""
    if imported in modules:
        return imported
    parent = imported.rpartition(".")[0]
    return parent if parent in modules else None


def module_of(path: Path) -> str:
    """The top-level module or package of aoti_build that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def own_imports() -> Iterator[tuple[str, str, str]]:
    """(importing module, imported module, place) of every import inside the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, line in imported_names(path):
            package, _, rest = name.partition(".")
            if package == "aoti_build" and rest:
                yield module_of(path), own_module(rest), f"{path.relative_to(PACKAGE)}:{line}"


def own_module(rest: str) -> str:
    """The top-level module that ``aoti_build.<rest>`` names; a plain attribute such as __version__
    is the package's."""
    name = rest.partition(".")[0]
    return name if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file() else "__init__"


def imported_names(path: Path) -> Iterator[tuple[str, int]]:
    """Every import statement of a file, wherever it stands, as dotted names with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = path.relative_to(PACKAGE.parent).parts[: -node.level]
                base = ".".join((*parents, *([node.module] if node.module else [])))
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
