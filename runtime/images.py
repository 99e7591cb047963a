"""ComfyUI's pictures [B, H, W, C] and the rewards' [B, 3, H, W]."""

from __future__ import annotations

import torch
from torch import Tensor


def to_pictures(image: Tensor) -> Tensor:
    """An IMAGE as rewards take it: [B, 3, H, W], float32, free of inference mode.

    Raises:
        ValueError: an empty batch, or fewer than three channels.
    """
    if image.ndim != 4 or image.shape[0] == 0 or image.shape[-1] < 3:
        raise ValueError(
            f"The image has shape {tuple(image.shape)}; expected at least one picture, as "
            "[batch, height, width, 3]."
        )
    with torch.inference_mode(False):
        return image.detach().clone().float()[..., :3].movedim(-1, 1)
