"""The diffusion network on latents, with the names of Stable Diffusion's own UNet layout.

Its state dict loads into ComfyUI's UNetModel built with ``UNET_CONFIG``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fast_norm import group_norm_silu

CONTEXT = 96  # width of a text token
HEADS = 4


class Sizes(NamedTuple):
    """Widths of a UNet; the defaults are the published model's."""

    channels: int = 64  # at full resolution
    deep: int = 2  # times as many at half resolution
    context: int = CONTEXT
    latent: int = 4


UNET_CONFIG = {
    "image_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [0, 1],
    "transformer_depth_output": [0, 0, 0, 1],  # read from its end, as the layout does
    "transformer_depth_middle": -2,  # no middle block
    "num_heads": HEADS,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "context_dim": CONTEXT,
    "adm_in_channels": None,
    "legacy": False,
}


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """[B, width] cosines and sines of the timesteps at falling frequencies."""
    half = width // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, device=timesteps.device) / half)
    phase = timesteps.float()[:, None] * rates
    return torch.cat([phase.cos(), phase.sin()], dim=1)


class ResBlock(nn.Module):
    """Two 3x3 convolutions around a skip; the time embedding is added between them."""

    def __init__(self, channels_in: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, channels_in), nn.SiLU(), nn.Conv2d(channels_in, channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, channels),
            nn.SiLU(),
            nn.Dropout(0.0),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        nn.init.zeros_(self.out_layers[3].weight)
        nn.init.zeros_(self.out_layers[3].bias)
        same = channels_in == channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers[2](group_norm_silu(self.in_layers[0], x))
        h = h + self.emb_layers(embedding)[:, :, None, None].to(h.dtype)
        h = self.out_layers[3](group_norm_silu(self.out_layers[0], h))
        return self.skip_connection(x) + h


class CrossAttention(nn.Module):
    """Attention of image cells over tokens, or over themselves."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        batch, _, width = x.shape
        q, k, v = (
            part.view(batch, -1, HEADS, width // HEADS).transpose(1, 2)
            for part in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        scores = (q @ k.transpose(2, 3)) / q.shape[-1] ** 0.5
        h = scores.softmax(dim=-1).to(v.dtype) @ v  # few positions: faster than a fused kernel
        return self.to_out(h.transpose(1, 2).reshape(batch, -1, width))


class GEGLU(nn.Module):
    """A linear layer whose other half gates it."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.proj(x).chunk(2, dim=-1)
        return h * F.gelu(gate)


class FeedForward(nn.Module):
    """The transformer's gated two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(width, 4 * width), nn.Dropout(0.0), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, attention over the text, feed-forward."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.attn1 = CrossAttention(width, width)
        self.attn2 = CrossAttention(width, context)
        self.ff = FeedForward(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attn1(h, h)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A transformer block over the cells of a feature map, added to it."""

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, context)])
        self.proj_out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        h = self.proj_in(group_norm_silu(self.norm, x, act=False))
        h = h.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        h = self.transformer_blocks[0](h, context)
        h = h.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return x + self.proj_out(h)


class Downsample(nn.Module):
    """Half the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Twice the resolution, or the resolution of the skip it meets."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class SceneUNet(nn.Module):
    """Two levels, 16x16 and 8x8 cells at the trained size; text enters at the lower one."""

    def __init__(self, sizes: Sizes | None = None) -> None:
        super().__init__()
        sizes = sizes or Sizes()
        self.channels = wide = sizes.channels
        deep, embedding = sizes.deep * wide, 4 * wide
        self.time_embed = nn.Sequential(
            nn.Linear(wide, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )

        def block(channels_in: int, channels: int) -> ResBlock:
            return ResBlock(channels_in, channels, embedding)

        def text(channels: int) -> SpatialTransformer:
            return SpatialTransformer(channels, sizes.context)

        inputs: list[list[nn.Module]] = [
            [nn.Conv2d(sizes.latent, wide, 3, padding=1)],
            [block(wide, wide)],
            [Downsample(wide)],
            [block(wide, deep), text(deep)],
        ]
        outputs: list[list[nn.Module]] = [
            [block(deep + deep, deep), text(deep)],
            [block(deep + wide, deep), Upsample(deep)],
            [block(deep + wide, wide)],
            [block(wide + wide, wide)],
        ]
        self.input_blocks = nn.ModuleList(nn.ModuleList(layers) for layers in inputs)
        self.output_blocks = nn.ModuleList(nn.ModuleList(layers) for layers in outputs)
        self.out = nn.Sequential(
            nn.GroupNorm(32, wide), nn.SiLU(), nn.Conv2d(wide, sizes.latent, 3, padding=1)
        )
        nn.init.zeros_(self.out[2].weight)
        nn.init.zeros_(self.out[2].bias)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """Network output for scaled noisy latents.

        Args:
            x: [B, 4, H, W] noisy latents divided by sqrt(sigma^2 + 1).
            timesteps: [B], 0 to 999, may be fractional.
            context: [B, tokens, CONTEXT] encoded text.
        """
        phase = timestep_embedding(timesteps, self.channels).to(x.dtype)
        embedding = self.time_embed(phase)
        skips: list[Tensor] = []
        h = x
        for layers in self.input_blocks:
            h = _apply(layers, h, embedding, context, x.shape[2:])
            skips.append(h)
        for layers in self.output_blocks:
            h = torch.cat([h, skips.pop()], dim=1)
            size = skips[-1].shape[2:] if skips else x.shape[2:]
            h = _apply(layers, h, embedding, context, size)
        return self.out[2](group_norm_silu(self.out[0], h))


def _apply(
    layers: nn.Module, h: Tensor, embedding: Tensor, context: Tensor, size: torch.Size
) -> Tensor:
    for layer in layers.children():
        if isinstance(layer, ResBlock):
            h = layer(h, embedding)
        elif isinstance(layer, SpatialTransformer):
            h = layer(h, context)
        elif isinstance(layer, Upsample):
            h = layer(h, size)
        else:
            h = layer(h)
    return h
