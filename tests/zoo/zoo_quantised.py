"""Quantised networks: torchao's weight formats and pt2e's graphs."""

from __future__ import annotations

from entry import Entry

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32)
        )

    def forward(self, x):
        return self.layers(x)
"""


def _torchao(name: str, config: str, **how: object) -> Entry:
    python = (
        NET
        + f"""
def build():
    from torchao.quantization import {config}, quantize_

    model = Net().eval()
    quantize_(model, {config}())
    return model
"""
    )
    yaml = """
    source: nets.py:build
    baseline: {source: "nets.py:Net", limit: 0.1}
    dims: {batch: {min: 1, max: 16}}
    inputs: [{shape: [batch, 64]}]
    """
    return Entry(name, "torchao", yaml, python, needs=("torchao",), kind="quantised", **how)  # type: ignore[arg-type]


ENTRIES = [
    _torchao("int8_weight_only", "Int8WeightOnlyConfig"),
    _torchao("int8_dynamic", "Int8DynamicActivationInt8WeightConfig"),
    Entry(
        "pt2e_x86",
        "torchao",
        """
        source: nets.py:build
        dims: {batch: {min: 1, max: 16}}
        inputs: [{shape: [batch, 3, 16, 16]}]
        """,
        """
        import torch
        from torch import nn

        def build():
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
            from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

            net = nn.Sequential(
                nn.Conv2d(3, 8, 3),
                nn.ReLU(),
                nn.Conv2d(8, 8, 3),
                nn.Flatten(),
                nn.Linear(1152, 10),
            )
            example = (torch.randn(4, 3, 16, 16),)
            batch = torch.export.Dim("batch", min=1, max=16)
            graph = torch.export.export(net.eval(), example, dynamic_shapes=({0: batch},)).module()
            quantizer = x86.X86InductorQuantizer()
            quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
            prepared = prepare_pt2e(graph, quantizer)
            prepared(*example)
            return convert_pt2e(prepared)
        """,
        needs=("torchao",),
        kind="quantised",
    ),
]
