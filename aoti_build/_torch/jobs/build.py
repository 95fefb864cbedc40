"""The `build` job: make the model, export it, and compute the keys.

The parent looks the keys up in the store. By its answer the job reuses a package, replaces the
weights of one, or compiles. It writes model.pt2 and reference.safetensors into the staging
directory, unless they came from the store. The parent checks and publishes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from aoti_build._torch.checking.baseline import losses
from aoti_build._torch.checking.eager import Subject, reference
from aoti_build._torch.checking.eager_failure import EagerFailure, NothingReturned
from aoti_build._torch.checking.exported import Exported
from aoti_build._torch.checking.first_calls import first_calls
from aoti_build._torch.checking.reference import (
    case_sequences,
    is_reference_data_of,
    make_reference_data,
    save_reference_data_of,
)
from aoti_build._torch.checking.reference_data import ReferenceData
from aoti_build._torch.checking.reference_reader import baseline_of
from aoti_build._torch.checking.returned import check_constants
from aoti_build._torch.compiling import shared
from aoti_build._torch.compiling.bounds import declared_bounds
from aoti_build._torch.compiling.corrections import corrected
from aoti_build._torch.compiling.keys import Keys, keys_of
from aoti_build._torch.compiling.option_values import check_options
from aoti_build._torch.compiling.package import compile_package
from aoti_build._torch.compiling.settings import (
    inductor_options,
)
from aoti_build._torch.discovery.discover import Discovery
from aoti_build._torch.discovery.registered import Registrations, needed_imports
from aoti_build._torch.events import Events, tell_stage
from aoti_build._torch.jobs.latency import eager_seconds
from aoti_build._torch.jobs.prepared import Prepared, prepare
from aoti_build._torch.packages.imports import called_operators
from aoti_build._torch.packages.weights import (
    has_weights,
    repack,
)
from aoti_build._torch.program.export import whole_ranges
from aoti_build._torch.program.graph import (
    call_targets,
    listed_weights,
)
from aoti_build._torch.program.permitted import set_precision
from aoti_build._torch.program.precision import computed_in
from aoti_build._torch.program.ranges import declared_minimums
from aoti_build._torch.program.signature import replace_uncompilable_outputs, signature
from aoti_build._torch.program.structure import (
    check_can_be_stored,
    foreign_types,
    register_named_tuples,
)
from aoti_build._torch.program.writes import Writes, functional_form
from aoti_build.artifact.fingerprint import declared_files
from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA
from aoti_build.artifact.reference_file import observed_names
from aoti_build.errors import BuildError, UsageError
from aoti_build.messages import (
    Answer,
    BuildJob,
    BuildResult,
    Compile,
    KeysQuestion,
    Recorded,
    Repack,
    Signature,
    Take,
)
from aoti_build.models_file.project import Dim, Model, Source


@dataclass(frozen=True)
class _Graph:
    """An exported program, with all that the keys and the reference data depend on."""

    program: ExportedProgram
    functional: ExportedProgram
    signature: dict[str, Any]
    subject: Subject
    # How much of the accuracy of its baseline the model loses, by output.
    baseline_losses: Any
    options: dict[str, Any]
    # The recorded sources, distributions, modules and variables.
    dependencies: Mapping[str, Recorded]
    keys: Keys
    # The weights, as manifests list them.
    weights: Any
    # The types that the structures of inputs and outputs consist of, by name.
    types: Mapping[str, type]


def build(job: BuildJob, events: Events) -> BuildResult:
    """Make the artifact of a job. Raises `UsageError` if the model fails in eager mode."""
    try:
        return _build(job, events)
    except EagerFailure as error:
        # What models.yaml names is wrong, the code or the inputs. The user can correct both.
        field = "source" if isinstance(error, NothingReturned) else "inputs"
        raise UsageError(
            error.message,
            where=job.where[field],
            cause=error.cause,
            hint=error.hint,
        ) from error


def _build(job: BuildJob, events: Events) -> BuildResult:
    """Ask the parent once, with the keys, and do what it answers.

    The eager-mode outputs are always made again. The code that the graph was exported from may do
    something else in eager mode.
    """
    target = job.target
    package = Path(job.staged) / MODEL
    shared.keep_below(Path(job.cache_root))
    # Both record what the user's code does from here on.
    discovery = _discovery(job, target.model)
    registrations = Registrations()
    set_precision(target)
    # `_graph` checks them too. A large model takes long until then.
    check_options(target.inductor_config, job.where)
    with events.phase("model"):
        prepared = prepare(target.model, target.device, Path(job.root), job.where)
    with contextlib.ExitStack() as stack:
        stack.enter_context(whole_ranges())
        with events.phase("export"):
            export = _exported(prepared, job.where)
            stack.enter_context(export.tracing())
            registrations.refuse_unimportable(call_targets(export.program), job.where["source"])
            graph = _graph(export, prepared, job, discovery)
        answer = events.ask(KeysQuestion(key=graph.keys.key, graph_key=graph.keys.graph_key))
        with events.phase("reference"):
            kept, eager = _keep_or_make_reference_data(graph, answer, prepared, job, events)
        weights = _make_package(answer, graph, prepared, job, events)
    imports = needed_imports(
        registrations,
        called_operators(package),
        graph.types,
        target.model.imports,
    )
    return BuildResult(
        key=graph.keys.key,
        graph_key=graph.keys.graph_key,
        undigested=graph.keys.undigested,
        reference_data_kept=kept,
        eager_seconds=eager,
        weights=weights,
        signature={**graph.signature, "weights": graph.weights},
        imports=tuple(imports),
        sources=graph.dependencies["sources"],
        distributions=graph.dependencies["distributions"],
        modules=graph.dependencies["modules"],
        variables=graph.dependencies["variables"],
        seconds=events.seconds,
    )


def _make_package(
    answer: Answer,
    graph: _Graph,
    prepared: Prepared,
    job: BuildJob,
    events: Events,
) -> Any:
    """Make model.pt2 as the parent answered. Returns how a compiled package holds its weights, and
    None if nothing was compiled."""
    if isinstance(answer, Repack):
        with events.phase("repack"):
            _replace_weights(answer, graph.program, Path(job.staged) / MODEL, graph.keys)
        return None
    if not isinstance(answer, Compile):
        return None
    minimums = declared_minimums(graph.program, job.target.model.dims, prepared.axes)
    with declared_bounds(minimums), corrected():
        replace_uncompilable_outputs(graph.program)
        return compile_package(graph.program, graph.options, job, graph.keys, events)


def _graph(exported: Exported, prepared: Prepared, job: BuildJob, discovery: Discovery) -> _Graph:
    """Describe the exported program and compute its keys.

    Raises:
        BuildError: no package can hold the model.
        UsageError: its baseline does not fit.
    """
    model = job.target.model
    program = exported.program
    types = _stored_types(program, job.where)
    functional = functional_form(program)
    described, subject = _described(exported, functional, prepared, model.dims)
    if isinstance(model.inputs, Source):
        # The callable may read another file for another size. That file is a source too.
        for _ in case_sequences(subject, model.dims):
            pass
    baseline_losses = losses(subject, model, described, Path(job.root), job.where)
    # The user's code was imported, so its settings of inductor and torch count from here on.
    options = inductor_options(
        job.target,
        job.architecture_options,
        job.where,
        apart=has_weights(program),
    )
    dependencies: dict[str, Recorded] = {
        "sources": discovery.sources(),
        "distributions": discovery.distributions(),
        "modules": discovery.modules(),
        "variables": discovery.variables(),
    }
    return _Graph(
        program=program,
        functional=functional,
        signature=described,
        subject=subject,
        baseline_losses=baseline_losses,
        options=options,
        dependencies=dependencies,
        keys=keys_of(program, options, job, dependencies),
        weights=listed_weights(program),  # before the compile changes the program
        types=types,
    )


def _keep_or_make_reference_data(
    graph: _Graph, answer: Answer, prepared: Prepared, job: BuildJob, events: Events
) -> tuple[bool, float | None]:
    """Keep the stored reference data if eager mode still gives it, else make it again.

    Returns whether it was kept, and the seconds of a call in eager mode if they were measured.
    """
    model = job.target.model
    stored = Path(job.staged) / REFERENCE_DATA
    with _refuse_writes(graph.program):
        if isinstance(answer, Take) and answer.reference_data:
            same_losses = baseline_of(stored) == graph.baseline_losses
            if same_losses and is_reference_data_of(stored, graph.subject, model):
                return True, None
        reference_data = make_reference_data(
            graph.subject,
            model,
            program=graph.functional,
            tell=tell_stage(events),
        )
        check_constants(reference_data, graph.signature, job.where["source"])
        complete = replace(reference_data, baseline=graph.baseline_losses)
        _save(complete, stored, model, graph.signature, job)
        known = reference_data.example_seconds
        return False, eager_seconds(graph.subject, prepared.example, known)


def _discovery(job: BuildJob, model: Model) -> Discovery:
    """A recorder of what the model uses, from now on."""
    root = Path(job.root)
    discovery = Discovery(
        root,
        declared_files(model),
        job.python_path,
        ignored=(Path(job.artifacts), Path(job.cache_root)),
        environment=job.replaced_variables,
        skew_ns=job.skew_ns,
    )
    discovery.note_kwargs(model.kwargs)
    return discovery


def _exported(prepared: Prepared, where: Mapping[str, str]) -> Exported:
    try:
        return prepared.exported(where)
    except BuildError:
        # A model that fails in eager mode too raises its own error here, which says more.
        reference("example", prepared.subject(), prepared.example)
        raise


def _save(
    reference_data: ReferenceData,
    path: Path,
    model: Model,
    described: Signature,
    job: BuildJob,
) -> None:
    """Write the reference data. If its limit leaves something out, write all of it to the job's
    own file as well, for the check of this build."""
    names = observed_names(described)
    if save_reference_data_of(path, reference_data, model, names):
        return
    save_reference_data_of(
        Path(job.whole_reference_data),
        reference_data,
        model,
        names,
        limited=False,
    )


def _stored_types(program: ExportedProgram, where: Mapping[str, str]) -> dict[str, type]:
    """The types of inputs and outputs that are not Python's own. Raises `BuildError` if a package
    cannot hold them."""
    inputs = program.call_spec.in_spec
    outputs = program.call_spec.out_spec
    register_named_tuples(inputs, outputs)
    check_can_be_stored(inputs, "inputs", where["inputs"])
    check_can_be_stored(outputs, "outputs", where["source"])
    return {**foreign_types(inputs), **foreign_types(outputs)}


def _described(
    exported: Exported,
    functional: ExportedProgram,
    prepared: Prepared,
    dims: tuple[Dim, ...],
) -> tuple[dict[str, Any], Subject]:
    """The signature, which also lists what a call writes into, and the model as the checks use it.
    Raises `BuildError` for a model that writes where no artifact can."""
    program = exported.program
    with _refuse_writes(program):
        first = first_calls(prepared.module, prepared.example)
    described = signature(
        program,
        functional,
        prepared.module,
        prepared.example,
        dims,
        prepared.axes,
        first.changes,
    )
    if exported.special:
        described["special"] = list(exported.special)
    narrower_types = computed_in(
        functional,
        Writes.of_signature(described),
        observed_names(described),
    )
    if narrower_types:
        described["computed_in"] = narrower_types
    subject = prepared.subject(described, program)
    first.refuse_hidden_state(subject.writes)
    return described, subject


def _replace_weights(answer: Repack, program: ExportedProgram, package: Path, keys: Keys) -> None:
    template = Path(answer.template)
    repack(template, package, program, answer.alignment, keys.key)
    template.unlink()  # it takes as much disk space as the new package


@contextlib.contextmanager
def _refuse_writes(program: ExportedProgram) -> Iterator[None]:
    """Raise `BuildError` if a call of the model inside writes into a weight.

    The keys are of the value before the call, and the compile would take the value after it.
    Buffers may change: `reference` restores them.
    """
    buffers = set(program.graph_signature.buffers)
    weights = {
        name: value
        for name, value in {**program.state_dict, **program.constants}.items()
        if isinstance(value, torch.Tensor) and name not in buffers
    }
    # torch increases a tensor's version at every write.
    versions = {name: value._version for name, value in weights.items()}
    yield
    written = [name for name, value in weights.items() if value._version != versions[name]]
    if written:
        raise _writes_into_weights(written)


def _writes_into_weights(names: list[str]) -> BuildError:
    hint = (
        "register what changes from call to call as a buffer (register_buffer); a call must not"
        " change parameters"
    )
    # torch's name for a tensor that the code reaches by another way than as the module's buffer.
    if any(name.rpartition(".")[2].startswith("lifted_tensor_") for name in names):
        hint += (
            ". If it is a buffer already, the code uses it by another reference (Hugging Face's"
            " static cache does). Set `strict: true` for this model"
        )
    return BuildError(f"the model writes into {', '.join(names[:3])} when it is called", hint=hint)
