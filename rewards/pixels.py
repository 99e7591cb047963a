"""Arithmetic on pixels that several rewards share."""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.2126, 0.7152, 0.0722)  # Rec. 709


def luma(images: Tensor) -> Tensor:
    """Brightness [B, H, W], float32, of images [B, 3, H, W]."""
    weights = torch.tensor(LUMA, device=images.device).view(3, 1, 1)
    return (images.float() * weights).sum(dim=1)


def root(squares: Tensor) -> Tensor:
    """Square root whose gradient stays finite at 0."""
    return (squares + 1e-8).sqrt()
