"""A small decoder for the scene model's latents, with the names of TAESD's decoder layout.

TAESD's own decoder has 64 channels everywhere; this one has 24, so it loads into a module of that
width only. It costs a twentieth of the VAE's arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 24


class Clamp(nn.Module):
    """Latents softly held within -3..3."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    """Three convolutions around a skip, without norms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        self.conv = nn.Sequential(*layers[:-1])
        self.skip = nn.Identity()
        self.fuse = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(self.conv(x) + self.skip(x))


def small_decoder(width: int = WIDTH, channels: int = 4) -> nn.Sequential:
    """Latents [B, 4, h, w] in model space -> images [B, 3, 8h, 8w] about 0..1."""
    layers: list[nn.Module] = [Clamp(), nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        layers += [Block(width), Block(width), Block(width), nn.Upsample(scale_factor=2)]
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False)]
    layers += [Block(width), nn.Conv2d(width, 3, 3, padding=1)]
    return nn.Sequential(*layers)
