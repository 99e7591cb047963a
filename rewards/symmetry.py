"""Symmetry: images that are their own mirror image."""

from __future__ import annotations

from torch import Tensor

from .base import Reward
from .pixels import root

AXES = {"left-right": 3, "top-bottom": 2}


class SymmetryReward(Reward):
    """Minus the root mean square difference of an image and its mirror image.

    Args:
        axis: 'left-right' or 'top-bottom'.

    Raises:
        ValueError: another axis.
    """

    scale = "image units, -1 to 0 (symmetric)"
    default_strength = 50.0
    working_range = (10.0, 300.0)

    def __init__(self, axis: str = "left-right") -> None:
        if axis not in AXES:
            raise ValueError(f"symmetry axis is {axis!r}; expected one of {tuple(AXES)}.")
        self.dim = AXES[axis]
        self.name = f"symmetry ({axis})"

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, H, W] in 0..1."""
        images = images.float()
        return -root((images - images.flip(self.dim)).square().mean(dim=(1, 2, 3)))
