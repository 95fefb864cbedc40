"""Compares an exported program with its model in eager mode, module by module.

Outputs of modules are compared as they come and dropped, so that memory stays bounded.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node

from aoti_build._torch.checking.compare import Figures, nearly
from aoti_build._torch.checking.eager import observe
from aoti_build._torch.checking.state import restored_state, restored_tensors
from aoti_build._torch.program.inputs import Call
from aoti_build._torch.program.writes import Writes
from aoti_build.figures import ModuleDifference, OutputFigures, typed

# A call of a module: its path, and the number of the call.
ModuleCall = tuple[str, int]

# Bytes of eager-mode outputs that are held at a time.
_BUDGET = 256 << 20
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


class _EnoughError(Exception):
    """Ends an eager-mode run when the budget for outputs is used up."""


@dataclass
class _Recorder:
    """Records the tensor outputs of module calls, from number `start` on, in the order in which
    the calls end."""

    module: nn.Module
    start: int
    outputs: dict[ModuleCall, Tensor] = field(default_factory=dict)
    order: list[ModuleCall] = field(default_factory=list)
    byte_count: int = 0

    def run(self, call: Call) -> bool:
        """Call the model. Returns whether it ran to its end."""
        hooks = []
        for path, module in self.module.named_modules():
            hooks.append(module.register_forward_hook(self._hook(path), always_call=False))
        inputs = call.clone()
        try:
            with torch.no_grad(), restored_state(self.module):
                self.module(*inputs.args, **inputs.kwargs)
            return True
        except _EnoughError:
            return False
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, path: str) -> Callable[..., None]:
        calls = 0

        def after_call(_module: nn.Module, _inputs: Any, output: Any) -> None:
            nonlocal calls
            module_call = (path, calls)
            calls += 1
            self.order.append(module_call)
            if len(self.order) <= self.start or not isinstance(output, Tensor):
                return
            self.outputs[module_call] = output.clone()
            self.byte_count += output.numel() * output.element_size()
            if self.byte_count > _BUDGET:
                raise _EnoughError

        return after_call


def first_difference(
    module: nn.Module, program: ExportedProgram, call: Call
) -> ModuleDifference | None:
    """The first module call whose output the program does not reproduce in eager mode; None if it
    reproduces all."""
    start = 0
    class_names = {path: type(part).__name__ for path, part in module.named_modules()}
    while True:
        recorder = _Recorder(module, start)
        finished = recorder.run(call)
        replay = _Replay(program, recorder.outputs, class_names)
        difference = replay.compare(call)
        if difference is not None:
            position = recorder.order.index((difference.module, replay.differing_call))
            missing = []
            for path, _ in recorder.order[: position + 1]:
                if path and path not in replay.traced_paths and path not in missing:
                    missing.append(path)
            return replace(difference, missing=tuple(missing))
        if finished:
            return None
        start = len(recorder.order)


def outputs_differ(
    module: nn.Module, program: ExportedProgram, call: Call
) -> ModuleDifference | None:
    """The first output that the program does not reproduce although all modules agree. It may be
    missing, in another position, or changed after the last module."""
    expected = _tensors_of(module, call)
    replayed = _tensors_of(program.module(), call)
    class_name = type(module).__name__
    if len(expected) != len(replayed):
        why = f"{len(replayed)} outputs, expected {len(expected)}"
        return difference_at("", class_name, "", {"name": "outputs", "ok": False, "why": why})
    for index, (reference, candidate) in enumerate(zip(expected, replayed, strict=True)):
        figures = nearly(f"output {index}", reference, candidate)
        if figures["ok"]:
            continue
        position = _position(reference, replayed)
        if position is not None:
            figures["why"] += f"; it is output {position} there: the order is another"
        return difference_at("", class_name, "", figures)
    return None


def _position(value: Tensor, values: Sequence[Tensor]) -> int | None:
    """The index of the first of `values` that is nearly `value`."""
    for index, candidate in enumerate(values):
        if nearly("", value, candidate)["ok"]:
            return index
    return None


def _tensors_of(module: nn.Module, call: Call) -> list[Tensor]:
    with restored_state(module):
        return [value for value in observe(module, call, Writes()) if isinstance(value, Tensor)]


class _DifferenceFoundError(Exception):
    """Ends a replay at the first difference."""


class _Replay(Interpreter):
    """Runs a program node by node, and compares each module's last value with its eager-mode
    output for that call."""

    def __init__(
        self,
        program: ExportedProgram,
        expected: Mapping[ModuleCall, Tensor],
        class_names: Mapping[str, str],
    ) -> None:
        super().__init__(program.graph_module)
        self._program = program
        self._expected = expected
        self._class_names = class_names
        self._exits = module_exits(program.graph_module)
        self.traced_paths: set[str] = set()
        for module_calls in self._exits.values():
            self.traced_paths.update(path for path, _ in module_calls)
        self._difference: ModuleDifference | None = None
        self.differing_call = 0

    def compare(self, call: Call) -> ModuleDifference | None:
        inputs = call.clone()
        flat_inputs = self._program._graph_module_flat_inputs(inputs.args, inputs.kwargs)
        state = [value for value in self._program.state_dict.values() if isinstance(value, Tensor)]
        # The graph writes into the program's own buffers.
        with torch.no_grad(), restored_tensors(state), contextlib.suppress(_DifferenceFoundError):
            self.run(*flat_inputs)
        return self._difference

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        for path, number in self._exits.get(n, ()):
            expected = self._expected.get((path, number))
            if expected is None or not isinstance(value, Tensor):
                continue
            figures = nearly(path or "output", expected, value)
            if not figures["ok"]:
                class_name = self._class_names.get(path, "?")
                self._difference = difference_at(path, class_name, source_line(n), figures)
                self.differing_call = number
                raise _DifferenceFoundError
        return value


def difference_at(
    module: str, class_name: str, source: str, figures: Figures, missing: Sequence[str] = ()
) -> ModuleDifference:
    """A difference at the output of a module. `source` is ``file:line``, `missing` the modules
    that only eager mode runs."""
    return ModuleDifference(
        module=module,
        class_name=class_name,
        source=source,
        figures=typed(figures, OutputFigures),
        missing=tuple(missing),
    )


def module_exits(graph_module: GraphModule) -> dict[Node, list[ModuleCall]]:
    """For each node, the module calls that end with it, innermost first."""
    exits: dict[Node, list[ModuleCall]] = {}
    calls: dict[str, int] = {}

    def close(node: Node, paths: Sequence[str]) -> None:
        for path in reversed(paths):
            # torch writes the second call of module `a` as `a@1`.
            plain = path.partition("@")[0]
            number = calls.get(plain, 0)
            exits.setdefault(node, []).append((plain, number))
            calls[plain] = number + 1

    last_node: Node | None = None
    open_paths: list[str] = []
    for node, stack in _stacked(graph_module):
        if last_node is not None:
            close(last_node, [path for path in open_paths if path not in stack])
        last_node, open_paths = node, stack
    if last_node is not None:
        close(last_node, open_paths)
    return exits


def _stacked(graph_module: GraphModule) -> Iterator[tuple[Node, list[str]]]:
    """The nodes that compute, with the paths of the modules around them, outermost first."""
    for node in graph_module.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if node.op == "call_function" and stack:
            yield node, [str(path) for path, _ in stack.values()]


def source_line(node: Node) -> str:
    """``file:line`` of the innermost frame outside torch that was recorded for the node; else of
    the innermost one; empty without any."""
    frames = _FRAME.findall(str(node.meta.get("stack_trace") or ""))
    outside_torch = [frame for frame in frames if "/torch/" not in frame[0]]
    candidates = outside_torch or frames
    return ":".join(candidates[-1]) if candidates else ""
