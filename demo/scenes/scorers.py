"""The scorers that come with the scene model: CLIP models in the published layout."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from ...rewards import ClipScore, PickScore
from ...rewards.clip import CosineReward, ImageEncoder, TextEncoder, image_encoder, text_encoder

SCORERS = Path(__file__).resolve().parents[1] / "weight_functions"
FOLDERS: dict[type[CosineReward], str] = {ClipScore: "scenes_clip", PickScore: "scenes_pickscore"}


@cache
def load_encoders(
    kind: type[CosineReward], folder: Path = SCORERS
) -> tuple[ImageEncoder, TextEncoder]:
    """Both sides of one of the bundled scorers, in float32."""
    path = folder / FOLDERS[kind] / "model.safetensors"
    return image_encoder(path, torch.float32), text_encoder(path, torch.float32)


@torch.no_grad()
def load_scorer(kind: type[CosineReward], prompt: str, folder: Path = SCORERS) -> CosineReward:
    """One of the bundled scorers, for a prompt."""
    image, text = load_encoders(kind, folder)
    return kind(image, text(prompt))
