"""A score that is any function of images: how other node packs bring theirs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .base import Reward
from .preprocessing import clamp_outward


class FunctionReward(Reward):
    """``function(images [B, 3, H, W] in 0..1) -> scores [B]``, and what it says of itself.

    Attributes of the function are read where it has them: ``name``, ``scale``, ``differentiable``,
    ``input_size`` (the side in pixels that its network sees, so that no larger image is decoded)
    and ``modules`` (its networks, for whoever manages memory; of a network itself, that network).

    Args:
        function: the score; must not couple the images of a batch.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.name = str(getattr(function, "name", getattr(function, "__name__", "function")))
        self.scale = str(getattr(function, "scale", "as its author has it"))
        self.differentiable = bool(getattr(function, "differentiable", True))
        side = getattr(function, "input_size", None)
        self.input_size = None if side is None else int(side)
        modules = getattr(function, "modules", ())  # of a network: a method
        self.modules = (function,) if isinstance(function, nn.Module) else tuple(modules)

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B], float32.

        Raises:
            ValueError: the function does not return one number for each image.
        """
        scores = self.function(clamp_outward(images.float()))  # decoded ones go a little beyond
        if not isinstance(scores, torch.Tensor) or scores.shape != images.shape[:1]:
            got = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
            raise ValueError(
                f"Weight '{self.name}' returned {got} for {images.shape[0]} images; expected a "
                f"tensor of shape ({images.shape[0]},): one score for each."
            )
        return scores.float()
