"""What a model does in eager mode that its graph need not show: which buffers and inputs a call
changes, and whether the model keeps state where no export looks for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from aoti_build._torch.checking.compare import compare
from aoti_build._torch.checking.eager import observe
from aoti_build._torch.checking.eager_failure import eager_failure
from aoti_build._torch.checking.state import (
    is_plain_tensor,
    restored_state,
    same_bytes,
)
from aoti_build._torch.program.inputs import Call
from aoti_build._torch.program.writes import EagerWrites, Writes
from aoti_build.errors import BuildError


@dataclass(frozen=True)
class FirstCalls:
    """What a first call changed, and whether a second call with the same inputs gave the same
    results (`repeatable`). The second call came right after the first. If the first changed
    anything, the second came from the same state."""

    changes: EagerWrites
    repeatable: bool

    def refuse_hidden_state(self, writes: Writes) -> None:
        """Raise `BuildError` if the second results differ and no write explains that. An artifact
        would return the first results in every call. `writes` is what the signature lists."""
        if self.repeatable:
            return
        if not _any(self.changes) and (writes.buffers or writes.inputs):
            # The signature lists a write that the calls did not show, such as one inside a branch.
            # It may explain the difference.
            return
        raise BuildError(
            "the model answers the same inputs differently when it is called again",
            cause=(
                "it keeps state outside of its buffers, or draws random numbers: compiled code"
                " would do neither"
            ),
            hint=(
                "keep state in buffers (register_buffer) and write into them in place; take random"
                " numbers as inputs"
            ),
        )


def first_calls(module: nn.Module, call: Call) -> FirstCalls:
    """Call the model twice. Its state is restored afterwards. Raises `BuildError` if it fails."""
    arguments = call.clone()
    with restored_state(module):
        before = {}
        for name, value in _buffers(module).items():
            before[name] = value.detach().clone()
        try:
            results = _call(module, arguments)
        except Exception as error:  # of the user's code
            raise eager_failure("example", call, error, module.forward) from error
        changes = EagerWrites(
            positions=_changed_inputs(call, arguments),
            buffers=_changed_buffers(module, before),
        )
        if not _any(changes):
            # State outside of buffers shows only before the state is restored.
            return FirstCalls(changes, _gives_again(module, call, results))
    with restored_state(module):
        return FirstCalls(changes, _gives_again(module, call, results))


def _any(changes: EagerWrites) -> bool:
    return bool(changes.buffers or changes.positions)


def _call(module: nn.Module, arguments: Call) -> list[Tensor]:
    """The tensors that the model returns. It may write into `arguments`."""
    with torch.no_grad():
        returned = module(*arguments.args, **arguments.kwargs)
        leaves = pytree.tree_leaves(returned)
        return [leaf.clone() for leaf in leaves if isinstance(leaf, Tensor)]


def _changed_inputs(before: Call, after: Call) -> frozenset[int]:
    """The positions among the input tensors that a call wrote into."""
    changed = set()
    pairs = zip(before.tensors(), after.tensors(), strict=True)
    for position, (value, value_after) in enumerate(pairs):
        if _differ(value, value_after):
            changed.add(position)
    return frozenset(changed)


def _changed_buffers(module: nn.Module, before: dict[str, Tensor]) -> frozenset[str]:
    """The names of the buffers that a call wrote into or replaced."""
    after = _buffers(module)
    changed = set()
    for name, value in before.items():
        if name in after and _differ(value, after[name]):
            changed.add(name)
    return frozenset(changed)


def _gives_again(
    module: nn.Module,
    call: Call,
    results: list[Tensor],
) -> bool:
    """Whether the model returns the same results in another call."""
    observed = observe(module, call, Writes())
    again = [value for value in observed if isinstance(value, Tensor)]
    if len(again) != len(results):
        return False
    for first, second in zip(results, again, strict=True):
        figures = compare("", first, second, tolerance={})
        if not figures["ok"]:
            return False
    return True


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that can be compared. Others, such as sparse ones, are refused when the graph is
    digested."""
    buffers = module.named_buffers(remove_duplicate=False)
    return {name: value for name, value in buffers if is_plain_tensor(value)}


def _differ(before: Tensor, after: Tensor) -> bool:
    if before.shape != after.shape or before.dtype != after.dtype:
        return True
    return not same_bytes(before, after)
