"""What identifies a tensor: its layout, and its bytes.

Readers of reference data need no more of the graph key than this. So this module does not import
torch's serialiser, which takes as long to import as torch.
"""

from __future__ import annotations

from typing import Any

import torch

from aoti_build.common.digests import digest_bytes, digest_json
from aoti_build.errors import BuildError


def tensor_digest(value: Any) -> str:
    """Digest of a tensor's layout and bytes; of a subclass, of the tensors inside it; of any other
    value, of its repr.

    Raises:
        BuildError: The tensor is not dense.
    """
    if not isinstance(value, torch.Tensor):
        return digest_bytes(repr(value).encode())
    if is_subclass(value):
        return _subclass_digest(value)
    if value.layout != torch.strided:
        layout = str(value.layout).removeprefix("torch.")
        raise BuildError(
            f"a weight or constant of the model is a {layout} tensor",
            hint="AOTInductor compiles dense tensors: convert it with .to_dense() in the model's"
            " factory",
        )
    content: Any = b""
    if value.numel():
        # Conjugation and negation are flags of a view: the bytes must be those after them.
        resolved = value.detach().cpu().resolve_conj().resolve_neg()
        flat = resolved.contiguous().reshape(-1)
        content = flat.view(torch.uint8).numpy().data
    return digest_json({"layout": layout_of(value), "bytes": digest_bytes(content)})


def _subclass_digest(value: Any) -> str:
    names, context = value.__tensor_flatten__()
    parts = {
        "type": f"{type(value).__module__}.{type(value).__qualname__}",
        "context": repr(context),
    }
    for name in names:
        parts[name] = tensor_digest(getattr(value, name))
    return digest_json(parts)


def layout_of(value: torch.Tensor) -> list[Any]:
    """All that code and the weights blob depend on in a tensor, except its values."""
    dtype = str(value.dtype)
    shape = list(value.shape)
    device = value.device.type
    if value.layout != torch.strided or is_subclass(value):
        kind = str(type(value))
        return [kind, dtype, shape, str(value.layout), device]
    stride = list(value.stride())
    storage_bytes = value.untyped_storage().nbytes()
    return [dtype, shape, stride, value.storage_offset(), storage_bytes, device]


def is_subclass(value: Any) -> bool:
    """Whether a tensor consists of other tensors, so that it has no memory of its own."""
    return hasattr(value, "__tensor_flatten__")
