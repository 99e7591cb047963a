"""The KL-VAE, 128x128 images to 16x16x4 latents, with the names of the latent diffusion layout.

Its state dict loads into ComfyUI's AutoencoderKL built with ``DDCONFIG``. No residual blocks at the
encoder's upper levels: the weights go where they are needed, into the decoder, and all norms have
two channels or more in each of the layout's 32 groups.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fast_norm import group_norm_silu

DDCONFIG = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 128,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 64,
    "ch_mult": [1, 1, 1, 2],
    "num_res_blocks": 0,
    "attn_resolutions": [],
    "dropout": 0.0,
}
EMBED_DIM = 4
FACTOR = 8  # pixels per latent cell


class Sizes(NamedTuple):
    """Widths of a VAE; the defaults are the published model's."""

    channels: int = 64
    deepest: int = 128
    levels: int = 4
    latent: int = 4


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions around a skip."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm2 = _norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        if channels_in != channels:
            self.nin_shortcut = nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(group_norm_silu(self.norm1, x))
        h = self.conv2(group_norm_silu(self.norm2, h))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """One head of attention over all cells."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1))
        return x + self.proj_out(h.squeeze(1).transpose(1, 2).reshape(x.shape))


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.attn_1 = AttnBlock(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    """Half the resolution: a strided convolution, padded at the right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbours, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """One resolution of encoder or decoder: blocks, and the step to the next one."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)


class Encoder(nn.Module):
    """Images [B, 3, H, W] in -1..1 -> mean and log variance [B, 8, H/8, W/8]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.channels
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(Level([]) for _ in range(sizes.levels))
        for level in self.down[:-1]:
            level.downsample = Downsample(width)
        self.mid = Middle(width)
        self.norm_out = _norm(width)
        self.conv_out = nn.Conv2d(width, 2 * sizes.latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down[:-1]:
            h = level.downsample(h)
        return self.conv_out(group_norm_silu(self.norm_out, self.mid(h)))


class Decoder(nn.Module):
    """Latents [B, 4, h, w] -> images [B, 3, 8h, 8w], about -1..1."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        wide, deep = sizes.channels, sizes.deepest
        self.conv_in = nn.Conv2d(sizes.latent, deep, 3, padding=1)
        self.mid = Middle(deep)
        levels: list[Level] = []  # from the lowest resolution up
        for index in range(sizes.levels):
            before = deep if index <= 1 else wide
            after = deep if index == 0 else wide
            level = Level([ResnetBlock(before, after)])
            if index < sizes.levels - 1:
                level.upsample = Upsample(after)
            levels.append(level)
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = _norm(wide)
        self.conv_out = nn.Conv2d(wide, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level.block[0](h)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        return self.conv_out(group_norm_silu(self.norm_out, h))


class SceneVAE(nn.Module):
    """Encoder, decoder, and the layout's two 1x1 convolutions between them."""

    def __init__(self, sizes: Sizes | None = None) -> None:
        super().__init__()
        sizes = sizes or Sizes()
        self.encoder = Encoder(sizes)
        self.decoder = Decoder(sizes)
        self.quant_conv = nn.Conv2d(2 * sizes.latent, 2 * sizes.latent, 1)
        self.post_quant_conv = nn.Conv2d(sizes.latent, sizes.latent, 1)

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents of images in 0..1."""
        mean, log_variance = self.quant_conv(self.encoder(2 * images - 1)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def encode(self, images: Tensor) -> Tensor:
        """The latents' mean of images in 0..1."""
        return self.moments(images)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Images of latents, in 0..1 (values outside stay outside)."""
        return (self.decoder(self.post_quant_conv(z)) + 1) / 2


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """[B] peak signal-to-noise ratio in dB of images in 0..1."""
    return -10 * torch.log10(((images.clamp(0, 1) - truth) ** 2).mean(dim=(1, 2, 3)))
