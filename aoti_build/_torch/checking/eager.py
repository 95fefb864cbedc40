"""A model in eager mode: what it returns, and what it leaves in its inputs and buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from aoti_build._torch.checking.eager_failure import NothingReturned, eager_failure
from aoti_build._torch.checking.reference_data import Case, Plain
from aoti_build._torch.checking.state import restored_state
from aoti_build._torch.program.inputs import Call, Make, Sizes
from aoti_build._torch.program.writes import Writes

SEED = 0

# What a call leaves at one position. None: an input or buffer that the model does not have.
Observed: TypeAlias = Tensor | Plain | None
# The calls of a sequence, each with its case, which has no tensors yet.
CaseCalls: TypeAlias = list[tuple[Case, Call]]


@dataclass(frozen=True)
class Subject:
    """A model ready to be called on its device.

    `make` makes its calls (use `call`), `device` is the type of its device, `writes` what a call
    writes into. `special` are sizes that are verified in addition to the usual ones. `computed` is
    in the order of what is compared after a call: the narrower type in which each is computed, if
    there is one (`aoti_build._torch.program.precision`). `program` is the exported model, set only
    if its arithmetic is quantised.
    """

    module: nn.Module
    make: Make
    device: str
    writes: Writes = field(default_factory=Writes)
    special: Sequence[Sizes] = ()
    computed: Sequence[str | None] = ()
    program: ExportedProgram | None = None

    def call(self, sizes: Sizes, seed: int) -> Call:
        """The call at these sizes of the dims under this seed, on the device of the model."""
        return self.make(sizes, seed).to(self.device)


def first_state(subject: Subject) -> dict[str, Tensor]:
    """The content, before the first call, of the buffers that a call writes into."""
    buffers = _buffers(subject.module)
    state = {}
    for name in subject.writes.buffers:
        if name in buffers:
            state[name] = buffers[name].detach().clone()
    return state


def reference(name: str, subject: Subject, call: Call) -> Case:
    """The reference case `name`: what the model leaves in eager mode after one `call`. Raises
    `BuildError` as `references` does."""
    empty = Case(name, inputs=None, outputs=None)
    (case,) = references(subject, [(empty, call)])
    return case


def references(subject: Subject, calls: CaseCalls) -> list[Case]:
    """The cases with what the model leaves in eager mode after each call, one call after another.
    The model's state is restored afterwards.

    Raises: BuildError: the model fails, or returns no tensor and writes into none.
    """
    cases = []
    with restored_state(subject.module):
        for case, call in calls:
            try:
                observed = observe(subject.module, call, subject.writes)
            except Exception as error:  # of the user's code
                raise eager_failure(case.name, call, error, subject.module.forward) from error
            if not any(isinstance(value, Tensor) for value in observed):
                raise NothingReturned
            completed = replace(
                case,
                inputs=call.tensors(),
                outputs=list(observed),
            )
            cases.append(completed)
    return cases


def observe(
    module: nn.Module,
    call: Call,
    writes: Writes,
) -> list[Observed]:
    """All that a caller could notice of one call: the outputs, then the inputs and the buffers that
    were written into. The tensors of `call` stay as they are. The state of the model changes."""
    arguments = call.clone()
    observed: list[Observed] = []
    with torch.no_grad():
        returned = module(*arguments.args, **arguments.kwargs)
        for leaf in pytree.tree_leaves(returned):
            if isinstance(leaf, Tensor):
                observed.append(leaf.clone())
            else:
                observed.append(Plain(repr(leaf)))
    # The artifact may write into inputs and buffers that the model lacks, if the model was changed
    # since the build.
    written: list[Tensor | None] = []
    tensors = arguments.tensors()
    for position in writes.positions:
        written.append(tensors[position] if position < len(tensors) else None)
    if writes.buffers:
        buffers = _buffers(module)
        written += [buffers.get(name) for name in writes.buffers]
    for value in written:
        observed.append(None if value is None else value.clone())
    return observed


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers under all their names."""
    return dict(module.named_buffers(remove_duplicate=False))
