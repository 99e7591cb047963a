"""A reward that sees, and asks for, only a part of the image."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Reward, Weight

GREY = 0.5
LEAST = 0.02  # of a mask: 5 of 255 levels, below which a file's noise lies


class MaskedReward(Reward):
    """The score of the box around a mask, with grey where the mask is not.

    A model that sees squares is shown one, with grey beside the box: else it would cut off the ends
    of a long one, or distort it.

    Args:
        reward: what is asked for inside.
        mask: [H, W] in 0..1, 1 inside; stretched to the image's size.

    Raises:
        ValueError: the mask is of another shape, not finite, or empty.
    """

    def __init__(self, reward: Reward, mask: Tensor) -> None:
        if mask.ndim != 2:
            raise ValueError(f"The mask has shape {tuple(mask.shape)}; expected [height, width].")
        with torch.inference_mode(False):
            seen = mask.detach().float().cpu().clamp(0, 1)
            self.mask = torch.where(seen < LEAST, 0.0, seen)
        if not bool(self.mask.max() > 0.5):  # also where it is NaN
            raise ValueError(
                "The mask is empty: nothing in it is above one half. Paint an area; of two masks, "
                "areas that overlap."
            )
        self.reward, self.scale = reward, reward.scale
        self.name = f"{reward.name}, masked"
        self.input_size, self.differentiable = reward.input_size, reward.differentiable
        self.default_strength, self.working_range = reward.default_strength, reward.working_range
        self.strength_source, self.published = reward.strength_source, reward.published
        self.preference_scale, self.modules = reward.preference_scale, reward.modules

    @property
    def needed_side(self) -> int | None:
        """What the inner reward needs of its box, for the whole image."""
        inner = self.reward.needed_side
        if inner is None:
            return None
        top, bottom, left, right = _box(self.mask)
        sides = bottom - top, right - left
        reaches = min(sides) if self.input_size is None else max(sides)
        return math.ceil(inner * min(self.mask.shape) / reaches)

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, H, W] in 0..1."""
        mask = stretched(self.mask, *images.shape[-2:]).to(images.device)
        top, bottom, left, right = _box(mask)
        inside = images * mask + GREY * (1 - mask)
        box = inside[..., top:bottom, left:right]
        return self.reward(box if self.input_size is None else _squared(box))


def stretched(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask [H, W] at another size."""
    if mask.shape == (height, width):
        return mask
    shrinks = height < mask.shape[0] or width < mask.shape[1]
    return F.interpolate(
        mask[None, None], (height, width), mode="bilinear", align_corners=False, antialias=shrinks
    )[0, 0]


def _squared(images: Tensor) -> Tensor:
    """Images in the middle of a grey square."""
    height, width = images.shape[-2:]
    across, down = max(height - width, 0), max(width - height, 0)
    beside = (across // 2, across - across // 2, down // 2, down - down // 2)
    return F.pad(images, beside, value=GREY)


def _box(mask: Tensor) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is above 0."""
    return *_ends((mask > 0).any(dim=1)), *_ends((mask > 0).any(dim=0))


def _ends(flags: Tensor) -> tuple[int, int]:
    found = flags.nonzero()
    return int(found[0]), int(found[-1]) + 1


def masked(weight: Weight, mask: Tensor) -> Weight:
    """The weight with every term restricted to a mask [H, W]."""
    terms = (replace(t, reward=_within(t.reward, mask)) for t in weight.terms)
    return Weight(tuple(terms))


def _within(reward: Reward, mask: Tensor) -> MaskedReward:
    """A reward inside a mask; one that has a mask already, inside of both."""
    restricted = MaskedReward(reward, mask)
    if not isinstance(reward, MaskedReward):
        return restricted
    pair = reward.mask, restricted.mask
    height, width = max(m.shape[0] for m in pair), max(m.shape[1] for m in pair)
    one, other = (stretched(m, height, width) for m in pair)
    return MaskedReward(reward.reward, one * other)


def _masks(weight: Weight) -> list[Tensor] | None:
    """The masks of all terms; None where a term has none."""
    masks = [t.reward.mask for t in weight.terms if isinstance(t.reward, MaskedReward)]
    return masks if len(masks) == len(weight.terms) > 0 else None


def box_of(weight: Weight, height: int, width: int) -> tuple[int, int, int, int] | None:
    """The part of images of this size that the weight looks at; None for all of it.

    Returns:
        top, bottom, left and right in pixels: the box around all terms' boxes.
    """
    masks = _masks(weight)
    if masks is None:
        return None
    boxes = [_box(stretched(mask, height, width)) for mask in masks]
    tops, bottoms, lefts, rights = zip(*boxes, strict=True)
    return min(tops), max(bottoms), min(lefts), max(rights)


def region(weight: Weight) -> Tensor | None:
    """Where the weight acts: the union [H, W] of its terms' masks; None for everywhere."""
    masks = _masks(weight)
    if masks is None:
        return None
    height, width = max(m.shape[0] for m in masks), max(m.shape[1] for m in masks)
    return torch.stack([stretched(m, height, width) for m in masks]).amax(dim=0)
