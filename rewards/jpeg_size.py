"""JPEG size: how well an image compresses. A black box: it has no gradient."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor

from .base import Reward
from .preprocessing import grey_levels

QUALITY = 95


class JpegSizeReward(Reward):
    """Kilobytes of the image as a JPEG of quality 95; a negative strength asks for simple ones.

    Source: the compressibility task of DDPO (Black et al., ICLR 2024, arXiv 2305.13301).
    """

    name = "JPEG size"
    scale = "kilobytes (1000 bytes) at quality 95"
    differentiable = False
    default_strength = 0.1
    working_range = (0.01, 1.0)

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, H, W] in 0..1."""
        sizes = [_kilobytes(image) for image in grey_levels(images).cpu()]
        return torch.tensor(sizes, device=images.device)


def _kilobytes(image: Tensor) -> float:
    file = io.BytesIO()
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return len(file.getvalue()) / 1000
