"""Sharpness: strong or soft edges."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Reward
from .pixels import luma

FLOOR = 1e-8  # far below one grey level of 255, squared


class SharpnessReward(Reward):
    """Natural logarithm of the mean square of the brightness's Laplacian.

    The focus measure of autofocus, up to the logarithm; one unit is a factor e in energy.
    """

    name = "sharpness"
    scale = "natural logarithm of the Laplacian's energy, about -12 (soft) to -3"
    default_strength = 2.0
    working_range = (0.5, 5.0)

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, H, W] in 0..1, at least 3 pixels a side."""
        brightness = luma(images)[:, None]
        kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], device=images.device)
        edges = F.conv2d(F.pad(brightness, (1, 1, 1, 1), mode="replicate"), kernel.view(1, 1, 3, 3))
        return (edges.square().mean(dim=(1, 2, 3)) + FLOOR).log()
