"""LAION aesthetic v2: how people would rate an image's beauty, without a prompt."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Published
from .checkpoint import CheckpointError, Weights, fill, read_weights, shape_of
from .encoders import EncoderReward, ImageEncoder
from .layouts import HEAD, LINEAR_HEAD, expect


class AestheticHead(nn.Module):
    """The published head: five linear layers with nothing between them but dropout.

    Its keys are ``layers.0``, ``2``, ``4``, ``6`` and ``7``; the others were dropouts.

    Args:
        width: number of features that it reads.
        linear: whether it is one layer, as in LAION's first version.
    """

    def __init__(self, width: int = 768, linear: bool = False) -> None:
        super().__init__()
        self.width = width
        if linear:
            self.layers = nn.Sequential(nn.Linear(width, 1))
            return
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Identity(),
            nn.Linear(1024, 128),
            nn.Identity(),
            nn.Linear(128, 64),
            nn.Identity(),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """[B, width] -> [B]."""
        rating: Tensor = self.layers(features)
        return rating.squeeze(1)


def aesthetic_head(path: Path, dtype: torch.dtype = torch.float32) -> AestheticHead:
    """The head from its file, always in float32.

    Raises:
        CheckpointError: the file is damaged or holds something else.
    """
    weights = read_weights(path)
    expect(weights, path, (HEAD, LINEAR_HEAD), f"LAION's head, {Aesthetic.published.file}")
    return head_from(weights, path)


def head_from(weights: Weights, path: Path) -> AestheticHead:
    """The head from its weights; the path is for errors."""
    linear = weights.keys() == {"weight", "bias"}
    if linear:
        weights = {f"layers.0.{key}": value for key, value in weights.items()}
    width = shape_of(weights, "layers.0.weight", 2, path)[1]
    with torch.device("meta"):
        head = AestheticHead(width, linear)
    fill(head, weights, path, torch.float32)
    return head


class Aesthetic(EncoderReward):
    """A rating of about 1 to 10, most images 4 to 7, of CLIP ViT-L/14's normalised features.

    Source: Schuhmann, "improved-aesthetic-predictor", the head sac+logos+ava1-l14-linearMSE, 2022.

    Args:
        encoder: the image side of OpenAI's CLIP ViT-L/14.
        head: the linear layers.

    Raises:
        CheckpointError: the head belongs to another CLIP.
    """

    name = "aesthetic"
    scale = "rating, about 1 to 10"
    default_strength = 200.0
    working_range = (2.0, 400.0)
    strength_source = "alpha 0.005, DAS (arXiv 2501.05803)"
    published = Published(
        "sac+logos+ava1-l14-linearMSE.pth",
        "https://github.com/christophschuhmann/improved-aesthetic-predictor",
        gigabytes=0.004,
    )

    def __init__(self, encoder: ImageEncoder, head: AestheticHead) -> None:
        if head.width != encoder.width:
            raise CheckpointError(
                f"The aesthetic head reads {head.width} features and this CLIP gives "
                f"{encoder.width}: choose the CLIP that it was trained on, OpenAI's CLIP ViT-L/14 "
                "or, for a head with b_16 or b_32 in its name, ViT-B/16 or ViT-B/32."
            )
        super().__init__(encoder, head)
        self.head = head

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, H, W] in 0..1."""
        features = F.normalize(self.encoder(images), dim=1)
        rating: Tensor = self.head(features)
        return rating
