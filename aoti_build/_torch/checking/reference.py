"""Makes reference data: eager's results for the calls by which an artifact is verified.

Eager runs in the dtype of the target and in float64. It also runs for other inputs and weights, to
see whether a comparison could fail at all.

All that a caller could notice of a call is recorded: the outputs, and the inputs and buffers that
were written into. A model with state is called several times, each time with other inputs, because
the first call does not show what it left for the next. Each such sequence starts from the state
that the model was made with, in every precision.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from torch.export import ExportedProgram

from aoti_build._torch.checking.compare import needs_every_value
from aoti_build._torch.checking.eager import (
    CaseCalls,
    Subject,
    first_state,
    references,
)
from aoti_build._torch.checking.float64 import Float64Model
from aoti_build._torch.checking.perturbed import other_outputs
from aoti_build._torch.checking.reference_data import (
    Case,
    ReferenceData,
    Value,
    with_digests,
)
from aoti_build._torch.checking.reference_reader import digests_of_cases
from aoti_build._torch.checking.reference_writer import save_reference_data
from aoti_build._torch.checking.substitute import Deadline
from aoti_build._torch.program.inputs import Call, Sizes
from aoti_build.models_file.project import Dim, Model, Source

EXACT_SECONDS = 60.0  # for all cases of a model together
Point: TypeAlias = dict[str, int]  # the size of each dim
_NEXT_CALL = 1_000_003  # from the seed of one call's inputs to that of the next


def points(dims: tuple[Dim, ...], special: Sequence[Sizes] = ()) -> dict[str, Point]:
    """The sizes of the dims that are verified, by the name of the case. None occurs twice.

    These are the example, both ends of every range and one step inside them, a point in between,
    each dim at its minimum while the others are at their maximum, and the `special` sizes of some
    dims with the example's of the others.
    """
    lowest = {dim.name: dim.min for dim in dims}
    highest = {dim.name: dim.max for dim in dims}
    example = {dim.name: dim.example for dim in dims}
    sizes_by_name = {
        "example": example,
        "min": lowest,
        "max": highest,
        "interior": {dim.name: _between(dim) for dim in dims},
        "above-min": {dim.name: dim.min + dim.multiple_of for dim in dims},
        "below-max": {dim.name: dim.max - dim.multiple_of for dim in dims},
    }
    for dim in dims:
        sizes_by_name[f"{dim.name}-min"] = {**highest, dim.name: dim.min}
    for sizes in special:
        label = " ".join(f"{name}-{size}" for name, size in sizes.items())
        sizes_by_name[label] = {**example, **sizes}
    unique: dict[str, Point] = {}
    for name, named_sizes in sizes_by_name.items():
        if named_sizes not in unique.values():
            unique[name] = named_sizes
    return unique


def _between(dim: Dim) -> int:
    """About the geometric middle. Ranges such as 1 to 4096 are used near their lower end more
    often."""
    middle = math.sqrt(dim.min * dim.max)
    steps = round(middle / dim.multiple_of)
    return min(max(steps * dim.multiple_of, dim.min), dim.max)


def case_sequences(
    subject: Subject,
    dims: tuple[Dim, ...],
    seeds: int = 1,
) -> Iterator[CaseCalls]:
    """The calls of a sequence, for every point and every seed."""
    for seed in range(seeds):
        for name, sizes in points(dims, subject.special).items():
            label = name
            if seed > 0:
                label += f" seed {seed}"
            yield _sequence(subject, label, sizes, seed)


def _sequence(
    subject: Subject,
    label: str,
    sizes: Sizes,
    seed: int,
) -> CaseCalls:
    """The calls at one point, each with inputs of its own."""
    calls = []
    for number in range(subject.writes.calls):
        name = label
        if number > 0:
            name += f" call {number + 1}"
        case = Case(
            name,
            inputs=None,
            outputs=None,
            sizes=sizes,
            seed=seed + number * _NEXT_CALL,
            call=number,
        )
        calls.append((case, subject.call(sizes, case.seed)))
    return calls


def make_reference_data(
    subject: Subject,
    model: Model,
    seeds: int = 1,
    program: ExportedProgram | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> ReferenceData:
    """Run eager on every case. With the exported `program`, in its functional form, also for other
    inputs and weights. `tell` gets a text for each step of the computation.

    Raises `BuildError` if the model fails in eager mode.
    """
    sequences = []
    for calls in case_sequences(subject, model.dims, seeds):
        tell(f"the {calls[0][0].name} inputs in eager mode")
        started = time.perf_counter()
        cases = references(subject, calls)
        seconds = time.perf_counter() - started
        sequences.append(
            _EagerSequence(
                cases=cases,
                calls=[call for _, call in calls],
                seconds=seconds,
            )
        )
    no_exact = _add_float64(subject, sequences, tell)
    cases = []
    for sequence in sequences:
        cases += [with_digests(case) for case in sequence.cases]
    others: dict[str, list[Value]] = {}
    if program is not None:
        tell("other inputs and weights")
        others = other_outputs(subject, cases[0], program)
    return ReferenceData(
        cases=cases,
        no_exact=no_exact,
        others=others,
        state=first_state(subject),
        example_seconds=sequences[0].seconds / len(sequences[0].calls),
    )


@dataclass
class _EagerSequence:
    """The cases of one sequence, their calls, and how long eager took for them."""

    cases: list[Case]
    calls: list[Call]
    seconds: float


def _add_float64(
    subject: Subject,
    sequences: list[_EagerSequence],
    tell: Callable[[str], None],
) -> str | None:
    """Add float64 references to the sequences until the time is up. Returns the reason if some have
    none.

    The cheapest come first. Operators are several times slower in float64 (a 3 x 3 convolution on a
    CPU: three times), and there may be a dozen points. The cheap ones suffice to tell a fault from
    a rounding.
    """
    model = Float64Model(subject)
    deadline = Deadline(EXACT_SECONDS)
    by_cost = sorted(sequences, key=lambda sequence: sequence.seconds)
    for number, sequence in enumerate(by_cost):
        tell(f"the {sequence.cases[0].name} inputs in float64")
        try:
            with deadline:
                sequence.cases = model.add_references(sequence.cases, sequence.calls)
        except TimeoutError:
            missing = len(sequences) - number
            return (
                f"it would take more than {EXACT_SECONDS:g} s for {missing} of"
                f" {len(sequences)} points"
            )
    return model.why_not


def save_reference_data_of(
    path: Path,
    reference_data: ReferenceData,
    model: Model,
    names: list[str],
    *,
    limited: bool = True,
) -> bool:
    """`save_reference_data` with the limit and the tolerances of `model`. `names` are
    `observed_names`."""
    tolerance = asdict(model.tolerance)

    def must_be_complete(index: int) -> bool:
        return index < len(names) and needs_every_value(names[index], tolerance)

    return save_reference_data(
        path,
        reference_data,
        limit=model.reference_data_limit if limited else None,
        redrawable=not isinstance(model.inputs, Source),
        needs_every_value=must_be_complete,
    )


def is_reference_data_of(path: Path, subject: Subject, model: Model) -> bool:
    """Whether the reference data in `path` is what eager gives now, bit for bit."""
    digests = digests_of_cases(path)
    for calls in case_sequences(subject, model.dims):
        for case in references(subject, calls):
            if digests.pop(case.name, None) != with_digests(case).digest:
                return False
    return not digests
