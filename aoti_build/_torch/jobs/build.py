"""The `build` job: model, export, keys; then, as the parent decides from the keys, nothing, a repack or a compile.

Writes model.pt2 and golden.safetensors into the staging directory, as far as they are not taken from the store. The
result says what was made and from what; looking into the store, checking and publishing are the parent's.
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
from aoti_build._torch.checking.golden import baseline_of
from aoti_build._torch.checking.reference import (
    SEED,
    Subject,
    case_sequences,
    is_golden_of,
    make_golden,
    reference,
    save_golden_of,
)
from aoti_build._torch.checking.seen import first_calls
from aoti_build._torch.compiling import shared
from aoti_build._torch.compiling.bounds import declared_bounds
from aoti_build._torch.compiling.isa import WIDTH, compiling_for, floor_settings, tried_once
from aoti_build._torch.compiling.old_values import keeping_old_values
from aoti_build._torch.compiling.settings import (
    binds_weights,
    inductor_options,
    own_passes,
    resolved_settings,
    set_precision,
    switches,
)
from aoti_build._torch.discovery.discover import Discovery
from aoti_build._torch.events import Events
from aoti_build._torch.packages.weights import has_weights, repack, separate, used_state
from aoti_build._torch.program.export import (
    declared_minimums,
    export,
    signature,
    sizes_of_one,
    whole_ranges,
)
from aoti_build._torch.program.graph import graph_digest, library_code, listed_weights, state_digest, uses_own_code
from aoti_build._torch.program.inputs import Axes, Call, Make, dynamic_axes, from_callable, from_shapes
from aoti_build._torch.program.model import cast, load_callable, load_weights, make_module
from aoti_build._torch.program.precision import computed_in
from aoti_build._torch.program.quantised import is_quantised, taken_apart
from aoti_build._torch.program.writes import Writes, computed_of, functional_form, observed_names
from aoti_build.digests import digest_json
from aoti_build.errors import BuildError
from aoti_build.files import lock
from aoti_build.fingerprint import KEY_VERSION, declared_files
from aoti_build.manifest import GOLDEN, KEY_METADATA, MODEL
from aoti_build.spec.project import Dim, Model, Source
from aoti_build.spec.records import target_from_json
from aoti_build.toolchain import ENVIRONMENT_OF_SOURCES


@dataclass(frozen=True)
class Prepared:
    """A model ready to be called on its device, with its example call."""

    module: torch.nn.Module
    make: Make
    example: Call
    axes: list[Axes]
    device: str
    dims: tuple[Dim, ...] = ()

    def subject(self, described: Mapping[str, Any] | None = None, program: ExportedProgram | None = None) -> Subject:
        """The model as it is checked: by its artifact's signature, and by the exported `program`, which is made where
        it is needed and not given."""
        if described is None:
            return Subject(self.module, self.make, self.device)
        if not is_quantised(self.module):
            program = None
        elif program is None:
            program = self._exported()
        return Subject(
            self.module, self.make, self.device, Writes.of_signature(described), computed_of(described), program
        )

    def _exported(self) -> ExportedProgram | None:
        """The model's program; None if it cannot be exported now, without which there is no float64 reference."""
        try:
            with sizes_of_one(self.dims), whole_ranges():
                return export(self.module, self.example, self.dims, self.axes, "")
        except BuildError:
            return None


def build(job: Mapping[str, Any], events: Events) -> dict[str, Any]:
    """Returns: key, graph_key, golden_kept, weights, signature, sources, distributions, modules,
    variables, seconds.

    Asks the parent once, with key and graph_key. The answer's `action` is "take" (the store has this very package),
    "repack" (with `template`, a package of the same graph, and its `alignment`) or "compile". Eager's outputs are made
    anew whatever the answer is: the code that the graph came from may do something else when it is not exported. With
    "take" comes `golden`: whether the stored golden file lies in the staging directory; it is kept if eager still gives
    what it holds. Golden tensors beyond the limit go to `whole_golden` as well, for the check alone.
    """
    target = target_from_json(job["target"])
    staged, root, where = Path(job["staged"]), Path(job["root"]), job["where"]
    shared.keep_below(Path(job["cache_root"]))
    discovery = Discovery(
        root,
        declared_files(target.model),
        ignored=(root / "artifacts", Path(job["cache_root"])),
        environment=job["replaced_variables"],
        skew_ns=job["skew_ns"],
    )
    discovery.note_kwargs(target.model.kwargs)
    set_precision(target)
    with events.phase("model"):
        prepared = prepare(target.model, target.device, root, where)
    dims = target.model.dims
    with sizes_of_one(dims), whole_ranges():
        with events.phase("export"):
            try:
                program = export(prepared.module, prepared.example, dims, prepared.axes, where["inputs"])
            except BuildError:
                # If the model fails by itself, that says more than the export's words for it.
                reference("example", prepared.subject(), prepared.example)
                raise
            functional = functional_form(program)
            described, subject = _described(program, functional, prepared, dims)
            if isinstance(target.model.inputs, Source):
                for _ in case_sequences(subject, dims):
                    pass  # what the callable reads for other sizes is a source too
            lost = losses(subject, target.model, described, root, where)
            # Now that the user's code was imported: what it set counts.
            options = inductor_options(target, job["floor_patches"], where, apart=has_weights(program))
            used: dict[str, Any] = {
                "sources": discovery.sources(),
                "distributions": discovery.distributions(),
                "modules": discovery.modules(),
                "variables": discovery.variables(),
            }
            made: dict[str, Any] = {
                **_keys(program, options, job, _own_code(program, used)),
                "signature": {**described, "weights": listed_weights(program)},
                **used,
            }
        answer = events.ask({name: made[name] for name in ("key", "graph_key")})
        with events.phase("reference"), _unwritten(program):
            golden = staged / GOLDEN
            kept = answer.get("golden", False) and baseline_of(golden) == lost
            made["golden_kept"] = kept and is_golden_of(golden, subject, target.model)
            if not made["golden_kept"]:
                found, names = make_golden(subject, target.model, program=functional), observed_names(described)
                found = replace(found, baseline=lost)
                if not save_golden_of(golden, found, target.model, names):
                    save_golden_of(Path(job["whole_golden"]), found, target.model, names, limited=False)
        if answer["action"] == "repack":
            with events.phase("repack"):
                repack(Path(answer["template"]), staged / MODEL, program, answer["alignment"], made["key"])
        elif answer["action"] == "compile":
            minimums = declared_minimums(program, dims, prepared.axes)
            with declared_bounds(minimums), keeping_old_values():
                made["weights"] = _compiled(program, options, job, made, events)
    return {**made, "seconds": events.seconds}


def _described(
    program: ExportedProgram, functional: ExportedProgram, prepared: Prepared, dims: tuple[Dim, ...]
) -> tuple[dict[str, Any], Subject]:
    """The signature, with what a call writes into, and the model as it is checked for that. Raises `BuildError` for a
    model that writes where no artifact can."""
    model, example = prepared.module, prepared.example
    with _unwritten(program):
        first = first_calls(model, example)
    described = signature(program, functional, model, example, dims, prepared.axes, first.seen)
    narrower = computed_in(functional, Writes.of_signature(described), observed_names(described))
    if narrower:
        described["computed_in"] = narrower
    subject = prepared.subject(described, program)
    first.refuse_hidden_state(subject.writes)
    return described, subject


def _compiled(
    program: ExportedProgram,
    options: Mapping[str, Any],
    job: Mapping[str, Any],
    made: Mapping[str, Any],
    events: Events,
) -> dict[str, Any]:
    """Compile into the staging directory; whether the package's weights can be exchanged later."""
    package = Path(job["staged"]) / MODEL
    # Before the compile, which changes the program in place.
    state = dict(program.state_dict), dict(program.constants), used_state(program)
    with contextlib.ExitStack() as stack:
        stack.enter_context(events.phase("compile"))
        cache = stack.enter_context(_private_cache(Path(job["cache_root"]), made["graph_key"]))
        if torch.device(job["target"]["device"]).type == "cuda":
            from aoti_build._torch.compiling.kernels import kept_tuning  # imports Triton

            stack.enter_context(kept_tuning(cache, switches()))
        # Else nothing is tried, or by another compiler than the toolchain's.
        if WIDTH not in job["floor_patches"] and "cpp.cxx" not in options:
            toolchain = digest_json([job["toolchain"], job["environment"]])
            stack.enter_context(tried_once(toolchain, Path(job["cache_root"])))
        told = stack.enter_context(compiling_for(job["floor_patches"], options, Path(job["cache_root"])))
        _compile(program, package, {**told, "aot_inductor.metadata": {KEY_METADATA: made["key"]}})
    if setting := binds_weights(options):
        return {"apart": False, "why": f"inductor's {setting} is on"}
    return separate(package, *state)


def _own_code(program: ExportedProgram, used: Mapping[str, Any]) -> Mapping[str, Any]:
    """The code beside torch's that the compile may run, by what it is known by."""
    library = library_code(used["distributions"])
    if uses_own_code(program) or own_passes() or library is None:
        return used
    return library


def _keys(
    program: ExportedProgram, options: Mapping[str, Any], job: Mapping[str, Any], own_code: Mapping[str, Any]
) -> dict[str, str]:
    """The graph key (what compiled code depends on) and the artifact key (that and the weights).

    `own_code` are the files and distributions used, where the graph only names code of theirs.
    """
    environment = {name: value for name, value in job["environment"].items() if name not in ENVIRONMENT_OF_SOURCES}
    graph_key = digest_json(
        {
            "key_version": KEY_VERSION,
            "graph": graph_digest(program),
            "settings": {**resolved_settings(options), **floor_settings(job["floor_patches"])},
            "own_code": own_code,
            "toolchain": job["toolchain"],
            "environment": environment,
        }
    )
    return {"graph_key": graph_key, "key": digest_json({"graph_key": graph_key, "weights": state_digest(program)})}


def prepare(model: Model, device: str, root: Path, where: Mapping[str, str]) -> Prepared:
    """Import, make, load weights, make the example inputs, and move all to the device."""
    factory = load_callable(model.source, root, where["source"])
    module = make_module(factory, model.kwargs, model.seed, where["kwargs"])
    if model.weights is not None:
        load_weights(module, root / model.weights, where["weights"])
    if isinstance(model.inputs, Source):
        make = from_callable(load_callable(model.inputs, root, where["inputs"]), where["inputs"])
    else:
        make = from_shapes(model.inputs)
    axes = dynamic_axes(make, model.dims, where["inputs"])
    example = make({dim.name: dim.example for dim in model.dims}, SEED)
    module = taken_apart(cast(module, model.dtype, where["dtype"])).to(device)
    return Prepared(module, make, example.to(device), axes, device, model.dims)


@contextlib.contextmanager
def _unwritten(program: ExportedProgram) -> Iterator[None]:
    """Raise `BuildError` if a call of the model inside wrote into a weight: the keys are of its value before, and the
    compile would take the one after. Buffers are restored by `reference`, so only their being replaced matters."""
    buffers = set(program.graph_signature.buffers)
    values = {**program.state_dict, **program.constants}
    watched = {n: v for n, v in values.items() if isinstance(v, torch.Tensor) and n not in buffers}
    before = {name: value._version for name, value in watched.items()}
    yield
    if written := [name for name, value in watched.items() if value._version != before[name]]:
        raise BuildError(
            f"the model writes into {', '.join(written[:3])} when it is called",
            hint="what changes from call to call must be a buffer (register_buffer); parameters must stay as they are",
        )


@contextlib.contextmanager
def _private_cache(cache_root: Path, graph_key: str) -> Iterator[Path]:
    """An empty inductor cache of this job's own, at a path that follows from the key.

    Private, because inductor names its files by the graph's code alone: two models with equal graphs and different
    weights that share a cache get each other's weights. From the key, because the path ends up inside the shared
    library.
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
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=dict(options))
    except Exception as error:  # inductor, Triton and the C++ compiler each have their own types
        text = str(error).strip()
        raise BuildError(
            "inductor could not compile the exported program",
            cause=f"{type(error).__name__}: {text[:2000]}",
            hint="the log has the compiler's whole output",
        ) from error
