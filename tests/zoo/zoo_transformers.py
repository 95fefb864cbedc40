"""Hugging Face transformers, from small configurations with random weights."""

from __future__ import annotations

import textwrap

from entry import Entry

TEXT = (
    "hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,"
    " vocab_size=100"
)
TOKENS = """
dims: {batch: {min: 1, max: 8}, seq: {min: 2, max: 64, example: 12}}
inputs: {input_ids: {shape: [batch, seq], dtype: int64, high: 100}}
"""


def _from_config(
    name: str, model: str, config: str, values: str, inputs: str, **how: object
) -> Entry:
    python = f"""
from transformers import {config}, {model}

def build():
    return {model}({config}({values}))
"""
    return Entry(
        name,
        "transformers",
        "source: nets.py:build\n" + textwrap.dedent(inputs).strip(),
        python,
        needs=("transformers",),
        **how,  # type: ignore[arg-type]
    )


def _decoder(name: str, family: str, values: str = "", extra: str = "", **how: object) -> Entry:
    """A decoder's prefill: tokens in, logits out."""
    return _from_config(
        name,
        f"{family}ForCausalLM",
        f"{family}Config",
        f"{TEXT}, num_key_value_heads=2, use_cache=False{values}",
        f"{extra}{TOKENS}",
        **how,
    )


ENTRIES = [
    Entry(
        "bert",
        "transformers",
        """
        source: nets.py:build
        dims: {batch: {min: 1, max: 8}, seq: {min: 2, max: 64, example: 12}}
        inputs: nets.py:inputs
        """,
        f"""
        import torch
        from transformers import BertConfig, BertModel

        def build():
            return BertModel(BertConfig({TEXT}))

        def inputs(batch, seq):
            mask = torch.arange(seq)[None] < torch.randint(1, seq + 1, (batch, 1))
            ids = torch.randint(0, 100, (batch, seq))
            return {{"input_ids": ids, "attention_mask": mask.to(torch.int64)}}
        """,
        needs=("transformers",),
        ci=True,
    ),
    _decoder("llama_prefill", "Llama", ci=True),
    _decoder("qwen3", "Qwen3", ", head_dim=8", extra="dtype: bfloat16"),
    _decoder("mixtral", "Mixtral", ", num_local_experts=4, num_experts_per_tok=2"),
    _from_config(
        "gpt2",
        "GPT2LMHeadModel",
        "GPT2Config",
        "n_embd=32, n_layer=2, n_head=4, vocab_size=100, use_cache=False",
        TOKENS,
    ),
    _from_config(
        "t5_encoder",
        "T5EncoderModel",
        "T5Config",
        "d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=100",
        TOKENS,
    ),
    _from_config(
        "t5",
        "T5ForConditionalGeneration",
        "T5Config",
        "d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=100, use_cache=False",
        """
        dims:
          batch: {min: 1, max: 8}
          seq: {min: 2, max: 64, example: 12}
          out: {min: 2, max: 32, example: 5}
        inputs:
          input_ids: {shape: [batch, seq], dtype: int64, high: 100}
          decoder_input_ids: {shape: [batch, out], dtype: int64, high: 100}
        """,
    ),
    _from_config(
        "distilbert",
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        "dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=100",
        TOKENS,
    ),
    Entry(
        "clip",
        "transformers",
        """
        source: nets.py:build
        dims: {texts: {min: 1, max: 8}, images: {min: 1, max: 6}}
        inputs:
          input_ids: {shape: [texts, 12], dtype: int64, high: 100}
          pixel_values: {shape: [images, 3, 32, 32]}
        """,
        """
        from transformers import CLIPConfig, CLIPModel

        SIZES = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
        }

        def build():
            text = {**SIZES, "vocab_size": 100, "max_position_embeddings": 16, "eos_token_id": 99}
            vision = {**SIZES, "image_size": 32, "patch_size": 8}
            return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        """,
        needs=("transformers",),
    ),
    _from_config(
        "vit_hf",
        "ViTForImageClassification",
        "ViTConfig",
        "hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,"
        " image_size=32, patch_size=8",
        """
        dims: {batch: {min: 1, max: 16}}
        inputs: {pixel_values: {shape: [batch, 3, 32, 32]}}
        """,
    ),
    Entry(
        "whisper_encoder",
        "transformers",
        """
        source: nets.py:build
        dims: {batch: {min: 1, max: 8}}
        inputs: {input_features: {shape: [batch, 16, 100]}}
        """,
        """
        from transformers import WhisperConfig, WhisperModel

        def build():
            config = WhisperConfig(
                d_model=32,
                encoder_layers=2,
                decoder_layers=1,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                num_mel_bins=16,
                max_source_positions=50,
                vocab_size=100,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=1,
            )
            return WhisperModel(config).get_encoder()
        """,
        needs=("transformers",),
    ),
    _from_config(
        "wav2vec2",
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        f"{TEXT}, conv_dim=(16, 16, 16), conv_kernel=(10, 3, 3), conv_stride=(5, 2, 2),"
        " num_feat_extract_layers=3, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4",
        """
        dims:
          batch: {min: 1, max: 8}
          samples: {min: 400, max: 4000, multiple_of: 20, example: 1600}
        inputs: {input_values: {shape: [batch, samples]}}
        """,
    ),
    _from_config(
        "segformer",
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        "depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 16, 32], decoder_hidden_size=16",
        """
        outputs: dict
        dims: {batch: {min: 1, max: 8}}
        inputs: {pixel_values: {shape: [batch, 3, 64, 64]}}
        """,
    ),
    Entry(
        "detr",
        "transformers",
        """
        source: nets.py:build
        dims: {batch: {min: 1, max: 6}}
        inputs: {pixel_values: {shape: [batch, 3, 64, 64]}}
        """,
        """
        from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

        def build():
            backbone = ResNetConfig(
                embedding_size=8,
                hidden_sizes=[8, 16, 16, 32],
                depths=[1, 1, 1, 1],
                layer_type="basic",
                out_features=["stage4"],
            )
            config = DetrConfig(
                use_timm_backbone=False,
                use_pretrained_backbone=False,
                backbone=None,
                backbone_config=backbone,
                d_model=32,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                num_queries=10,
            )
            return DetrForObjectDetection(config)
        """,
        needs=("transformers",),
    ),
    Entry(
        "llama_decode",
        "transformers",
        """
        source: nets.py:Step
        dims: {batch: {min: 1, max: 8}, past: {min: 1, max: 32, example: 6}}
        inputs: nets.py:inputs
        """,
        f"""
        import torch
        from torch import nn
        from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

        CONFIG = LlamaConfig({TEXT}, num_key_value_heads=2)

        class Step(nn.Module):
            def __init__(self):
                super().__init__()
                self.model = LlamaForCausalLM(CONFIG)

            def forward(self, input_ids, attention_mask, past):
                cache = DynamicCache()
                for layer, (keys, values) in enumerate(past):
                    cache.update(keys, values, layer)
                found = self.model(input_ids, attention_mask=attention_mask, past_key_values=cache)
                return found.logits, [(layer.keys, layer.values) for layer in cache.layers]

        def inputs(batch, past):
            shape = (batch, 2, past, 8)
            layers = [(torch.randn(shape), torch.randn(shape)) for _ in range(2)]
            ids = torch.randint(0, 100, (batch, 1))
            return ids, torch.ones(batch, past + 1, dtype=torch.int64), layers
        """,
        needs=("transformers",),
        kind="a size that follows a dim",
    ),
]
