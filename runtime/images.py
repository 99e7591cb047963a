"""ComfyUI's images [B, H, W, C] and the rewards' [B, 3, H, W]."""

from __future__ import annotations

import torch
from torch import Tensor


def channels_first(image: Tensor) -> Tensor:
    """An IMAGE as rewards take it: [B, 3, H, W], float32, free of inference mode.

    Raises:
        ValueError: an empty batch, or fewer than three channels.
    """
    if image.ndim != 4 or image.shape[0] == 0 or image.shape[-1] < 3:
        raise ValueError(
            f"The image has shape {tuple(image.shape)}; expected at least one image, as "
            "[batch, height, width, 3]."
        )
    with torch.inference_mode(False):
        return image.detach().clone().float()[..., :3].movedim(-1, 1)


def without_frame(latents: Tensor) -> Tensor:
    """Latents [B, C, h, w] of still images, also of those in a video's shape [B, C, 1, h, w]."""
    return latents[:, :, 0] if latents.ndim == 5 else latents


def single_mask(mask: Tensor) -> Tensor:
    """A MASK as [H, W].

    Raises:
        ValueError: several masks.
    """
    flat = mask.reshape(-1, *mask.shape[-2:])
    if flat.shape[0] != 1:
        raise ValueError(
            f"There are {flat.shape[0]} masks; expected one. Choose one of the batch, or combine "
            "several Mask Weight nodes."
        )
    return flat[0]
