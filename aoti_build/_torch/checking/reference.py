"""What eager gives for the calls that an artifact is verified by: in the target's dtype, in
float64, and for other inputs and weights, to see whether a comparison could fail at all.

Of each call all is kept that a caller could notice: the outputs, and the inputs and buffers that
were written into. A model with state is called several times, with other inputs each time, since a
first call does not show what it left for the next. Each such sequence starts from the state that
the model was made with, in every precision.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from aoti_build._torch.checking.compare import needs_whole
from aoti_build._torch.checking.reference_data import (
    Case,
    Plain,
    ReferenceData,
    Value,
    as_float64,
    digests_of_cases,
    save_reference_data,
    with_digests,
)
from aoti_build._torch.checking.state import kept_state
from aoti_build._torch.checking.substitute import (
    Deadline,
    Substitutes,
    can_substitute,
    sharing_copy,
)
from aoti_build._torch.checking.tf32 import InTf32, tf32_operands
from aoti_build._torch.checking.widened import Widening, float64_graph, stepping
from aoti_build._torch.program.inputs import Call, Make, Sizes, pytree_map
from aoti_build._torch.program.quantised import is_quantised
from aoti_build._torch.program.writes import Writes, observed_nodes
from aoti_build.common.resources import available_memory
from aoti_build.errors import BuildError
from aoti_build.models_file.project import Dim, Model, Source

SEED = 0
EXACT_SECONDS = 60.0  # for all cases of a model together
_NEXT_CALL = 1_000_003  # from the seed of one call's inputs to that of the next
_NOISE = 0.1


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
    others = {} if program is None else _others(subject, cases[0], program)
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


def first_state(subject: Subject) -> dict[str, Tensor]:
    """What the buffers that a call writes into hold before the first one."""
    buffers = dict(subject.module.named_buffers(remove_duplicate=False))
    return {
        name: buffers[name].detach().clone() for name in subject.writes.buffers if name in buffers
    }


def is_reference_data_of(path: Path, subject: Subject, model: Model) -> bool:
    """Whether the reference data `path` was made with what eager gives now, bit for bit."""
    digests = digests_of_cases(path)
    for calls in case_sequences(subject, model.dims):
        for case in references(subject, calls):
            if digests.pop(case.name, None) != with_digests(case).digest:
                return False
    return not digests


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


class Twin:
    """A model's float64 copy (`module`) as long as it is of use, or `why_not`. The copy of a large
    model shares its parameters, which are widened one by one."""

    def __init__(self, subject: Subject) -> None:
        self.large = subject.program is None and can_substitute(subject.module)
        self.module, self.why_not = _in_float64(subject, large=self.large)
        self.rounded = tf32_operands(subject.device)
        self.writes, self.computed = subject.writes, subject.computed
        self.quantised = subject.program is not None

    def completed(self, eager: list[Case], calls: list[Call]) -> list[Case]:
        """The cases of a sequence with what the copy leaves after its `calls`, if it is anything
        that eager's outputs can be near to, and with what other roundings cost it: TF32, where it
        is allowed, and other steps of quantised values."""
        if self.module is None:
            return eager
        try:
            exact = self._run(calls)
            otherwise = [None] * len(calls)
            if self.rounded or self.quantised:
                with InTf32(self.rounded), stepping():
                    otherwise = self._run(calls)
        except TimeoutError:
            raise
        except Exception as error:
            # The user's model runs again, and may raise anything: its code may fix a dtype, or an
            # operator may have no float64.
            return self._given_up(eager, f"the model does not run in float64: {_brief(error)}")
        for case, leaves in zip(eager, exact, strict=True):
            why = _useless(case, leaves, self.computed)
            if why:
                return self._given_up(eager, why)
        rounded = torch.float32 if not self.quantised else None
        return [_with_exact(*parts, rounded) for parts in zip(eager, exact, otherwise, strict=True)]

    def _run(self, calls: list[Call]) -> list[Any]:
        """What the copy leaves after each call, from its first state."""
        assert self.module is not None
        default = torch.get_default_dtype()
        try:
            # For what the model makes while it runs: a mask, positions.
            torch.set_default_dtype(torch.float64)
            with kept_state(self.module), self._widening():
                return [
                    only_tensors(observe(self.module, _widened(call), self.writes))
                    for call in calls
                ]
        finally:
            torch.set_default_dtype(default)

    def _widening(self) -> contextlib.AbstractContextManager[Any]:
        found = contextlib.ExitStack()
        if not self.quantised:  # a graph has its conversions widened already
            found.enter_context(Widening())
        if self.module is not None and self.large:
            found.enter_context(Substitutes(self.module, lambda number, value: as_float64(value)))
        return found

    def _given_up(self, eager: list[Case], why: str) -> list[Case]:
        self.module, self.why_not = None, why
        return eager


def _in_float64(subject: Subject, *, large: bool) -> tuple[nn.Module | None, str | None]:
    """A float64 copy, of a `large` model but for the parameters; or None and why there is none."""
    module = subject.module
    if subject.writes.buffers and _share_memory(module):
        return (
            None,
            "the model writes into buffers that share memory, which a float64 copy would not",
        )
    sizes = [
        value.numel() * 8 for value in module.state_dict().values() if isinstance(value, Tensor)
    ]
    if (max(sizes, default=0) if large else sum(sizes)) * 2 > available_memory():
        return None, "a float64 copy of the model does not fit into memory"
    try:
        if subject.program is not None:
            return float64_graph(subject.program), None
        if large:
            return _with_wide_buffers(module), None
        return copy.deepcopy(module).to(torch.float64), None
    except (
        Exception
    ) as error:  # whatever a module of the user's own does when it is copied or converted
        return None, f"the model cannot be converted to float64: {_brief(error)}"


def _with_wide_buffers(module: nn.Module) -> nn.Module:
    twin = sharing_copy(module, own=lambda value: value.is_floating_point() or value.is_complex())
    wide: dict[int, Tensor] = {}
    for part in twin.modules():
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = wide.setdefault(id(value), as_float64(value))
    return twin


def _share_memory(module: nn.Module) -> bool:
    """Whether two of the buffers lie in one storage."""
    places = [
        value.untyped_storage().data_ptr() for _, value in module.named_buffers() if value.numel()
    ]
    return len(set(places)) < len(places)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


def _widened(call: Call) -> Call:
    return pytree_map(
        lambda leaf: as_float64(leaf.clone()) if isinstance(leaf, Tensor) else leaf, call
    )


def _useless(
    eager: Case, leaves: list[Tensor | None], computed: Sequence[str | None]
) -> str | None:
    """Why what the float64 copy gave is nothing that eager's outputs can be near to; None if it
    is."""
    narrow = next((leaf for leaf in leaves if leaf is not None and leaf.dtype in _NARROW), None)
    if narrow is not None:
        return (
            f"the model computes in {str(narrow.dtype).removeprefix('torch.')} whatever its"
            " weights are"
        )
    tensors = _tensors(eager)
    narrower = computed if len(computed) == len(tensors) else [None] * len(tensors)
    apart = (
        _apart(*parts) for parts in zip(tensors, map(_wide_only, leaves), narrower, strict=True)
    )
    if max(apart, default=0.0) > 1:
        return (
            "the model does something else in float64: eager's outputs are too far from it to be a"
            " rounding"
        )
    return None


def _tensors(eager: Case) -> list[Tensor | None]:
    """What eager left, just now, so that nothing of it is a sketch."""
    return only_tensors(eager.outputs or [])


def only_tensors(values: Sequence[Value]) -> list[Tensor | None]:
    return [value if isinstance(value, Tensor) else None for value in values]


def _wide_only(leaf: Tensor | None) -> Tensor | None:
    return leaf if leaf is not None and leaf.dtype in (torch.float64, torch.complex128) else None


def _with_exact(
    eager: Case,
    leaves: list[Tensor | None],
    otherwise: list[Tensor | None] | None,
    only: torch.dtype | None,
) -> Case:
    """The case with its float64 reference, and with how far from that the model is where it is
    rounded `otherwise`: of all outputs, or of those of one dtype."""
    exact = [_wide_only(leaf) for leaf in leaves]
    made = replace(eager, exact=list(exact))
    if otherwise is None:
        return made
    tensors = _tensors(eager)
    judged = [
        value if value is not None and only in (None, value.dtype) else None for value in tensors
    ]
    return replace(made, rounded_rmse=list(map(_rounded_rmse, judged, otherwise, exact)))


def _rounded_rmse(
    eager: Tensor | None, rounded: Tensor | None, exact: Tensor | None
) -> float | None:
    """How far an output of the model is from float64 if it is rounded otherwise; None if there is
    nothing to say."""
    if eager is None or rounded is None or exact is None:
        return None
    error = rounded - exact
    finite = error[torch.isfinite(error)]
    return float(finite.abs().square().mean().sqrt()) if finite.numel() else None


def _apart(eager: Tensor | None, exact: Tensor | None, computed: str | None) -> float:
    """How far eager is from float64, in units of what no rounding explains."""
    if eager is None or exact is None or not exact.numel():
        return 0.0
    error, scale = (as_float64(eager) - exact).abs(), exact.abs()
    finite = torch.isfinite(error)
    rms = float(scale[finite].square().mean().sqrt()) if finite.any() else 0.0
    implausible = _IMPLAUSIBLE[eager.dtype] if computed is None else _IMPLAUSIBLE_HALF
    return float(error[finite].square().mean().sqrt()) / (rms * implausible) if rms else 0.0


# Relative RMS errors: of float32 with TF32 convolutions they are near 1e-3, of deep networks in
# half types near 0.1.
_IMPLAUSIBLE_HALF = 0.5
_IMPLAUSIBLE = {
    torch.float64: 1e-9,
    torch.complex128: 1e-9,
    torch.float32: 2e-2,
    torch.complex64: 2e-2,
    torch.float16: _IMPLAUSIBLE_HALF,
    torch.bfloat16: _IMPLAUSIBLE_HALF,
}
_NARROW = (torch.float32, torch.float16, torch.bfloat16, torch.complex64)


def _others(subject: Subject, case: Case, functional: ExportedProgram) -> dict[str, list[Value]]:
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
_OF_SHAPES = (
    torch.ops.aten.sym_size.int,
    torch.ops.aten.sym_stride.int,
    torch.ops.aten.sym_numel.default,
)


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
