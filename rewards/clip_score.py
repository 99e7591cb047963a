"""CLIP score: how well an image fits a prompt."""

from __future__ import annotations

from .base import Published
from .clip import CosineReward


class ClipScore(CosineReward):
    """Cosine of image and prompt in the space of a CLIP.

    Source: Hessel et al., "CLIPScore", EMNLP 2021, arXiv 2104.08718, without its factor 2.5 and
    its cut at 0.
    """

    name = "CLIP score"
    scale = "cosine, about 0.15 to 0.4"
    default_strength = 100.0
    working_range = (30.0, 3000.0)
    strength_source = "alpha 0.01 on the cosine, DAS (arXiv 2501.05803)"
    published = Published(
        "clip-vit-large-patch14/model.safetensors",
        "https://huggingface.co/openai/clip-vit-large-patch14",
        gigabytes=1.7,
    )
