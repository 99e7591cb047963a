"""Aesthetic heads (LAION's, version 2.5): how people would rate an image's beauty."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Published
from .checkpoint import CheckpointError, Weights, fill, read_weights, shape_of
from .encoders import EncoderReward, ImageEncoder
from .layouts import HEAD, LINEAR_HEAD, SIGLIP_HEAD, SO400M, expect

PLACES, PLACES_25 = (0, 2, 4, 6, 7), (0, 2, 4, 6, 8)  # of the layers, between dropouts
TRAINED_ON = (
    "the CLIP that it was trained on, OpenAI's CLIP ViT-L/14 or, for a head with b_16 or b_32 in "
    "its name, ViT-B/16 or ViT-B/32"
)
SIZES = (1024, 128, 64, 16, 1)


class AestheticHead(nn.Module):
    """The published heads: five linear layers with nothing between them but dropout.

    Args:
        width: number of features that it reads.
        places: the numbers of the layers in its keys; one, for LAION's first version.
    """

    def __init__(self, width: int = 768, places: tuple[int, ...] = PLACES) -> None:
        super().__init__()
        self.width, self.reads_siglip = width, places == PLACES_25
        sizes = (width, *SIZES[-len(places) :])
        layers = map(nn.Linear, sizes, sizes[1:])
        self.layers = nn.Sequential(OrderedDict(zip(map(str, places), layers, strict=True)))

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
    heads = (HEAD, LINEAR_HEAD, SIGLIP_HEAD)
    expect(weights, path, heads, f"LAION's head, {Aesthetic.published.file}")
    return head_from(weights, path)


def head_from(weights: Weights, path: Path) -> AestheticHead:
    """The head from its weights; the path is for errors."""
    places: tuple[int, ...] = PLACES
    if weights.keys() == {"weight", "bias"}:
        places = (0,)
        weights = {f"layers.0.{key}": value for key, value in weights.items()}
    elif "scoring_head.0.weight" in weights:
        places = PLACES_25
        weights = {key.replace("scoring_head.", "layers."): v for key, v in weights.items()}
    width = shape_of(weights, "layers.0.weight", 2, path)[1]
    with torch.device("meta"):
        head = AestheticHead(width, places)
    fill(head, weights, path, torch.float32)
    return head


class Aesthetic(EncoderReward):
    """A rating of about 1 to 10, most images 4 to 7, of an image side's normalised features.

    Source: Schuhmann, "improved-aesthetic-predictor", the head sac+logos+ava1-l14-linearMSE, 2022.
    Version 2.5 is another author's, of the same form, on SigLIP's pooled features.

    Args:
        encoder: the image side of OpenAI's CLIP ViT-L/14; for version 2.5, of SigLIP so400m.
        head: the linear layers.

    Raises:
        CheckpointError: the head belongs to another network.
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
            kind, own = "SigLIP", f"the SigLIP that it was trained on, {SO400M}"
            if not head.reads_siglip:
                kind, own = "CLIP", TRAINED_ON
            raise CheckpointError(
                f"The aesthetic head reads {head.width} features and this {kind} gives "
                f"{encoder.width}: choose {own}."
            )
        super().__init__(encoder, head)
        self.head = head

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, H, W] in 0..1."""
        features = F.normalize(self.encoder(images), dim=1)
        rating: Tensor = self.head(features)
        return rating
