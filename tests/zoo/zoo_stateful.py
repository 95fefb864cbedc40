"""Networks that remember: what a call writes, the next one reads."""

from __future__ import annotations

from entry import Entry

ENTRIES = [
    Entry(
        "running_filter",
        "torch",
        """
        source: nets.py:Filter
        dims: {length: {min: 8, max: 64}}
        inputs: [{shape: [1, 4, length]}]
        """,
        """
        import torch
        from torch import nn

        class Filter(nn.Module):
            def __init__(self):
                super().__init__()
                self.taps = nn.Conv1d(4, 4, 5, groups=4)
                self.register_buffer("past", torch.zeros(1, 4, 4))
                self.register_buffer("mean", torch.zeros(4, 1))

            def forward(self, x):
                self.mean.lerp_(x[0].mean(1, keepdim=True), 0.1)
                x = torch.cat([self.past, x - self.mean], 2)
                self.past.copy_(x[:, :, -4:])
                return self.taps(x)
        """,
        kind="stateful",
        ci=True,
    ),
    Entry(
        "kv_buffers",
        "torch",
        """
        source: nets.py:Block
        dims: {seq: {min: 1, max: 16}}
        inputs: nets.py:inputs
        """,
        """
        import torch
        from torch import nn
        from torch.nn import functional as F

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
                self.register_buffer("keys", torch.zeros(1, 64, 32))
                self.register_buffer("values", torch.zeros(1, 64, 32))

            def forward(self, x, positions):
                q, k, v = self.qkv(x).chunk(3, -1)
                self.keys.index_copy_(1, positions, k)
                self.values.index_copy_(1, positions, v)
                seen = torch.arange(64)[None] <= positions[:, None]
                x = F.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=seen)
                return self.out(x)

        def inputs(seq):
            return torch.randn(1, seq, 32), torch.arange(seq) + torch.randint(0, 64 - seq, ())
        """,
        kind="stateful",
        ci=True,
    ),
    Entry(
        "static_cache",
        "transformers",
        """
        source: nets.py:build
        strict: true
        inputs: nets.py:inputs
        """,
        """
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
        from transformers.integrations.executorch import TorchExportableModuleWithStaticCache

        def build():
            config = LlamaConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                intermediate_size=64,
                vocab_size=100,
            )
            cache = {"batch_size": 1, "max_cache_len": 32, "device": "cpu"}
            model = LlamaForCausalLM(config)
            model.generation_config.cache_implementation = "static"
            model.generation_config.cache_config = cache
            return TorchExportableModuleWithStaticCache(model, **cache)

        def inputs():
            ids, position = torch.randint(0, 100, (1, 1)), torch.randint(0, 32, (1,))
            return {"input_ids": ids, "cache_position": position}
        """,
        needs=("transformers",),
        kind="stateful",
    ),
]
