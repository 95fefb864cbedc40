"""The same with torch alone, as a user would write it by hand: export, compile and package, load,
call. Prints JSON.

Every axis that changes with a dim is declared dynamic; nothing else is done to help.

Usage: python plain.py PROJECT BOUND
"""

from __future__ import annotations

import inspect
import json
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

start = time.monotonic()

import calls  # noqa: E402 - the clock runs over the imports
import torch  # noqa: E402
import torch._inductor  # noqa: E402
from torch.export import Dim  # noqa: E402
from torch.utils import _pytree as pytree  # noqa: E402

from aoti_build._torch.jobs.prepared import Prepared  # noqa: E402
from aoti_build._torch.program.inputs import Call  # noqa: E402
from aoti_build.models_file.project import Model  # noqa: E402


def dynamic_shapes(model: Model, prepared: Prepared) -> Any:
    """The call's structure with {axis: Dim.DYNAMIC} for every tensor whose size follows a dim."""
    if not model.dims:
        return None
    example = prepared.example.leaves()
    found: list[dict[int, Any]] = [{} for _ in example]
    for dim in model.dims:
        sizes = {other.name: other.example for other in model.dims}
        varied = prepared.make({**sizes, dim.name: dim.max}, 0).leaves()
        for leaf, other, axes in zip(example, varied, found, strict=True):
            if isinstance(leaf, torch.Tensor):
                changed = [
                    axis for axis in range(leaf.dim()) if leaf.shape[axis] != other.shape[axis]
                ]
                axes.update(dict.fromkeys(changed, Dim.DYNAMIC))
    call = Call(prepared.example.args, prepared.example.kwargs)
    _, structure = pytree.tree_flatten((call.args, call.kwargs))
    args, kwargs = pytree.tree_unflatten([axes or None for axes in found], structure)
    return dict(inspect.signature(prepared.module.forward).bind(*args, **kwargs).arguments)


root, bound = Path(sys.argv[1]), float(sys.argv[2])
with (  # what torch says of a ScriptModule is wanted
    mock.patch("aoti_build._torch.program.model.refuse_scripted"),
    mock.patch.object(
        torch.jit.RecursiveScriptModule, "requires_grad_", lambda scripted, _: scripted
    ),
):
    model, prepared = calls.load_model(root)
answer: dict[str, Any] = {"calls": [], "error": ""}
try:
    with torch.no_grad():
        program = torch.export.export(
            prepared.module,
            prepared.example.args,
            prepared.example.kwargs,
            dynamic_shapes=dynamic_shapes(model, prepared),
            strict=getattr(model, "strict", False),
        )
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=str(root / "plain.pt2")
        )
    answer["seconds"] = time.monotonic() - start
    loaded = torch._inductor.aoti_load_package(package)
    answer["calls"] = list(calls.compared(prepared, model.dims, loaded, bound))
except Exception as error:  # torch's reason is what the row holds
    answer["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(answer))
