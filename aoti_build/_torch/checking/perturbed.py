"""What eager returns for other inputs and with other weights.

A comparison shows something only where an output depends on the inputs or the weights."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from aoti_build._torch.checking.eager import SEED, Subject, reference
from aoti_build._torch.checking.reference_data import Case, Value
from aoti_build._torch.checking.substitute import Substitutes, can_substitute
from aoti_build._torch.program.quantised import is_quantised
from aoti_build._torch.program.writes import Writes, observed_nodes

_RELATIVE_NOISE = 0.1
# Operators whose results follow from the sizes of a tensor alone.
_SHAPE_OPERATORS = (
    torch.ops.aten.sym_size.int,
    torch.ops.aten.sym_stride.int,
    torch.ops.aten.sym_numel.default,
)


def other_outputs(
    subject: Subject,
    case: Case,
    functional: ExportedProgram,
) -> dict[str, list[Value]]:
    """What eager leaves for other "inputs" and with other "weights", at the sizes of `case`. None
    for an output that does not depend on them by the graph `functional`. An entry is missing if
    there are no other inputs, or no weights."""
    dependencies = _dependencies(functional, subject, len(case.outputs or []))
    results: dict[str, list[Value]] = {}
    for kind, run in (("inputs", _other_inputs), ("weights", _other_weights)):
        values = run(subject, case)
        if values is None:
            continue
        results[kind] = []
        for value, depends_on in zip(values, dependencies, strict=False):
            results[kind].append(value if kind in depends_on else None)
    return results


def _other_inputs(subject: Subject, case: Case) -> list[Value] | None:
    call = subject.call(case.sizes, SEED + 1)
    inputs = case.inputs or []
    for changed, value in zip(call.tensors(), inputs, strict=True):
        if not torch.equal(changed, value):
            return reference("other inputs", subject, call).outputs
    return None  # the model has no inputs that depend on the seed


def _other_weights(subject: Subject, case: Case) -> list[Value] | None:
    if not _changeable_weights(subject.module, subject.writes):
        return None
    call = subject.call(case.sizes, SEED)
    if can_substitute(subject.module) and not is_quantised(subject.module):
        with Substitutes(subject.module, _with_noise) as noise:
            changed = reference("other weights", subject, call).outputs
        if not noise.count:
            return None  # no function got one of the parameters
        return changed
    try:
        module = copy.deepcopy(subject.module)
    except Exception:  # of a module that cannot be copied
        return None
    with torch.no_grad():
        for number, value in enumerate(_changeable_weights(module, subject.writes)):
            value.copy_(_with_noise(number, value))
    changed_subject = replace(subject, module=module)
    return reference("other weights", changed_subject, call).outputs


def _with_noise(number: int, value: Tensor) -> Tensor:
    """The values of parameter `number` with relative noise, the same in every call."""
    if not _has_arithmetic(value):
        return value
    generator = torch.Generator().manual_seed(SEED + number)
    factors = torch.randn(value.shape, generator=generator)
    factors.mul_(_RELATIVE_NOISE).add_(1)
    return factors.to(value.device, value.dtype) * value


def _changeable_weights(module: nn.Module, writes: Writes) -> list[Tensor]:
    """The parameters that can be multiplied. Of a quantised model, whose scales may be buffers,
    also the buffers that no call writes into."""
    values: list[Tensor] = list(module.parameters())
    if is_quantised(module):
        for name, buffer in module.named_buffers():
            if name not in writes.buffers:
                values.append(buffer)
    return [value for value in values if _has_arithmetic(value)]


def _has_arithmetic(value: Tensor) -> bool:
    # The 8-bit floating point types have none.
    return value.is_floating_point() and value.dtype.itemsize > 1


def _dependencies(
    functional: ExportedProgram,
    subject: Subject,
    count: int,
) -> list[set[str]]:
    """For each of the `count` values that are compared after a call: "inputs" and "weights", if it
    depends on them."""
    kinds = _kinds_of_placeholders(functional, subject)
    depends_on: dict[str, set[str]] = {}
    for node in functional.graph.nodes:
        reached: set[str] = set()
        if node.name in kinds:
            reached.add(kinds[node.name])
        if node.target not in _SHAPE_OPERATORS:
            for source in node.all_input_nodes:
                reached |= depends_on[source.name]
        depends_on[node.name] = reached
    names = observed_nodes(functional, subject.writes)
    if len(names) != count:
        # The graph does not show which value is which, so each may depend on everything.
        return [{"inputs", "weights"}] * count
    return [depends_on.get(name or "", set()) for name in names]


def _kinds_of_placeholders(functional: ExportedProgram, subject: Subject) -> dict[str, str]:
    """Which nodes of the graph are "inputs" and which are "weights", by the node's name."""
    signature = functional.graph_signature
    kinds: dict[str, str] = {}
    for name in signature.user_inputs:
        # Constants have no name.
        if isinstance(name, str):
            kinds[name] = "inputs"
    kinds |= dict.fromkeys(signature.inputs_to_parameters, "weights")
    if is_quantised(subject.module):
        for node, buffer in signature.inputs_to_buffers.items():
            if buffer not in subject.writes.buffers:
                kinds[node] = "weights"
    return kinds
