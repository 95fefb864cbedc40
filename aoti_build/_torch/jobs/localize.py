"""The `localize` job: where does an artifact differ from its model? Three comparisons, each of
which would explain the next.

1. weights: those in the package against the model's, by name.
2. export: what the exported program computes in eager mode against the model itself, module by
   module; a model that does something else while it is exported shows here.
3. compile: prefixes of the program, each compiled with the target's options, against the same
   prefix in eager mode, by bisection. This is the only slow one, a compile for each step.

The outputs of modules are compared as they come and dropped, so that memory stays bounded.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node

from aoti_build._torch.checking.compare import Figures, compare, nearly
from aoti_build._torch.checking.eager import observe
from aoti_build._torch.checking.state import restored_state, restored_tensors
from aoti_build._torch.compiling import shared
from aoti_build._torch.compiling.corrections import corrected
from aoti_build._torch.compiling.isa import compiling_for
from aoti_build._torch.compiling.settings import inductor_options, set_precision
from aoti_build._torch.events import Events
from aoti_build._torch.jobs.prepared import prepare
from aoti_build._torch.packages.weights import read_weights
from aoti_build._torch.program.export import whole_ranges
from aoti_build._torch.program.inputs import Call
from aoti_build._torch.program.writes import Writes
from aoti_build.figures import ModuleDifference, OutputFigures, WrongWeight, typed
from aoti_build.messages import LocalizeJob, LocalizeResult

_BUDGET = 256 << 20  # bytes of eager outputs that are kept at a time
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def localize(job: LocalizeJob, events: Events) -> LocalizeResult:
    target, cache_root = job.target, Path(job.cache_root)
    shared.keep_below(cache_root)
    set_precision(target)
    with events.phase("model"):
        prepared = prepare(target.model, target.device, Path(job.root), job.where)
    with contextlib.ExitStack() as stack:
        stack.enter_context(whole_ranges())
        with events.phase("export"):
            exported = prepared.exported(job.where)
            program = exported.program
            stack.enter_context(exported.tracing())
        if job.model and job.alignment:
            with events.phase("localize: weights"):
                wrong = _wrong_weights(Path(job.model), program, job.alignment)
            if wrong:
                names = ", ".join(weight.name for weight in wrong[:3])
                said = f"the weights {names} are not the model's"
                return LocalizeResult(
                    stage="weights", said=said, weights=tuple(wrong[:20]), left=None
                )
        with events.phase("localize: export"):
            parts = prepared.module, program, prepared.example
            left = first_difference(*parts) or outputs_differ(*parts)
        if left is not None:
            said = _sentence(left, "the exported program")
            return LocalizeResult(stage="export", said=said, weights=(), left=left)
        if job.bisect:
            options = inductor_options(target, job.architecture_options, job.where, apart=False)
            architecture = compiling_for(job.architecture_options, options, cache_root)
            with events.phase("localize: compile"), architecture as told, corrected():
                left = _bisect(program, prepared.example, told)
            if left is not None:
                said = _sentence(left, "compiled code")
                return LocalizeResult(stage="compile", said=said, weights=(), left=left)
    said = (
        "what the source makes now agrees at every module: the artifact is of another source, graph"
        " or compiler"
    )
    return LocalizeResult(stage="none", said=said, weights=(), left=None)


def _difference(
    module: str, class_name: str, source: str, figures: Figures, missing: Sequence[str] = ()
) -> ModuleDifference:
    return ModuleDifference(
        module=module,
        class_name=class_name,
        source=source,
        figures=typed(figures, OutputFigures),
        missing=tuple(missing),
    )


def _sentence(left: ModuleDifference, what: str) -> str:
    where = f" ({left.source})" if left.source else ""
    missing = (
        f"; eager also runs {', '.join(left.missing[:3])}, which the program has not"
        if left.missing
        else ""
    )
    name = f"{left.module or 'the model itself'} [{left.class_name}]"
    why = f": {left.figures.why}" if left.figures and not left.module else ""
    return f"{what} first leaves the model at the output of {name}{where}{why}{missing}"


# Weights


def _wrong_weights(package: Path, program: ExportedProgram, alignment: int) -> list[WrongWeight]:
    """Names of weights whose bytes in the package are not the program's, in the order of the
    package."""
    values = {**program.state_dict, **program.constants}
    wrong = []
    with zipfile.ZipFile(package) as archive:
        for name, stored in read_weights(archive, values, alignment):
            mine = values[name].detach().cpu().contiguous().view(-1)
            if not torch.equal(stored.view(torch.uint8), mine.view(torch.uint8)):
                wrong.append(WrongWeight(name=name, max_abs=_largest_difference(mine, stored)))
    return wrong


def _largest_difference(mine: Tensor, stored: Tensor) -> float | None:
    difference = (mine.to(torch.float64) - stored.to(torch.float64)).abs()
    return (
        float(difference.max())
        if difference.numel() and bool(torch.isfinite(difference).all())
        else None
    )


# Export


class _EnoughError(Exception):
    """Ends an eager run once the outputs that are wanted were seen."""


@dataclass
class _Recorder:
    """Keeps the tensor outputs of module calls number `start` and on, in the order in which they
    end."""

    module: nn.Module
    start: int
    kept: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    order: list[tuple[str, int]] = field(default_factory=list)
    held: int = 0  # bytes

    def run(self, call: Call) -> bool:
        """Whether the model ran to its end."""
        hooks = [
            module.register_forward_hook(self._hook(path), always_call=False)
            for path, module in self.module.named_modules()
        ]
        given = call.clone()
        try:
            with torch.no_grad(), restored_state(self.module):
                self.module(*given.args, **given.kwargs)
            return True
        except _EnoughError:
            return False
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, path: str) -> Callable[..., None]:
        calls = 0

        def ended(_module: nn.Module, _given: Any, output: Any) -> None:
            nonlocal calls
            key, calls = (path, calls), calls + 1
            self.order.append(key)
            if len(self.order) <= self.start or not isinstance(output, Tensor):
                return
            self.kept[key] = output.clone()
            self.held += output.numel() * output.element_size()
            if self.held > _BUDGET:
                raise _EnoughError

        return ended


def first_difference(
    module: nn.Module, program: ExportedProgram, call: Call
) -> ModuleDifference | None:
    """The first module call whose output the program does not reproduce in eager mode; None if all
    are reproduced."""
    start = 0
    kinds = {path: type(part).__name__ for path, part in module.named_modules()}
    while True:
        recorder = _Recorder(module, start)
        finished = recorder.run(call)
        replay = _Replay(program, recorder.kept, kinds)
        left = replay.compare(call)
        if left is not None:
            before = recorder.order[: recorder.order.index((left.module, replay.found_call)) + 1]
            missing = [path for path, _ in before if path and path not in replay.seen]
            return replace(left, missing=tuple(dict.fromkeys(missing)))
        if finished:
            return None
        start = len(recorder.order)


def outputs_differ(
    module: nn.Module, program: ExportedProgram, call: Call
) -> ModuleDifference | None:
    """The first output that the program does not reproduce, where all modules agree: dropped,
    swapped, changed last."""
    eager, replayed = _tensors_of(module, call), _tensors_of(program.module(), call)
    kind = type(module).__name__
    if len(eager) != len(replayed):
        why = f"{len(replayed)} outputs, expected {len(eager)}"
        return _difference("", kind, "", {"name": "outputs", "ok": False, "why": why})
    for index, (mine, theirs) in enumerate(zip(eager, replayed, strict=True)):
        figures = nearly(f"output {index}", mine, theirs)
        if not figures["ok"]:
            other = next(
                (i for i, value in enumerate(replayed) if nearly("", mine, value)["ok"]), None
            )
            if other is not None:
                figures["why"] += f"; it is output {other} there: the order is another"
            return _difference("", kind, "", figures)
    return None


def _tensors_of(module: nn.Module, call: Call) -> list[Tensor]:
    with restored_state(module):
        return [value for value in observe(module, call, Writes()) if isinstance(value, Tensor)]


class _FoundError(Exception):
    """Ends a replay at the first difference."""


class _Replay(Interpreter):
    """Runs a program node by node and compares each module's last value with what eager gave for
    that call."""

    def __init__(
        self,
        program: ExportedProgram,
        expected: Mapping[tuple[str, int], Tensor],
        kinds: Mapping[str, str],
    ) -> None:
        super().__init__(program.graph_module)
        self._program, self._expected, self._kinds = program, expected, kinds
        self._exits = _exits(program.graph_module)
        self.seen = {path for keys in self._exits.values() for path, _ in keys}
        self.left: ModuleDifference | None = None
        self.found_call = 0

    def compare(self, call: Call) -> ModuleDifference | None:
        given = call.clone()
        flat = self._program._graph_module_flat_inputs(given.args, given.kwargs)
        state = [value for value in self._program.state_dict.values() if isinstance(value, Tensor)]
        # The graph writes into the program's own buffers.
        with torch.no_grad(), restored_tensors(state), contextlib.suppress(_FoundError):
            self.run(*flat)
        return self.left

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        for path, number in self._exits.get(n, ()):
            expected = self._expected.get((path, number))
            if expected is None or not isinstance(value, Tensor):
                continue
            figures = nearly(path or "output", expected, value)
            if not figures["ok"]:
                self.left = _difference(path, self._kinds.get(path, "?"), _source(n), figures)
                self.found_call = number
                raise _FoundError
        return value


def _exits(graph_module: GraphModule) -> dict[Node, list[tuple[str, int]]]:
    """For each node, the module calls (path, which call) that end with it, innermost first."""
    found: dict[Node, list[tuple[str, int]]] = {}
    calls: dict[str, int] = {}
    previous: tuple[Node, list[str]] | None = None
    for node, stack in [*_stacked(graph_module), (None, [])]:
        if previous is not None:
            last, open_paths = previous
            for path in reversed([path for path in open_paths if path not in stack]):
                plain = path.partition("@")[0]
                found.setdefault(last, []).append((plain, calls.get(plain, 0)))
                calls[plain] = calls.get(plain, 0) + 1
        previous = (node, stack) if node is not None else None
    return found


def _stacked(graph_module: GraphModule) -> Iterator[tuple[Node, list[str]]]:
    """Nodes that compute, with the paths of the modules they are in, outermost first."""
    for node in graph_module.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if node.op == "call_function" and stack:
            yield node, [str(path) for path, _ in stack.values()]


def _source(node: Node) -> str:
    """``file:line`` of the innermost frame that torch recorded for the node."""
    frames = _FRAME.findall(str(node.meta.get("stack_trace") or ""))
    own = [frame for frame in frames if "/torch/" not in frame[0]] or frames
    return ":".join(own[-1]) if own else ""


# Compile


def _bisect(
    program: ExportedProgram, call: Call, options: Mapping[str, Any]
) -> ModuleDifference | None:
    """The first module exit at which compiled code is not what the program gives; None if the whole
    agrees."""
    exits = [
        (node, keys[0][0])
        for node, keys in _exits(program.graph_module).items()
        if _is_tensor(node)
    ]
    low, high, found = 0, len(exits) - 1, None
    while low <= high:
        middle = high if found is None and high == len(exits) - 1 else (low + high) // 2
        node, path = exits[middle]
        figures = _compiled_prefix(program, node.name, call, options)
        if figures["ok"]:
            if found is None and middle == len(exits) - 1:
                return None
            low = middle + 1
        else:
            kind = str(
                next(reversed((node.meta.get("nn_module_stack") or {"": ("", "?")}).values()))[1]
            )
            found = _difference(path, kind.rpartition(".")[2], _source(node), figures)
            high = middle - 1
    return found


def _compiled_prefix(
    program: ExportedProgram, name: str, call: Call, options: Mapping[str, Any]
) -> Figures:
    """Compile the program up to the node `name`, at the example's sizes, and compare its value with
    eager's."""
    import torch._inductor

    from aoti_build._torch.packages.loaded import LoadedPackage

    prefix = program.module(check_guards=False)
    node = next(node for node in prefix.graph.nodes if node.name == name)
    output = next(node for node in prefix.graph.nodes if node.op == "output")
    output.args = ((node,),)
    prefix.graph._codegen.pytree_info = prefix.graph._codegen.pytree_info._replace(out_spec=None)
    prefix.graph.eliminate_dead_code()
    prefix.recompile()
    given = call.clone()
    with torch.no_grad(), tempfile.TemporaryDirectory(prefix="aoti_build-") as directory:
        with restored_state(prefix):  # which the package must begin with too
            expected = prefix(*given.args, **given.kwargs)[0].clone()
        cut = torch.export.export(prefix, call.args, call.kwargs, strict=False)
        path = Path(directory) / "prefix.pt2"
        torch._inductor.aoti_compile_and_package(
            cut, package_path=str(path), inductor_configs=dict(options)
        )
        (got,) = LoadedPackage(path, expected.device.type)(call.clone().tensors())
    return compare(name, expected, got, {})


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)
