"""Parts of diffusion pipelines, in small configurations."""

from __future__ import annotations

from entry import Entry

ENTRIES = [
    Entry(
        "unet2d",
        "diffusers",
        """
        source: diffusers:UNet2DModel
        kwargs:
          sample_size: 16
          block_out_channels: [16, 32]
          layers_per_block: 1
          norm_num_groups: 8
          down_block_types: [DownBlock2D, AttnDownBlock2D]
          up_block_types: [AttnUpBlock2D, UpBlock2D]
          attention_head_dim: 8
        dims: {batch: {min: 1, max: 8}}
        inputs:
          sample: {shape: [batch, 3, 16, 16]}
          timestep: {shape: [batch], dtype: int64, high: 1000}
        """,
        needs=("diffusers",),
    ),
    Entry(
        "unet2d_condition",
        "diffusers",
        """
        source: diffusers:UNet2DConditionModel
        kwargs:
          sample_size: 16
          block_out_channels: [16, 32]
          layers_per_block: 1
          norm_num_groups: 8
          cross_attention_dim: 16
          attention_head_dim: 8
          down_block_types: [CrossAttnDownBlock2D, DownBlock2D]
          up_block_types: [UpBlock2D, CrossAttnUpBlock2D]
        dims: {batch: {min: 1, max: 8}}
        inputs:
          sample: {shape: [batch, 4, 16, 16]}
          timestep: {shape: [], dtype: int64, high: 1000}
          encoder_hidden_states: {shape: [batch, 7, 16]}
        """,
        needs=("diffusers",),
    ),
    Entry(
        "autoencoder_kl",
        "diffusers",
        """
        source: nets.py:Decoder
        dims: {batch: {min: 1, max: 8}}
        inputs: [{shape: [batch, 4, 8, 8]}]
        """,
        """
        from diffusers import AutoencoderKL
        from torch import nn

        class Decoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.vae = AutoencoderKL(
                    down_block_types=["DownEncoderBlock2D"] * 2,
                    up_block_types=["UpDecoderBlock2D"] * 2,
                    block_out_channels=[8, 16],
                    norm_num_groups=4,
                    latent_channels=4,
                )

            def forward(self, latents):
                return self.vae.decode(latents).sample
        """,
        needs=("diffusers",),
    ),
    Entry(
        "dit",
        "diffusers",
        """
        source: diffusers:DiTTransformer2DModel
        kwargs:
          num_attention_heads: 2
          attention_head_dim: 16
          num_layers: 2
          sample_size: 8
          norm_num_groups: 8
        outputs: dict
        dims: {batch: {min: 1, max: 8}}
        inputs:
          hidden_states: {shape: [batch, 4, 8, 8]}
          timestep: {shape: [batch], dtype: int64, high: 1000}
          class_labels: {shape: [batch], dtype: int64, high: 1000}
        """,
        needs=("diffusers",),
    ),
]
