"""The `build` job: model, export, keys; then, as the parent decides from the keys, nothing, a
repack or a compile.

Writes model.pt2 and reference.safetensors into the staging directory, as far as they are not taken
from the store. The result says what was made and from what; looking into the store, checking and
publishing are the parent's.
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
from aoti_build._torch.checking.exported import Exported
from aoti_build._torch.checking.reference import (
    case_sequences,
    is_reference_data_of,
    make_reference_data,
    save_reference_data_of,
)
from aoti_build._torch.checking.reference_data import ReferenceData, baseline_of
from aoti_build._torch.checking.returned import check_constants
from aoti_build._torch.checking.seen import first_calls
from aoti_build._torch.compiling import shared
from aoti_build._torch.compiling.bounds import declared_bounds
from aoti_build._torch.compiling.corrections import corrected
from aoti_build._torch.compiling.keys import Keys, keys_of
from aoti_build._torch.compiling.package import compile_package
from aoti_build._torch.compiling.settings import (
    inductor_options,
    set_precision,
)
from aoti_build._torch.discovery.discover import Discovery
from aoti_build._torch.discovery.registered import Registrations, needed_imports
from aoti_build._torch.events import Events
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
from aoti_build._torch.program.precision import computed_in
from aoti_build._torch.program.ranges import declared_minimums
from aoti_build._torch.program.signature import replace_uncompilable_outputs, signature
from aoti_build._torch.program.structure import (
    check_can_be_stored,
    foreign_types,
    register_named_tuples,
)
from aoti_build._torch.program.writes import Writes, functional_form, observed_names
from aoti_build.artifact.fingerprint import declared_files
from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA
from aoti_build.errors import BuildError
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
    """An exported program, with all that the keys and the reference data depend on.

    `lost` is what the model loses against its baseline, `listed` its weights as manifests list
    them, `types` the types that its structures consist of, `used` the recorded sources.
    """

    program: ExportedProgram
    functional: ExportedProgram
    described: dict[str, Any]
    subject: Subject
    lost: Any
    options: dict[str, Any]
    used: Mapping[str, Recorded]
    keys: Keys
    listed: Any
    types: Mapping[str, type]


def build(job: BuildJob, events: Events) -> BuildResult:
    """Ask the parent once, with the keys, and do what it answers.

    The eager-mode outputs are made anew whatever the answer is: the code that the graph came from
    may do something else when it is not exported.
    """
    target = job.target
    staged, root, where = Path(job.staged), Path(job.root), job.where
    shared.keep_below(Path(job.cache_root))
    discovery = _discovery(job, target.model)
    registrations = Registrations()
    set_precision(target)
    with events.phase("model"):
        prepared = prepare(target.model, target.device, root, where)
    with contextlib.ExitStack() as stack:
        stack.enter_context(whole_ranges())
        with events.phase("export"):
            export = _exported(prepared, where)
            stack.enter_context(export.tracing())
            registrations.refuse_unimportable(call_targets(export.program), where["source"])
            graph = _graph(export, prepared, job, discovery)
        answer = events.ask(KeysQuestion(key=graph.keys.key, graph_key=graph.keys.graph_key))
        kept = _keep_or_make_reference_data(graph, answer, job, events)
        weights = None
        if isinstance(answer, Repack):
            with events.phase("repack"):
                _repack(answer, graph.program, staged / MODEL, graph.keys)
        elif isinstance(answer, Compile):
            minimums = declared_minimums(graph.program, target.model.dims, prepared.axes)
            with declared_bounds(minimums), corrected():
                replace_uncompilable_outputs(graph.program)
                weights = compile_package(graph.program, graph.options, job, graph.keys, events)
    operators = called_operators(staged / MODEL)
    imports = needed_imports(registrations, operators, graph.types, target.model.imports)
    return BuildResult(
        key=graph.keys.key,
        graph_key=graph.keys.graph_key,
        undigested=graph.keys.undigested,
        reference_data_kept=kept,
        weights=weights,
        signature={**graph.described, "weights": graph.listed},
        imports=tuple(imports),
        sources=graph.used["sources"],
        distributions=graph.used["distributions"],
        modules=graph.used["modules"],
        variables=graph.used["variables"],
        seconds=events.seconds,
    )


def _graph(exported: Exported, prepared: Prepared, job: BuildJob, discovery: Discovery) -> _Graph:
    """Describe the exported program and compute its keys. Raises `BuildError` for a model that no
    package can hold, and `UsageError` for a baseline that does not fit."""
    model, program, where = job.target.model, exported.program, job.where
    types = _stored_types(program, where)
    functional = functional_form(program)
    described, subject = _described(exported, functional, prepared, model.dims)
    if isinstance(model.inputs, Source):
        for _ in case_sequences(subject, model.dims):
            pass  # a file that the callable reads for another size is a source as well
    lost = losses(subject, model, described, Path(job.root), where)
    # The user's code was imported, so its settings of inductor and torch count from here on.
    options = inductor_options(
        job.target, job.architecture_options, where, apart=has_weights(program)
    )
    used: dict[str, Recorded] = {
        "sources": discovery.sources(),
        "distributions": discovery.distributions(),
        "modules": discovery.modules(),
        "variables": discovery.variables(),
    }
    keys = keys_of(program, options, job, used)
    listed = listed_weights(program)  # before the compile changes the program
    return _Graph(program, functional, described, subject, lost, options, used, keys, listed, types)


def _keep_or_make_reference_data(
    graph: _Graph, answer: Answer, job: BuildJob, events: Events
) -> bool:
    """Keep the stored reference data if eager mode still gives it, else make it anew. Returns
    whether it was kept."""
    model, stored = job.target.model, Path(job.staged) / REFERENCE_DATA
    with events.phase("reference"), events.progress() as tell, _unwritten(graph.program):
        if isinstance(answer, Take) and answer.reference_data:
            same_loss = baseline_of(stored) == graph.lost
            if same_loss and is_reference_data_of(stored, graph.subject, model):
                return True
        made = make_reference_data(graph.subject, model, program=graph.functional, tell=tell)
        check_constants(made, graph.described, job.where["source"])
        _save(replace(made, baseline=graph.lost), stored, model, graph.described, job)
        return False


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
