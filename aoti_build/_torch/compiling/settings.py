"""Everything in this process that changes the code a compile makes and is not in the graph:
inductor's options, resolved over its defaults, environment and whatever user code set at import,
and torch's own global switches."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch._functorch import config as functorch_config
from torch._inductor import config

from aoti_build._torch.compiling.isa import architecture_options
from aoti_build._torch.packages.weights import EXTERNAL_OPTIONS
from aoti_build.errors import UsageError
from aoti_build.models_file.project import Target

# How many processes compile and how they are started does not reach the code.
_IRRELEVANT = frozenset({
    "compile_threads", "quiesce_async_compile_pool", "quiesce_async_compile_time",
    "worker_start_method", "worker_suppress_logging", "verbose_progress",
})  # fmt: skip


def inductor_options(
    target: Target, isa: Mapping[str, Any], where: Mapping[str, str], *, apart: bool
) -> dict[str, Any]:
    """The preset's options over our own, those that keep weights `apart` from the code included if
    wanted.

    Raises `UsageError` for a name that this torch's inductor does not know.
    """
    options = {
        **(EXTERNAL_OPTIONS if apart else {}),
        **architecture_options(isa),
        **target.inductor_config,
    }
    if options.get("aot_inductor.package_constants_in_so"):
        options.pop("aot_inductor.package_constants_on_disk_format", None)
    known = config.get_config_copy()
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            raise UsageError(
                f"torch {torch.__version__} has no inductor option {name!r}",
                where=where["inductor_configs"],
                hint=(
                    f"did you mean {', '.join(near)}?"
                    if near
                    else "torch._inductor.list_options() lists them"
                ),
            )
    return options


def resolved_settings(options: Mapping[str, Any]) -> dict[str, str]:
    """Every inductor setting under `options`, and torch's switches, as text by name."""
    with config.patch(dict(options)):
        inductor = config.save_config_portable(ignore_private_configs=False)
    settings = {
        f"inductor.{name}": repr(value)
        for name, value in inductor.items()
        if name not in _IRRELEVANT
    }
    autograd = functorch_config.save_config_portable(ignore_private_configs=False)
    settings |= {f"functorch.{name}": repr(value) for name, value in autograd.items()}
    return {**settings, **switches()}


def set_precision(target: Target) -> None:
    """Let this process compute as the target's `cuda` options say. Eager and compiled code read
    these switches when they run, so whoever compares the two sets them in both."""
    options = target.model.cuda
    if options.tf32 is not None:
        torch.backends.cudnn.allow_tf32 = options.tf32
        torch.backends.cuda.matmul.allow_tf32 = options.tf32
    if options.reduced_precision is not None:
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = (
            options.reduced_precision
        )
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = (
            options.reduced_precision
        )


def own_passes() -> bool:
    """Whether somebody gave inductor passes of their own to run: callables in its config, which the
    settings leave out (`_save_config_ignore`) or know by an address only."""
    return any(_is_foreign(value) for value in config.get_config_copy().values())


def _is_foreign(value: Any) -> bool:
    if isinstance(value, Mapping | list | tuple):
        return any(map(_is_foreign, value.values() if isinstance(value, Mapping) else value))
    named = value if hasattr(value, "__module__") else type(value)
    return callable(value) and not str(named.__module__).startswith(("torch.", "builtins"))


def binds_weights(options: Mapping[str, Any]) -> str | None:
    """The setting, if one is on, by which inductor makes code from the values of weights, so that
    they belong to it."""
    with config.patch(dict(options)):
        return next(
            (
                name
                for name in ("freezing", "joint_graph_constant_folding")
                if getattr(config, name)
            ),
            None,
        )


def switches() -> dict[str, str]:
    """Global state of torch that lowering, code generation and torch's own kernels read, as text by
    name."""
    found = {
        "threads": torch.get_num_threads(),  # written into OpenMP loops
        "default_dtype": torch.get_default_dtype(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "cuda.fp16_reduction": torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
        "cuda.bf16_reduction": torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        "cudnn.enabled": torch.backends.cudnn.enabled,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "mkldnn.enabled": torch.backends.mkldnn.enabled,
    }
    return {f"torch.{name}": repr(value) for name, value in found.items()}
