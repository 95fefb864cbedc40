"""What `aoti_build.load` adds to a call: microseconds of one processor, around a package that does
nothing.

    python benchmarks/calls.py

Needs transformers for one of the rows. The figures are the least of many repetitions, in the time
of the process, so other work on the machine changes them little.
"""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from aoti_build.runtime.arguments import Arguments
from aoti_build.runtime.gate import Gate, turns
from aoti_build.runtime.leaves import Kinds
from aoti_build.runtime.model import LoadedModel
from aoti_build.runtime.structures import exported_parameters, output_restorer

KINDS = Kinds(torch.Tensor, torch.device("cpu"), lambda name: getattr(torch, name))
DIMS = {
    "batch": {"min": 1, "max": 8, "multiple_of": 1},
    "seq": {"min": 2, "max": 64, "multiple_of": 1},
}
CALLS = 2000
REPETITIONS = 25


def main() -> None:
    x, y = torch.zeros(2, 3), torch.zeros(2, 3)
    tokens = torch.zeros(2, 8, dtype=torch.int64)
    row("one tensor by position", (x,), {}, x)
    row("two by position, two outputs", (x, y), {}, (x, y))
    row("the second one by keyword", (x,), {"y": y}, (x, y), positional=2)
    text = {"input_ids": tokens, "attention_mask": tokens}
    sizes = [["batch", "seq"]] * 2
    row("keywords, dims, output of transformers", (), text, transformers_output(x, y), sizes)
    nested = {"a": {"b": x, "c": [x, y]}, "d": (x,)}
    row("nested input and output", (nested,), {}, nested)
    layers = [(torch.zeros(2, 4, 8, 16), torch.zeros(2, 4, 8, 16)) for _ in range(8)]
    sizes = [["batch", "seq"], *[["batch", 4, "seq", 16]] * 16]
    row("a cache of 8 layers", (tokens, tuple(layers)), {}, (x, tuple(layers)), sizes)


def row(
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    result: Any,
    shapes: Sequence[Sequence[Any]] | None = None,
    *,
    positional: int | None = None,
) -> None:
    """Print the microseconds of a call with these arguments, less those of the package."""
    model = model_of(args, kwargs, result, shapes, positional)
    inputs = [torch.zeros(1)]
    alone = least(lambda: model._run(inputs))
    print(f"{name:42} {least(lambda: model(*args, **kwargs)) - alone:6.2f} us", flush=True)


def model_of(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    result: Any,
    shapes: Sequence[Sequence[Any]] | None,
    positional: int | None,
) -> Any:
    """A loaded model without a package, whose calls return `result`."""
    if positional is not None:  # exported by position, called by keyword
        exported: Any = ((*args, *kwargs.values()), {})
    else:
        exported = (args, kwargs)
    leaves, in_spec = pytree.tree_flatten(exported)
    outputs, out_spec = pytree.tree_flatten(result)
    names = [*(f"argument_{index}" for index in range(len(args))), *kwargs]
    inputs = []
    for index, value in enumerate(leaves):
        name = names[index] if index < len(names) else f"leaf_{index}"
        shape = list(shapes[index] if shapes else value.shape)
        dtype = str(value.dtype).removeprefix("torch.")
        inputs.append({"name": name, "dtype": dtype, "shape": shape})
    signature = {
        "inputs": inputs,
        "outputs": [{"name": str(index)} for index in range(len(outputs))],
        "dims": DIMS if shapes else {},
        "mutates": {"inputs": [], "buffers": []},
    }
    model: Any = LoadedModel.__new__(LoadedModel)
    parameters = exported_parameters(in_spec, signature)
    model._arguments = Arguments("model/cpu", signature, parameters, KINDS)
    model._written = None
    model._gate = Gate()
    model._turns = turns(1)
    model._restore = output_restorer(out_spec, signature["outputs"])
    model._run = lambda _: outputs
    return model


def transformers_output(first: torch.Tensor, second: torch.Tensor) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return BaseModelOutputWithPooling(last_hidden_state=first, pooler_output=second)


def least(call: Callable[[], Any]) -> float:
    """Microseconds of process time of one call."""
    seconds = timeit.repeat(call, number=CALLS, repeat=REPETITIONS, timer=time.process_time)
    return min(seconds) / CALLS * 1e6


if __name__ == "__main__":
    main()
