"""The outputs for other inputs and with other weights.

A comparison shows something only where an output depends on what goes in."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from aoti_build._torch.checking.eager import SEED, Subject, reference
from aoti_build._torch.checking.reference_data import Case, Value
from aoti_build._torch.checking.substitute import Substitutes, can_substitute
from aoti_build._torch.program.quantised import is_quantised
from aoti_build._torch.program.writes import Writes, observed_nodes

_NOISE = 0.1
_OF_SHAPES = (
    torch.ops.aten.sym_size.int,
    torch.ops.aten.sym_stride.int,
    torch.ops.aten.sym_numel.default,
)


def other_outputs(
    subject: Subject, case: Case, functional: ExportedProgram
) -> dict[str, list[Value]]:
    """What eager leaves for other inputs and with other weights, of those outputs that depend on
    them at all."""
    found: dict[str, list[Value]] = {}
    reached = _reached(functional, subject, len(case.outputs or []))
    for of, other in (("inputs", _other_inputs), ("weights", _other_weights)):
        changed = other(subject, case)
        if changed is not None:
            found[of] = [
                value if of in reached[index] else None for index, value in enumerate(changed)
            ]
    return found


def _other_inputs(subject: Subject, case: Case) -> list[Value] | None:
    call = subject.make(case.sizes, SEED + 1).to(subject.device)
    same = all(
        torch.equal(one, other)
        for one, other in zip(call.tensors(), case.inputs or [], strict=True)
    )
    return None if same else reference("other inputs", subject, call).outputs


def _other_weights(subject: Subject, case: Case) -> list[Value] | None:
    if not any(True for _ in _real_weights(subject.module, subject.writes)):
        return None
    call = subject.make(case.sizes, SEED).to(subject.device)
    if can_substitute(subject.module) and not is_quantised(subject.module):
        with Substitutes(subject.module, _noisy) as noise:
            changed = reference("other weights", subject, call).outputs
        return changed if noise.count else None
    try:
        other = copy.deepcopy(subject.module)
    except Exception:
        return None
    with torch.no_grad():
        for number, value in enumerate(_real_weights(other, subject.writes)):
            value.copy_(_noisy(number, value))
    return reference("other weights", replace(subject, module=other), call).outputs


def _noisy(number: int, value: Tensor) -> Tensor:
    """The values of parameter `number`, each off by some tenth; the same every time."""
    if not _is_real(value):
        return value
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(SEED + number))
    return noise.mul_(_NOISE).add_(1).to(value.device, value.dtype) * value


def _real_weights(module: nn.Module, writes: Writes) -> Iterator[Tensor]:
    """The parameters that can be multiplied; of a quantised model, whose scales may be buffers,
    those buffers too that no call writes into."""
    yield from (value for value in module.parameters() if _is_real(value))
    if is_quantised(module):
        yield from (
            value
            for name, value in module.named_buffers()
            if name not in writes.buffers and _is_real(value)
        )


def _is_real(value: Tensor) -> bool:
    # The 8-bit types know no arithmetic.
    return value.is_floating_point() and value.dtype.itemsize > 1


# What follows from the sizes of a tensor alone.


def _reached(functional: ExportedProgram, subject: Subject, count: int) -> list[set[str]]:
    """For each thing that is compared after a call, whether it depends on "inputs" and on "weights"
    at all."""
    signature = functional.graph_signature
    kinds = {name: "inputs" for name in signature.user_inputs if isinstance(name, str)}
    kinds |= dict.fromkeys(signature.inputs_to_parameters, "weights")
    if is_quantised(subject.module):
        constant = signature.inputs_to_buffers.items()
        kinds |= {node: "weights" for node, name in constant if name not in subject.writes.buffers}
    above: dict[str, set[str]] = {}
    for node in functional.graph.nodes:
        above[node.name] = {kinds[node.name]} if node.name in kinds else set()
        if node.target in _OF_SHAPES:
            continue
        for source in node.all_input_nodes:
            above[node.name] |= above[source.name]
    names = observed_nodes(functional, subject.writes)
    found = [above.get(name, set()) if name else set() for name in names]
    return found if len(found) == count else [{"inputs", "weights"}] * count
