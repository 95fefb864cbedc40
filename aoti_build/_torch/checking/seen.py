"""What a model does in eager mode that a graph need not show: which buffers and inputs a call
changes, and whether the model keeps state where no export looks for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aoti_build._torch.checking.compare import compare
from aoti_build._torch.checking.eager import eager_failure, observe
from aoti_build._torch.checking.state import is_plain, kept_state, same_bytes
from aoti_build._torch.program.inputs import Call
from aoti_build._torch.program.writes import Seen, Writes
from aoti_build.errors import BuildError


@dataclass(frozen=True)
class FirstCalls:
    """What a first call was `seen` to change, and whether a second one with the same inputs gave
    the same: right after the first, or from the same state if the first changed any."""

    seen: Seen
    repeatable: bool

    def refuse_hidden_state(self, writes: Writes) -> None:
        """Raise `BuildError` if a model answers differently the second time although nothing that
        it is seen to write into explains that: an artifact would answer as the first time for
        ever."""
        unseen = not (self.seen.buffers or self.seen.positions) and (
            writes.buffers or writes.inputs
        )
        if self.repeatable or unseen:
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
    """Call the model twice. Its state is afterwards as it was. Raises `BuildError` if it fails."""
    given = call.clone()
    with kept_state(module):
        before = {name: value.detach().clone() for name, value in _buffers(module).items()}
        try:
            with torch.no_grad():
                returned = module(*given.args, **given.kwargs)
            answers = [
                leaf.clone()
                for leaf in torch.utils._pytree.tree_leaves(returned)
                if isinstance(leaf, Tensor)
            ]
        except Exception as error:
            raise eager_failure("example", call, error) from error
        after = _buffers(module)
        buffers = {
            name for name, value in before.items() if name in after and _changed(value, after[name])
        }
        pairs = enumerate(zip(call.tensors(), given.tensors(), strict=True))
        positions = {at for at, (old, new) in pairs if _changed(old, new)}
        repeatable = not (buffers or positions) and _answers_again(module, call, answers)
    if buffers or positions:
        with kept_state(module):
            repeatable = _answers_again(module, call, answers)
    return FirstCalls(Seen(frozenset(positions), frozenset(buffers)), repeatable)


def _answers_again(module: nn.Module, call: Call, answers: list[Tensor]) -> bool:
    again = [leaf for leaf in observe(module, call, Writes()) if isinstance(leaf, Tensor)]
    same_count = len(again) == len(answers)
    return same_count and all(
        compare("", *pair, {})["ok"] for pair in zip(answers, again, strict=True)
    )


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """Those that can be compared; others, such as sparse ones, are refused when the graph is
    digested."""
    found = module.named_buffers(remove_duplicate=False)
    return {name: value for name, value in found if is_plain(value)}


def _changed(old: Tensor, new: Tensor) -> bool:
    return old.shape != new.shape or old.dtype != new.dtype or not same_bytes(old, new)
