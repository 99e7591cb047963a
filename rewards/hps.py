"""HPSv2 and HPSv2.1: human preference scores by a fine-tuned open_clip ViT-H-14."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from .base import Published
from .clip import CosineReward, image_encoder
from .encoders import ImageEncoder

PAGE = "https://huggingface.co/xswu/HPSv2"


def hps_encoder(path: Path, dtype: torch.dtype) -> ImageEncoder:
    """The image side; unlike CLIP's, it sees the whole image, padded to a square with black."""
    encoder = image_encoder(path, dtype)
    encoder.preprocessing = replace(encoder.preprocessing, fit="pad")
    return encoder


class HPSv2(CosineReward):
    """Cosine of image and prompt, about 0.2 to 0.35.

    Source: Wu et al., "Human Preference Score v2", 2023, arXiv 2306.09341.
    """

    name = "HPSv2"
    scale = "cosine, about 0.2 to 0.35; 0.01 is one logit of preference"
    default_strength = 10000.0
    working_range = (200.0, 30000.0)
    strength_source = "none published; PickScore's, for a logit of preference"
    preference_scale = 100.0
    published = Published("HPS_v2_compressed.pt", PAGE, 2.0)


class HPSv21(HPSv2):
    """HPSv2 trained on more and better data; the same scale and the same network."""

    name = "HPSv2.1"
    published = Published("HPS_v2.1_compressed.pt", PAGE, 2.0)
