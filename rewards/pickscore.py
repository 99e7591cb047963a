"""PickScore: how much people would prefer an image for a prompt."""

from __future__ import annotations

from torch import Tensor

from .base import Published
from .checkpoint import CheckpointError
from .clip import CosineReward
from .encoders import ImageEncoder


class PickScore(CosineReward):
    """exp(logit_scale) * cosine of a fine-tuned CLIP ViT-H: 100 * cosine, about 17 to 24.

    Source: Kirstain et al., "Pick-a-Pic", NeurIPS 2023, arXiv 2305.01569.

    Args:
        encoder: the image side of PickScore_v1.
        prompt: [1, D] features of the prompt, from its text side.

    Raises:
        CheckpointError: the file has no logit_scale: it is a vision model only.
    """

    name = "PickScore"
    scale = "100 x cosine, about 17 to 24; one unit is one logit of preference"
    default_strength = 100.0
    working_range = (2.0, 300.0)
    strength_source = "beta 1e-4 on the cosine, DAS (arXiv 2501.05803)"
    preference_scale = 1.0
    published = Published(
        "PickScore_v1/model.safetensors",
        "https://huggingface.co/yuvalkirstain/PickScore_v1",
        gigabytes=3.9,
    )

    def __init__(self, encoder: ImageEncoder, prompt: Tensor) -> None:
        if encoder.logit_scale is None:
            raise CheckpointError(
                "This file has no logit_scale, so it is no PickScore: choose the whole model, "
                f"{self.published.file} of {self.published.page}."
            )
        super().__init__(encoder, prompt, encoder.logit_scale)
