"""What eager gives for the calls that an artifact is verified by: in the target's dtype, in
float64, and for other inputs and weights, to see whether a comparison could fail at all.

Of each call all is kept that a caller could notice: the outputs, and the inputs and buffers that
were written into. A model with state is called several times, with other inputs each time, since a
first call does not show what it left for the next. Each such sequence starts from the state that
the model was made with, in every precision.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch.export import ExportedProgram

from aoti_build._torch.checking.compare import needs_whole
from aoti_build._torch.checking.eager import Subject, first_state, references
from aoti_build._torch.checking.float64 import Twin
from aoti_build._torch.checking.perturbed import other_outputs
from aoti_build._torch.checking.reference_data import (
    Case,
    ReferenceData,
    digests_of_cases,
    save_reference_data,
    with_digests,
)
from aoti_build._torch.checking.substitute import (
    Deadline,
)
from aoti_build._torch.program.inputs import Call, Sizes
from aoti_build.models_file.project import Dim, Model, Source

EXACT_SECONDS = 60.0  # for all cases of a model together
_NEXT_CALL = 1_000_003  # from the seed of one call's inputs to that of the next


def points(dims: tuple[Dim, ...], special: Sequence[Sizes] = ()) -> dict[str, dict[str, int]]:
    """The sizes that are verified, by name: the example, both ends of every range and one step
    inside them, a point in between, each dim at its minimum while the others are at their maximum,
    and the `special` sizes of some dims, with the example's of the others. None twice."""
    ends = {dim.name: (dim.min, dim.max, dim.multiple_of) for dim in dims}
    named = {
        "example": {dim.name: dim.example for dim in dims},
        "min": {name: low for name, (low, _, _) in ends.items()},
        "max": {name: high for name, (_, high, _) in ends.items()},
        "interior": {dim.name: _between(dim) for dim in dims},
        "above-min": {name: low + step for name, (low, _, step) in ends.items()},
        "below-max": {name: high - step for name, (_, high, step) in ends.items()},
        **{
            f"{one}-min": {name: ends[name][0 if name == one else 1] for name in ends}
            for one in ends
        },
    }
    for sizes in special:
        label = " ".join(f"{name}-{size}" for name, size in sizes.items())
        named[label] = {**named["example"], **sizes}
    first: dict[tuple[int, ...], str] = {}
    for name, sizes in named.items():
        first.setdefault(tuple(sizes.values()), name)
    return {name: named[name] for name in first.values()}


def _between(dim: Dim) -> int:
    """About the geometric middle: ranges such as 1 to 4096 are used near their lower end more
    often."""
    steps = round(math.sqrt(dim.min * dim.max) / dim.multiple_of)
    return min(max(steps * dim.multiple_of, dim.min), dim.max)


def case_sequences(
    subject: Subject, dims: tuple[Dim, ...], seeds: int = 1
) -> Iterator[list[tuple[Case, Call]]]:
    """Every point under every seed: the calls of its sequence, each as a case without tensors and
    its call."""
    for seed in range(seeds):
        for name, sizes in points(dims, subject.special).items():
            label = name if seed == 0 else f"{name} seed {seed}"
            yield sequence(subject, label, sizes, seed)


def sequence(subject: Subject, label: str, sizes: Sizes, seed: int) -> list[tuple[Case, Call]]:
    """The calls at one point, each with inputs of its own."""
    found = []
    for number in range(subject.writes.calls):
        name = label if number == 0 else f"{label} call {number + 1}"
        drawn = seed + number * _NEXT_CALL
        case = Case(name, None, None, sizes=sizes, seed=drawn, call=number)
        found.append((case, subject.make(sizes, drawn).to(subject.device)))
    return found


def make_reference_data(
    subject: Subject,
    model: Model,
    seeds: int = 1,
    program: ExportedProgram | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> ReferenceData:
    """Run eager on every case. With the exported `program`, in its functional form, find what other
    inputs and weights give as well. `tell` is told what is being computed.

    Raises `BuildError` if the model fails in eager mode.
    """
    found = []
    for calls in case_sequences(subject, model.dims, seeds):
        tell(f"the {calls[0][0].name} inputs in eager mode")
        started = time.perf_counter()
        eager = references(subject, calls)
        found.append(_Sequence(eager, [call for _, call in calls], time.perf_counter() - started))
    no_exact = _add_exact(subject, found, tell)
    cases = [with_digests(case) for one in found for case in one.cases]
    if program is not None:
        tell("other inputs and weights")
    others = {} if program is None else other_outputs(subject, cases[0], program)
    return ReferenceData(cases, no_exact, others, first_state(subject))


@dataclass
class _Sequence:
    """The cases of one sequence, their calls, and how long eager took for them."""

    cases: list[Case]
    calls: list[Call]
    seconds: float


def _add_exact(subject: Subject, found: list[_Sequence], tell: Callable[[str], None]) -> str | None:
    """Compute the cases in float64, the cheapest first, for as long as that may take; why some have
    no reference.

    Operators are several times slower in float64 (a 3 x 3 convolution on a CPU: three times), and
    there may be a dozen points. What the cheap ones show tells a fault from a rounding.
    """
    twin, deadline = Twin(subject), Deadline(EXACT_SECONDS)
    for done, one in enumerate(sorted(found, key=lambda one: one.seconds)):
        tell(f"the {one.cases[0].name} inputs in float64")
        try:
            with deadline:
                one.cases = twin.completed(one.cases, one.calls)
        except TimeoutError:
            return (
                f"it would take more than {EXACT_SECONDS:g} s for {len(found) - done} of"
                f" {len(found)} points"
            )
    return twin.why_not


def save_reference_data_of(
    path: Path,
    reference_data: ReferenceData,
    model: Model,
    names: list[str],
    *,
    limited: bool = True,
) -> bool:
    """`save_reference_data` with the limit, and by the tolerances, of `model`; `names` are
    `observed_names`."""
    bounds = asdict(model.tolerance)
    return save_reference_data(
        path,
        reference_data,
        model.reference_data_limit if limited else None,
        redrawable=not isinstance(model.inputs, Source),
        whole=lambda index: index < len(names) and needs_whole(names[index], bounds),
    )


def is_reference_data_of(path: Path, subject: Subject, model: Model) -> bool:
    """Whether the reference data `path` was made with what eager gives now, bit for bit."""
    digests = digests_of_cases(path)
    for calls in case_sequences(subject, model.dims):
        for case in references(subject, calls):
            if digests.pop(case.name, None) != with_digests(case).digest:
                return False
    return not digests
