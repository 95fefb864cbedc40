"""What eager gives for the calls that an artifact is verified by: in the target's dtype, in float64, and for other
inputs and weights, to see whether a comparison could fail at all."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from aoti_build._torch.checking.golden import Case, Golden, as_float64, header_of, with_digests
from aoti_build._torch.checking.tf32 import InTf32, Operands, tf32_operands
from aoti_build._torch.program.inputs import Call, Make, pytree_map
from aoti_build.errors import BuildError
from aoti_build.resources import available_memory
from aoti_build.spec.project import Dim, Model

SEED = 0
_NOISE = 0.1


@dataclass(frozen=True)
class Subject:
    """A model ready to be called, how its calls are made, and the type of its device."""

    module: nn.Module
    make: Make
    device: str


def points(dims: tuple[Dim, ...]) -> dict[str, dict[str, int]]:
    """The sizes that are verified, by name: the example, both ends of every range and one step inside them, a point in
    between, and each dim at its minimum while the others are at their maximum. None twice."""
    ends = {dim.name: (dim.min, dim.max, dim.multiple_of) for dim in dims}
    named = {
        "example": {dim.name: dim.example for dim in dims},
        "min": {name: low for name, (low, _, _) in ends.items()},
        "max": {name: high for name, (_, high, _) in ends.items()},
        "interior": {dim.name: _between(dim) for dim in dims},
        "above-min": {name: low + step for name, (low, _, step) in ends.items()},
        "below-max": {name: high - step for name, (_, high, step) in ends.items()},
        **{f"{one}-min": {name: ends[name][0 if name == one else 1] for name in ends} for one in ends},
    }
    first: dict[tuple[int, ...], str] = {}
    for name, sizes in named.items():
        first.setdefault(tuple(sizes.values()), name)
    return {name: named[name] for name in first.values()}


def _between(dim: Dim) -> int:
    """About the geometric middle: ranges such as 1 to 4096 are used near their lower end more often."""
    steps = round(math.sqrt(dim.min * dim.max) / dim.multiple_of)
    return min(max(steps * dim.multiple_of, dim.min), dim.max)


def case_calls(subject: Subject, dims: tuple[Dim, ...], seeds: int = 1) -> Iterator[tuple[Case, Call]]:
    """Every point under every seed, as a case without tensors and its call."""
    for seed in range(seeds):
        for name, sizes in points(dims).items():
            label = name if seed == 0 else f"{name} seed {seed}"
            yield Case(label, None, None, sizes=sizes, seed=seed), subject.make(sizes, seed).to(subject.device)


def make_golden(subject: Subject, model: Model, seeds: int = 1, program: ExportedProgram | None = None) -> Golden:
    """Run eager on every case. With the exported `program`, find what other inputs and weights give as well.

    Raises `BuildError` if the model fails in eager mode.
    """
    twin = Twin(subject.module, subject.device)
    cases = []
    for case, call in case_calls(subject, model.dims, seeds):
        made = twin.completed(reference(case.name, subject.module, call), call)
        cases.append(with_digests(replace(made, sizes=case.sizes, seed=case.seed)))
    twin.module = None  # its memory
    others = {} if program is None else _others(subject, cases[0], program)
    return Golden(cases, twin.why_not, others)


def is_golden_of(path: Path, subject: Subject, model: Model) -> bool:
    """Whether the golden file `path` was made with what eager gives now, bit for bit."""
    entries = header_of(path)["cases"]
    for case, call in case_calls(subject, model.dims):
        entry = entries.pop(case.name, None)
        if entry is None or entry["digest"] != with_digests(reference(case.name, subject.module, call)).digest:
            return False
    return not entries


def reference(name: str, module: nn.Module, call: Call) -> Case:
    """What `module` gives in eager mode for `call`, as the golden case `name`. Its buffers are as before afterwards."""
    given = call.clone()
    # A model that counts or caches in its buffers must start each case, and go into the compile, as it was made.
    buffers = {buffer: value.clone() for buffer, value in module.named_buffers()}
    try:
        with torch.no_grad():
            leaves = _leaves(module(*given.args, **given.kwargs))
            for buffer, value in module.named_buffers():
                if buffer in buffers and not torch.equal(value, buffers[buffer]):
                    value.copy_(buffers[buffer])
    except Exception as error:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in call.tensors())
        raise BuildError(
            f"the model itself fails in eager mode on the {name} inputs, shapes {shapes}",
            cause=f"{type(error).__name__}: {error}",
            hint="make `inputs` and `dims` say what the model takes; the log has the traceback",
        ) from error
    if not any(output is not None for output in leaves):
        raise BuildError("the model returns no tensor", hint="a compiled artifact can only return tensors")
    return Case(name, call.tensors(), leaves)


def _leaves(returned: object) -> list[Tensor | None]:
    return [leaf.clone() if isinstance(leaf, Tensor) else None for leaf in pytree.tree_leaves(returned)]


class Twin:
    """A model's float64 copy (`module`) as long as it is of use, or `why_not`."""

    def __init__(self, module: nn.Module, device: str) -> None:
        self.module, self.why_not = _in_float64(module)
        self.rounded = tf32_operands(device)

    def completed(self, eager: Case, call: Call) -> Case:
        """The case with what the copy gives for `call`, if it gives anything that eager's outputs can be near to, and
        with what TF32 costs it, where TF32 is allowed."""
        if self.module is None:
            return eager
        found, self.why_not = _exact(self.module, call, eager, self.rounded)
        if found is None:
            self.module = None
            return eager
        exact, in_tf32 = found
        if in_tf32 is None:
            return replace(eager, exact=exact)
        return replace(eager, exact=exact, tf32_rmse=list(map(_tf32_rmse, eager.outputs or [], in_tf32, exact)))


def _in_float64(module: nn.Module) -> tuple[nn.Module | None, str | None]:
    """A float64 copy, or None and why there is none."""
    size = sum(value.numel() for value in module.state_dict().values() if isinstance(value, Tensor)) * 8
    if size * 2 > available_memory():
        return None, "a float64 copy of the model does not fit into memory"
    try:
        return copy.deepcopy(module).to(torch.float64), None
    except Exception as error:  # whatever a module of the user's own does when it is copied or converted
        return None, f"the model cannot be converted to float64: {type(error).__name__}: {str(error)[:200]}"


def _exact(
    twin: nn.Module, call: Call, eager: Case, rounded: Operands
) -> tuple[tuple[list[Tensor | None], list[Tensor | None] | None] | None, str | None]:
    """What the copy gives, and what it gives with operands `rounded` to TF32, if any are; or None and why not."""
    in_tf32 = None
    try:
        leaves = _leaves_in_float64(twin, call)
        if rounded:
            with InTf32(rounded):
                in_tf32 = _leaves_in_float64(twin, call)
    except Exception as error:  # the user's model again: a dtype fixed in its code, an operator without float64
        return None, f"the model does not run in float64: {type(error).__name__}: {str(error)[:200]}"
    kept = [leaf if leaf is not None and leaf.dtype in (torch.float64, torch.complex128) else None for leaf in leaves]
    narrow = next((leaf for leaf in leaves if leaf is not None and leaf.dtype in _NARROW), None)
    if narrow is not None:
        return None, f"the model computes in {str(narrow.dtype).removeprefix('torch.')} whatever its weights are"
    apart = max((_apart(*pair) for pair in zip(eager.outputs or [], kept, strict=True)), default=0.0)
    if apart > 1:
        return None, "the model does something else in float64: eager's outputs are too far from it to be a rounding"
    return (kept, in_tf32), None


def _leaves_in_float64(twin: nn.Module, call: Call) -> list[Tensor | None]:
    wide = pytree_map(lambda leaf: as_float64(leaf.clone()) if isinstance(leaf, Tensor) else leaf, call)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)  # for what the model makes while it runs: a mask, a table of positions
        with torch.no_grad():
            return _leaves(twin(*wide.args, **wide.kwargs))
    finally:
        torch.set_default_dtype(default)


def _tf32_rmse(eager: Tensor | None, rounded: Tensor | None, exact: Tensor | None) -> float | None:
    """How far an output is from float64 if operands are rounded to TF32; None if it is no float32 output."""
    if eager is None or rounded is None or exact is None or eager.dtype != torch.float32:
        return None
    error = rounded - exact
    finite = error[torch.isfinite(error)]
    return float(finite.square().mean().sqrt()) if finite.numel() else None


def _apart(eager: Tensor | None, exact: Tensor | None) -> float:
    """How far eager is from float64, in units of what no rounding explains."""
    if eager is None or exact is None or not exact.numel():
        return 0.0
    error, scale = (as_float64(eager) - exact).abs(), exact.abs()
    finite = torch.isfinite(error)
    rms = float(scale[finite].square().mean().sqrt()) if finite.any() else 0.0
    return float(error[finite].square().mean().sqrt()) / (rms * _IMPLAUSIBLE[eager.dtype]) if rms else 0.0


# Relative RMS errors: of float32 with TF32 convolutions they are near 1e-3, of deep networks in half types near 0.1.
_IMPLAUSIBLE = {
    torch.float64: 1e-9,
    torch.complex128: 1e-9,
    torch.float32: 2e-2,
    torch.complex64: 2e-2,
    torch.float16: 0.5,
    torch.bfloat16: 0.5,
}
_NARROW = (torch.float32, torch.float16, torch.bfloat16, torch.complex64)


def _others(subject: Subject, case: Case, program: ExportedProgram) -> dict[str, list[Tensor | None]]:
    """Eager's outputs for other inputs and with other weights, of those outputs that depend on them at all."""
    found = {}
    reached = _reached(program, len(case.outputs or []))
    for of, other in (("inputs", _other_inputs), ("weights", _other_weights)):
        changed = other(subject, case)
        if changed is not None:
            found[of] = [value if of in reached[index] else None for index, value in enumerate(changed)]
    return found


def _other_inputs(subject: Subject, case: Case) -> list[Tensor | None] | None:
    call = subject.make(case.sizes, SEED + 1).to(subject.device)
    same = all(torch.equal(one, other) for one, other in zip(call.tensors(), case.inputs or [], strict=True))
    return None if same else reference("other inputs", subject.module, call).outputs


def _other_weights(subject: Subject, case: Case) -> list[Tensor | None] | None:
    if not any(value.is_floating_point() for value in subject.module.parameters()):
        return None
    try:
        other = copy.deepcopy(subject.module)
    except Exception:
        return None
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for value in other.parameters():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator).to(value.device, value.dtype)
                value.mul_(1 + _NOISE * noise)
    call = subject.make(case.sizes, SEED).to(subject.device)
    return reference("other weights", other, call).outputs


def _reached(program: ExportedProgram, count: int) -> list[set[str]]:
    """For each output, whether it depends on "inputs" and on "weights" at all."""
    signature = program.graph_signature
    kinds = {name: "inputs" for name in signature.user_inputs if isinstance(name, str)}
    kinds |= dict.fromkeys(signature.inputs_to_parameters, "weights")
    above: dict[str, set[str]] = {}
    for node in program.graph.nodes:
        above[node.name] = {kinds[node.name]} if node.name in kinds else set()
        for source in node.all_input_nodes:
            above[node.name] |= above[source.name]
    outputs = [above.get(name, set()) if isinstance(name, str) else set() for name in signature.user_outputs]
    return outputs if len(outputs) == count else [{"inputs", "weights"}] * count
