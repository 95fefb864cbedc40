"""Everything in this process that changes compiled code and is not in the graph.

These are inductor's options, over its defaults, its environment and the settings that user code
made at import, and torch's own global switches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch._functorch import config as functorch_config
from torch._inductor import config

from aoti_build._torch.compiling.isa import Options, architecture_options
from aoti_build._torch.compiling.option_values import check_options
from aoti_build._torch.packages.weights import EXTERNAL_OPTIONS
from aoti_build.models_file.project import Target

# How many processes compile and how they are started does not change the code.
_IRRELEVANT = frozenset({
    "compile_threads", "quiesce_async_compile_pool", "quiesce_async_compile_time",
    "worker_start_method", "worker_suppress_logging", "verbose_progress",
})  # fmt: skip
# Settings with which inductor computes code from the values of weights.
_BINDING_SETTINGS = ("freezing", "joint_graph_constant_folding")


def inductor_options(
    target: Target,
    isa: Options,
    where: Mapping[str, str],
    *,
    apart: bool,
) -> dict[str, Any]:
    """The preset's options over those of this package. With `apart` they include the options for
    external weights.

    Raises:
        UsageError: An option of the preset is unknown to this torch, or has another type.
    """
    options: dict[str, Any] = {}
    if apart:
        options.update(EXTERNAL_OPTIONS)
    options.update(architecture_options(isa))
    options.update(target.inductor_config)
    if options.get("aot_inductor.package_constants_in_so"):
        # With this format inductor would write embedded weights to a file of their own all the
        # same.
        options.pop("aot_inductor.package_constants_on_disk_format", None)
    check_options(options, where)
    return options


def resolved_settings(options: Options) -> dict[str, str]:
    """Every inductor setting under `options`, and torch's switches, as text by name."""
    with config.patch(dict(options)):
        inductor = config.save_config_portable(ignore_private_configs=False)
    settings = {}
    for name, value in inductor.items():
        if name not in _IRRELEVANT:
            settings[f"inductor.{name}"] = repr(value)
    autograd = functorch_config.save_config_portable(ignore_private_configs=False)
    for name, value in autograd.items():
        settings[f"functorch.{name}"] = repr(value)
    settings.update(switches())
    with config.patch(dict(options)):
        has_fixed_threads = config.cpp.threads >= 1
    # `parallel_num_threads` in torch/_inductor/utils.py reads torch's number only without the
    # option. What is computed from weights at build time may depend on it in any case.
    if has_fixed_threads and binds_weights(options) is None:
        del settings["torch.threads"]
    return settings


def own_passes() -> bool:
    """Whether user code gave inductor passes of its own.

    These are callables in its config. The settings leave them out (`_save_config_ignore` in
    torch/_inductor/config.py), or show only an address.
    """
    return any(_has_foreign_callable(value) for value in config.get_config_copy().values())


def _has_foreign_callable(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_foreign_callable(entry) for entry in value.values())
    if isinstance(value, list | tuple):
        return any(_has_foreign_callable(entry) for entry in value)
    if not callable(value):
        return False
    # An instance of a class with __call__ may have no module of its own.
    owner = value if hasattr(value, "__module__") else type(value)
    return not str(owner.__module__).startswith(("torch.", "builtins"))


def binds_weights(options: Options) -> str | None:
    """The setting with which inductor computes code from the values of weights, so that they belong
    to it; None if there is none."""
    with config.patch(dict(options)):
        for name in _BINDING_SETTINGS:
            if getattr(config, name):
                return name
    return None


def switches() -> dict[str, str]:
    """Global state of torch that lowering, code generation and torch's own kernels read, as text by
    name."""
    backends = torch.backends
    matmul = backends.cuda.matmul
    values = {
        "threads": torch.get_num_threads(),  # written into OpenMP loops
        "default_dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cuda.fp16_reduction": matmul.allow_fp16_reduced_precision_reduction,
        "cuda.bf16_reduction": matmul.allow_bf16_reduced_precision_reduction,
        "cudnn.enabled": backends.cudnn.enabled,
        "cudnn.benchmark": backends.cudnn.benchmark,
        "mkldnn.enabled": backends.mkldnn.enabled,
        **_float32_precision(),
    }
    return {f"torch.{name}": repr(value) for name, value in values.items()}


def _float32_precision() -> dict[str, Any]:
    """The switches of torch for the precision of float32 operators."""
    backends = torch.backends
    try:
        return {
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "cudnn.allow_tf32": backends.cudnn.allow_tf32,
        }
    except RuntimeError:
        # User code has set the newer switches, one for each operator. The older ones then raise
        # (aten/src/ATen/Context.cpp).
        return {
            "cuda.matmul.fp32_precision": backends.cuda.matmul.fp32_precision,
            "cudnn.conv.fp32_precision": backends.cudnn.conv.fp32_precision,
            "cudnn.rnn.fp32_precision": backends.cudnn.rnn.fp32_precision,
        }
