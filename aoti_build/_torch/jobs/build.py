"""The `build` job: model, export, keys; then, as the parent decides from the keys, nothing, a
repack or a compile.

Writes model.pt2 and reference.safetensors into the staging directory, as far as they are not taken
from the store. The result says what was made and from what; looking into the store, checking and
publishing are the parent's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from aoti_build._torch.checking.baseline import losses
from aoti_build._torch.checking.exported import Exported, exported
from aoti_build._torch.checking.reference import (
    SEED,
    Subject,
    case_sequences,
    is_reference_data_of,
    make_reference_data,
    reference,
    save_reference_data_of,
)
from aoti_build._torch.checking.reference_data import ReferenceData, baseline_of
from aoti_build._torch.checking.returned import check_constants
from aoti_build._torch.checking.seen import first_calls
from aoti_build._torch.compiling import shared
from aoti_build._torch.compiling.bounds import declared_bounds
from aoti_build._torch.compiling.corrections import corrected
from aoti_build._torch.compiling.isa import WIDTH, compiling_for, tried_once
from aoti_build._torch.compiling.keys import Keys, keys_of
from aoti_build._torch.compiling.settings import (
    binds_weights,
    inductor_options,
    set_precision,
    switches,
)
from aoti_build._torch.discovery.discover import Discovery
from aoti_build._torch.discovery.registered import Registrations, needed_imports
from aoti_build._torch.events import Events
from aoti_build._torch.packages.imports import called_operators
from aoti_build._torch.packages.weights import (
    has_weights,
    repack,
    separate,
    shareable_members,
    used_state,
)
from aoti_build._torch.program.assembled import assembled
from aoti_build._torch.program.axes import Axes, declared_axes, found_axes, held_to
from aoti_build._torch.program.export import (
    declared_minimums,
    input_names,
    signature,
    whole_ranges,
    without_odd_constants,
)
from aoti_build._torch.program.graph import (
    called,
    listed_weights,
)
from aoti_build._torch.program.inputs import Call, Make, from_callable, from_shapes
from aoti_build._torch.program.model import import_declared, load_callable
from aoti_build._torch.program.precision import computed_in
from aoti_build._torch.program.quantised import is_quantised
from aoti_build._torch.program.structure import (
    check_can_be_stored,
    foreign_types,
    register_named_tuples,
)
from aoti_build._torch.program.writes import Writes, computed_of, functional_form, observed_names
from aoti_build.artifact.fingerprint import declared_files
from aoti_build.artifact.manifest import KEY_METADATA, MODEL, REFERENCE_DATA
from aoti_build.common.digests import digest_json
from aoti_build.common.locks import lock
from aoti_build.errors import BuildError
from aoti_build.messages import (
    BuildJob,
    BuildResult,
    Compile,
    KeysQuestion,
    Recorded,
    Repack,
    Signature,
    Take,
    WeightsPlace,
)
from aoti_build.models_file.project import Dim, Model, Source


@dataclass(frozen=True)
class Prepared:
    """A model ready to be called on its device, with its example call."""

    module: torch.nn.Module
    make: Make
    example: Call
    axes: list[Axes]
    device: str
    dims: tuple[Dim, ...] = ()
    strict: bool = False

    def subject(
        self, described: Signature | None = None, program: ExportedProgram | None = None
    ) -> Subject:
        """The model as it is checked: by its artifact's signature, and by the exported `program`,
        which is made where it is needed and not given."""
        if described is None:
            return Subject(self.module, self.make, self.device)
        if not is_quantised(self.module):
            program = None
        elif program is None:
            program = self._program()
        return Subject(
            self.module,
            self.make,
            self.device,
            Writes.of_signature(described),
            described.get("special", ()),
            computed_of(described),
            program,
        )

    def exported(self, where: Mapping[str, str]) -> Exported:
        """The model's program. Raises `BuildError`."""
        return exported(
            self.subject(), self.example, self.dims, self.axes, where, strict=self.strict
        )

    def _program(self) -> ExportedProgram | None:
        """The model's program; None if it cannot be exported now, without which there is no float64
        reference."""
        nowhere = {"inputs": "", **{f"dims.{dim.name}": "" for dim in self.dims}}
        try:
            with whole_ranges():
                return self.exported(nowhere).program
        except BuildError:
            return None


def build(job: BuildJob, events: Events) -> BuildResult:
    """Asks the parent once, with the keys. Eager's outputs are made anew whatever the answer is:
    the code that the graph came from may do something else when it is not exported."""
    target = job.target
    staged, root, where = Path(job.staged), Path(job.root), job.where
    shared.keep_below(Path(job.cache_root))
    discovery = _discovery(job, target.model)
    registrations = Registrations()
    set_precision(target)
    with events.phase("model"):
        prepared = prepare(target.model, target.device, root, where)
    dims = target.model.dims
    with contextlib.ExitStack() as stack:
        stack.enter_context(whole_ranges())
        with events.phase("export"):
            found = _exported(prepared, where)
            program = found.program
            stack.enter_context(found.tracing())
            types = _stored_types(program, where)
            registrations.refuse_unimportable(called(program), where["source"])
            functional = functional_form(program)
            described, subject = _described(found, functional, prepared, dims)
            if isinstance(target.model.inputs, Source):
                for _ in case_sequences(subject, dims):
                    pass  # what the callable reads for other sizes is a source too
            lost = losses(subject, target.model, described, root, where)
            # Now that the user's code was imported: what it set counts.
            options = inductor_options(
                target, job.architecture_options, where, apart=has_weights(program)
            )
            used: dict[str, Recorded] = {
                "sources": discovery.sources(),
                "distributions": discovery.distributions(),
                "modules": discovery.modules(),
                "variables": discovery.variables(),
            }
            keys = keys_of(program, options, job, used)
            listed = listed_weights(program)  # before the compile changes the program
        answer = events.ask(KeysQuestion(key=keys.key, graph_key=keys.graph_key))
        with events.phase("reference"), events.progress() as tell, _unwritten(program):
            stored = staged / REFERENCE_DATA
            kept = (
                isinstance(answer, Take) and answer.reference_data and baseline_of(stored) == lost
            )
            reference_data_kept = kept and is_reference_data_of(stored, subject, target.model)
            if not reference_data_kept:
                reference_data = make_reference_data(
                    subject, target.model, program=functional, tell=tell
                )
                reference_data = replace(reference_data, baseline=lost)
                check_constants(reference_data, described, where["source"])
                _save(reference_data, stored, target.model, described, job)
        weights = None
        if isinstance(answer, Repack):
            with events.phase("repack"):
                _repack(answer, program, staged / MODEL, keys)
        elif isinstance(answer, Compile):
            minimums = declared_minimums(program, dims, prepared.axes)
            with declared_bounds(minimums), corrected():
                without_odd_constants(program)
                weights = _compiled(program, options, job, keys, events)
    operators = called_operators(staged / MODEL)
    imports = needed_imports(registrations, operators, types, target.model.imports)
    return BuildResult(
        key=keys.key,
        graph_key=keys.graph_key,
        undigested=keys.undigested,
        reference_data_kept=reference_data_kept,
        weights=weights,
        signature={**described, "weights": listed},
        imports=tuple(imports),
        sources=used["sources"],
        distributions=used["distributions"],
        modules=used["modules"],
        variables=used["variables"],
        seconds=events.seconds,
    )


def _discovery(job: BuildJob, model: Model) -> Discovery:
    """What the model uses, noted from now on."""
    root = Path(job.root)
    discovery = Discovery(
        root,
        declared_files(model),
        ignored=(root / "artifacts", Path(job.cache_root)),
        environment=job.replaced_variables,
        skew_ns=job.skew_ns,
    )
    discovery.note_kwargs(model.kwargs)
    return discovery


def _exported(prepared: Prepared, where: Mapping[str, str]) -> Exported:
    try:
        return prepared.exported(where)
    except BuildError:
        # If the model fails by itself, that says more than the export's words for it.
        reference("example", prepared.subject(), prepared.example)
        raise


def _save(
    reference_data: ReferenceData, path: Path, model: Model, described: Signature, job: BuildJob
) -> None:
    """Write the reference data, and what is beyond its limit beside it."""
    names = observed_names(described)
    if not save_reference_data_of(path, reference_data, model, names):
        save_reference_data_of(
            Path(job.whole_reference_data), reference_data, model, names, limited=False
        )


def _stored_types(program: ExportedProgram, where: Mapping[str, str]) -> dict[str, type]:
    """The types that the package's structures consist of, beside Python's. Raises `BuildError` if
    it cannot hold them."""
    taken, given = program.call_spec.in_spec, program.call_spec.out_spec
    register_named_tuples(taken, given)
    check_can_be_stored(taken, "inputs", where["inputs"])
    check_can_be_stored(given, "outputs", where["source"])
    return {**foreign_types(taken), **foreign_types(given)}


def _described(
    exported: Exported, functional: ExportedProgram, prepared: Prepared, dims: tuple[Dim, ...]
) -> tuple[dict[str, Any], Subject]:
    """The signature, with what a call writes into, and the model as it is checked for that. Raises
    `BuildError` for a model that writes where no artifact can."""
    program, model, example = exported.program, prepared.module, prepared.example
    with _unwritten(program):
        first = first_calls(model, example)
    described = signature(program, functional, model, example, dims, prepared.axes, first.seen)
    if exported.special:
        described["special"] = list(exported.special)
    narrower = computed_in(functional, Writes.of_signature(described), observed_names(described))
    if narrower:
        described["computed_in"] = narrower
    subject = prepared.subject(described, program)
    first.refuse_hidden_state(subject.writes)
    return described, subject


def _repack(answer: Repack, program: ExportedProgram, package: Path, keys: Keys) -> None:
    template = Path(answer.template)
    repack(template, package, program, answer.alignment, keys.key)
    template.unlink()  # as large as what was made from it


def _compiled(
    program: ExportedProgram,
    options: Mapping[str, Any],
    job: BuildJob,
    keys: Keys,
    events: Events,
) -> WeightsPlace:
    """Compile into the staging directory; whether the package's weights can be exchanged later."""
    package, cache_root = Path(job.staged) / MODEL, Path(job.cache_root)
    # Before the compile, which changes the program in place.
    state = dict(program.state_dict), dict(program.constants), used_state(program)
    with contextlib.ExitStack() as stack:
        stack.enter_context(events.phase("compile"))
        cache = stack.enter_context(_private_cache(cache_root, keys.graph_key))
        if job.target.device == "cuda":
            from aoti_build._torch.compiling.kernels import kept_tuning  # imports Triton

            stack.enter_context(kept_tuning(cache, switches()))
        # Else nothing is tried, or by another compiler than the toolchain's.
        if WIDTH not in job.architecture_options and "cpp.cxx" not in options:
            toolchain = digest_json([job.toolchain, job.environment])
            stack.enter_context(tried_once(toolchain, cache_root))
        told = stack.enter_context(compiling_for(job.architecture_options, options, cache_root))
        _compile(program, package, {**told, "aot_inductor.metadata": {KEY_METADATA: keys.key}})
    if setting := binds_weights(options):
        return {"external": False, "why": f"inductor's {setting} is on"}
    if keys.undigested is not None:
        return {"external": False, "why": keys.undigested}
    return separate(package, *state)


def prepare(model: Model, device: str, root: Path, where: Mapping[str, str]) -> Prepared:
    """Import, make, load weights, make the example inputs, and move all to the device."""
    import_declared(model.imports, where["imports"])
    module = assembled(model, model.source, model.kwargs, model.dtype, root, where)
    if isinstance(model.inputs, Source):
        make, axes = _called_inputs(model.inputs, model.dims, module, root, where["inputs"])
    else:
        make, axes = from_shapes(model.inputs), declared_axes(model.inputs)
    example = make({dim.name: dim.example for dim in model.dims}, SEED)
    return Prepared(
        module.to(device), make, example.to(device), axes, device, model.dims, model.strict
    )


def _called_inputs(
    source: Source, dims: tuple[Dim, ...], module: torch.nn.Module, root: Path, where: str
) -> tuple[Make, list[Axes]]:
    """How the user's callable makes calls, and the sizes in them that follow dims."""
    make = from_callable(load_callable(source, root, where), where)
    example = make({dim.name: dim.example for dim in dims}, SEED)

    def name(index: int) -> str:
        return input_names(module, example)[index]

    axes = found_axes(make, dims, where, name)
    return held_to(make, axes, example, where, name), axes


@contextlib.contextmanager
def _unwritten(program: ExportedProgram) -> Iterator[None]:
    """Raise `BuildError` if a call of the model inside wrote into a weight: the keys are of its
    value before, and the compile would take the one after. Buffers are restored by `reference`, so
    only their being replaced matters."""
    buffers = set(program.graph_signature.buffers)
    values = {**program.state_dict, **program.constants}
    watched = {n: v for n, v in values.items() if isinstance(v, torch.Tensor) and n not in buffers}
    before = {name: value._version for name, value in watched.items()}
    yield
    if written := [name for name, value in watched.items() if value._version != before[name]]:
        hint = (
            "what changes from call to call must be a buffer (register_buffer); parameters must"
            " stay as they are"
        )
        if any(name.rpartition(".")[2].startswith("lifted_tensor_") for name in written):
            # torch's name for a tensor that is reached by another way than as the module's buffer.
            hint += (
                "; if it is one already, and is used by another reference (Hugging Face's static"
                " cache), set "
            )
            hint += "`strict: true` for this model"
        raise BuildError(
            f"the model writes into {', '.join(written[:3])} when it is called", hint=hint
        )


@contextlib.contextmanager
def _private_cache(cache_root: Path, graph_key: str) -> Iterator[Path]:
    """An empty inductor cache of this job's own, at a path that follows from the key.

    Private, because inductor names its files by the graph's code alone: two models with equal
    graphs and different weights that share a cache get each other's weights. From the key, because
    the path ends up inside the shared library.
    """
    cache = cache_root / graph_key[:32]
    with lock(cache_root / f"{graph_key[:32]}.lock"):
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
        try:
            yield cache
        finally:
            shutil.rmtree(cache, ignore_errors=True)


def _compile(program: ExportedProgram, path: Path, options: dict[str, Any]) -> None:
    import torch._inductor

    try:
        with shareable_members():
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=dict(options)
            )
    except Exception as error:  # inductor, Triton and the C++ compiler each have their own types
        text = str(error).strip()
        raise BuildError(
            "inductor could not compile the exported program",
            cause=f"{type(error).__name__}: {text[:2000]}",
            hint="the log has the compiler's whole output",
        ) from error
