"""timm's networks, at small images."""

from __future__ import annotations

from entry import Entry


def _timm(name: str, size: int = 64, extra: str = "", highest: int = 12, **how: object) -> Entry:
    return Entry(
        name,
        "timm",
        f"""
        source: timm:create_model
        kwargs: {{model_name: {name}{extra}}}
        dims: {{batch: {{min: 1, max: {highest}}}}}
        inputs: [{{shape: [batch, 3, {size}, {size}]}}]
        """,
        needs=("timm",),
        **how,  # type: ignore[arg-type]
    )


ENTRIES = [
    _timm("convnextv2_atto", ci=True),
    _timm("efficientvit_b0"),
    _timm("deit_tiny_patch16_224", extra=", img_size: 64, depth: 2"),
    _timm("eva02_tiny_patch14_224", size=56, extra=", img_size: 56, depth: 2"),
    _timm("mobilenetv4_conv_small", ci=True),
    _timm("nfnet_l0", extra=", depths: [1, 1, 1, 1]", highest=9),
    _timm("resnetv2_50", extra=", layers: [1, 1, 1, 1]", highest=9),
    _timm("mobileone_s0", highest=9),
]
