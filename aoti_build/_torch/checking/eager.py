"""A model in eager mode: what it returns, and what it leaves in its inputs and buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from aoti_build._torch.checking.reference_data import Case, Plain
from aoti_build._torch.checking.state import kept_state
from aoti_build._torch.program.inputs import Call, Make, Sizes
from aoti_build._torch.program.writes import Writes
from aoti_build.errors import BuildError

SEED = 0


@dataclass(frozen=True)
class Subject:
    """A model ready to be called, how its calls are made, the type of its device, what a call
    writes into, and the `special` sizes that are verified beside the usual ones.

    `computed` says of all that is compared after a call which narrower type it is computed in, if
    any (`aoti_build._torch.program.precision`); `program` is the exported model, given where its
    arithmetic is quantised.
    """

    module: nn.Module
    make: Make
    device: str
    writes: Writes = field(default_factory=Writes)
    special: Sequence[Sizes] = ()
    computed: Sequence[str | None] = ()
    program: ExportedProgram | None = None


def first_state(subject: Subject) -> dict[str, Tensor]:
    """What the buffers that a call writes into hold before the first one."""
    buffers = dict(subject.module.named_buffers(remove_duplicate=False))
    return {
        name: buffers[name].detach().clone() for name in subject.writes.buffers if name in buffers
    }


def reference(name: str, subject: Subject, call: Call) -> Case:
    """What the model leaves in eager mode after one `call`, as the reference case `name`."""
    (case,) = references(subject, [(Case(name, None, None), call)])
    return case


def references(subject: Subject, calls: list[tuple[Case, Call]]) -> list[Case]:
    """The cases with what the model leaves in eager mode after each call, one after another. Its
    state is afterwards as it was. Raises `BuildError` if it fails."""
    found = []
    with kept_state(subject.module):
        for case, call in calls:
            try:
                observed = observe(subject.module, call, subject.writes)
            except Exception as error:
                raise eager_failure(case.name, call, error) from error
            if not any(isinstance(output, Tensor) for output in observed):
                raise BuildError(
                    "the model returns no tensor and writes into none",
                    hint=(
                        "a compiled artifact can only return tensors, or write into its inputs and"
                        " buffers"
                    ),
                )
            found.append(replace(case, inputs=call.tensors(), outputs=list(observed)))
    return found


def eager_failure(name: str, call: Call, error: Exception) -> BuildError:
    """What to say of a model that fails by itself."""
    shapes = ", ".join(str(list(tensor.shape)) for tensor in call.tensors())
    return BuildError(
        f"the model itself fails in eager mode on the {name} inputs, shapes {shapes}",
        cause=f"{type(error).__name__}: {error}",
        hint="make `inputs` and `dims` say what the model takes; the log has the traceback",
    )


def observe(module: nn.Module, call: Call, writes: Writes) -> list[Tensor | Plain | None]:
    """All that a caller could notice of one call: the outputs, then the inputs and the buffers
    written into. The tensors of `call` stay as they are, the state of the model does not."""
    given = call.clone()
    with torch.no_grad():
        leaves = _leaves(module(*given.args, **given.kwargs))
    tensors = given.tensors()
    buffers = dict(module.named_buffers(remove_duplicate=False)) if writes.buffers else {}
    # Fewer than the artifact's, if the model was changed since.
    leaves += [tensors[at].clone() if at < len(tensors) else None for at in writes.positions]
    return leaves + [buffers[name].clone() if name in buffers else None for name in writes.buffers]


def _leaves(returned: object) -> list[Tensor | Plain | None]:
    return [
        leaf.clone() if isinstance(leaf, Tensor) else Plain(repr(leaf))
        for leaf in pytree.tree_leaves(returned)
    ]
