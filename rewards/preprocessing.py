"""From images of any size to what a network was trained on: differentiable, in torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop or pad, normalise.

    Attributes:
        size: side of the square that comes out.
        fit: ``crop``: the short side becomes ``short_side``, the middle is kept. ``pad``: the long
            side becomes ``size``, the rest is black. ``squash``: both sides become ``size``.
        short_side: for ``crop``, and for ``squash`` both sides, of which the middle is kept; None
            is ``size``.
        mean, std: per channel, of images in 0..1.
        interpolation: as the authors resize; always with antialiasing.
        crop_rounds_down: where the margin is odd: transformers rounds its half down, torchvision
            to the even number.
    """

    size: int
    fit: Literal["crop", "pad", "squash"] = "crop"
    short_side: int | None = None
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    crop_rounds_down: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in 0..1 -> [B, 3, size, size], float32, normalised.

        Values beyond 0..1, of the image or of the resize's overshoot, count as 0 or 1, as in the
        8-bit images that the authors read.
        """
        images, side = clamp_outward(images.float()), self.short_side or self.size
        height, width = images.shape[-2:]
        if self.fit == "crop":
            short = min(height, width)
            images = self._crop(self._resize(images, side * height // short, side * width // short))
        elif self.fit == "pad":
            scale = self.size / max(height, width)
            height, width = (max(1, round(length * scale)) for length in (height, width))
            images = self._pad(self._resize(images, height, width))
        else:
            images = self._crop(self._resize(images, side, side))
        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(3, 1, 1)
        return (images - mean) / std

    def at(self, side: int) -> Preprocessing:
        """The same for a network of another size."""
        short = self.short_side and round(self.short_side * side / self.size)
        return replace(self, size=side, short_side=short)

    def _resize(self, images: Tensor, height: int, width: int) -> Tensor:
        # Along rows, then columns, as PIL does: what overshoots is cut after each.
        for shape in ((images.shape[-2], width), (height, width)):
            if images.shape[-2:] != shape:
                images = F.interpolate(
                    images, shape, mode=self.interpolation, antialias=True, align_corners=False
                )
                images = clamp_outward(images)
        return images

    def _crop(self, images: Tensor) -> Tensor:
        """The middle; where it is larger than the image, with black around."""
        height, width = images.shape[-2:]
        top, left = self._margin(height - self.size), self._margin(width - self.size)
        right, bottom = (self.size - width + left, self.size - height + top)
        return F.pad(images, (-left, right, -top, bottom))

    def _margin(self, excess: int) -> int:
        return excess // 2 if self.crop_rounds_down else round(excess / 2)

    def _pad(self, images: Tensor) -> Tensor:
        height, width = (self.size - side for side in images.shape[-2:])
        return F.pad(images, (width // 2, width - width // 2, height // 2, height - height // 2))


class _ClampOutward(torch.autograd.Function):
    """Clamp to 0..1 that hands back the gradient which leads inward."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.save_for_backward(images < 0, images > 1)
        return images.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        below, above = ctx.saved_tensors
        return grad.masked_fill((below & (grad < 0)) | (above & (grad > 0)), 0)


def clamp_outward(images: Tensor) -> Tensor:
    """Clamp to 0..1; a pixel beyond the range may come back, but is not pushed further out.

    A plain clamp has no gradient there: what has left the range, as decoded images do, would stay
    out for ever. The gradient is that of ascent: of what is to become larger.
    """
    result: Tensor = _ClampOutward.apply(images)  # type: ignore[no-untyped-call]
    return result


def grey_levels(images: Tensor) -> Tensor:
    """Images as 8-bit files hold them: [B, 3, H, W] in 0..1 -> uint8."""
    return (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
