"""Networks with the trained weights that their packages ship."""

from __future__ import annotations

from entry import Entry

ENTRIES = [
    Entry(
        "silero_vad",
        "silero-vad",
        """
        source: nets.py:build
        dims: {batch: {min: 1, max: 16}}
        inputs:
          - {shape: [batch, 576], low: -0.5, high: 0.5}
          - {shape: [batch, 128]}
          - {shape: [batch, 128]}
        """,
        """
        import importlib.util
        from pathlib import Path

        import torch
        from safetensors.torch import load_file
        from torch import nn
        from torch.nn import functional as F

        class Silero(nn.Module):
            def __init__(self):
                super().__init__()
                self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
                self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
                self.conv2 = nn.Conv1d(128, 64, 3, 2, padding=1)
                self.conv3 = nn.Conv1d(64, 64, 3, 2, padding=1)
                self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
                self.lstm_cell, self.final_conv = nn.LSTMCell(128, 128), nn.Conv1d(128, 1, 1)

            def forward(self, x, h, c):
                x = self.stft_conv(F.pad(x, (0, 64), "reflect").unsqueeze(1))
                x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
                for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
                    x = conv(x).relu()
                h, c = self.lstm_cell(x.squeeze(-1), (h, c))
                speech = self.final_conv(h.unsqueeze(-1).relu()).sigmoid()
                return speech.squeeze(1).mean(1, keepdim=True), h, c

        def build():
            package = Path(importlib.util.find_spec("silero_vad").submodule_search_locations[0])
            model = Silero()
            model.load_state_dict(load_file(package / "data" / "silero_vad_16k.safetensors"))
            return model
        """,
        needs=("silero_vad",),
        kind="shipped weights",
        note="MIT",
        ci=True,
    ),
    Entry(
        "mtcnn_onet",
        "facenet-pytorch",
        """
        source: facenet_pytorch:ONet
        dims: {batch: {min: 1, max: 16}}
        inputs: [{shape: [batch, 3, 48, 48], low: -1, high: 1}]
        """,
        needs=("facenet_pytorch",),
        kind="shipped weights",
        note="MIT",
    ),
    Entry(
        "mtcnn_pnet",
        "facenet-pytorch",
        """
        source: facenet_pytorch:PNet
        dims:
          batch: {min: 1, max: 8}
          height: {min: 12, max: 64, example: 24}
          width: {min: 12, max: 64, example: 32}
        inputs: [{shape: [batch, 3, height, width], low: -1, high: 1}]
        """,
        needs=("facenet_pytorch",),
        kind="shipped weights",
        note="MIT",
    ),
    Entry(
        "silero_vad_scripted",
        "silero-vad",
        """
        source: nets.py:build
        inputs: nets.py:inputs
        """,
        """
        import torch
        from silero_vad import load_silero_vad

        def build():
            return load_silero_vad()

        def inputs():
            return torch.randn(1, 512), 16000
        """,
        needs=("silero_vad",),
        kind="shipped weights",
        refused=("ScriptModule",),
        note="MIT",
    ),
]
