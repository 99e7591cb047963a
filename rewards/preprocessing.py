"""From images of any size to what a network was trained on: differentiable, in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Processors of transformers that take a size of one number for the short side; the others take it
# for both sides.
BY_SHORT_SIDE = ("CLIP", "ConvNext", "Bit", "MobileNet", "PoolFormer")
# Those with rules that no file states (blue first, normalised twice, a factor on the size).
UNLIKE_OTHERS = ("EfficientNet", "Levit", "LeViT", "PPLCNet", "MobileViT", "MobileVit")


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
        top, left = (self._margin(side - self.size) for side in images.shape[-2:])
        return images[..., top : top + self.size, left : left + self.size]

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


def from_processor_config(config: dict[str, Any], fallback: int) -> Preprocessing:
    """The preprocessing that a published ``preprocessor_config.json`` describes.

    Args:
        config: the file's content; {} gives CLIP's preprocessing.
        fallback: side in pixels where the file names none: the model's own.

    Raises:
        ValueError: a resize rule that is none of short side, both sides, long side.
    """
    size, crop = config.get("size") or {}, config.get("crop_size") or {}
    kind = config.get("image_processor_type") or config.get("feature_extractor_type") or "CLIP"
    if kind.startswith(UNLIKE_OTHERS):
        raise ValueError(
            f"The model's images are prepared by {kind}, which follows rules of its own: choose "
            "another classifier, for example a ViT, ConvNeXt, Swin or DINOv2."
        )
    if isinstance(size, int):
        sides = ("shortest_edge",) if kind.startswith(BY_SHORT_SIDE) else ("height", "width")
        size = dict.fromkeys(sides, size)
    crop = crop if isinstance(crop, int) else crop.get("height")
    look: dict[str, Any] = {
        "mean": tuple(config.get("image_mean") or CLIP_MEAN),
        "std": tuple(config.get("image_std") or CLIP_STD),
        "interpolation": "bilinear" if config.get("resample", 3) == 2 else "bicubic",
        "crop_rounds_down": True,
    }
    if "shortest_edge" in size:
        edge = int(size["shortest_edge"])
        if "crop_pct" in config:  # ConvNeXt: one side given, resized larger and cropped to it
            share = config["crop_pct"] or 224 / 256
            if edge < 384:
                return Preprocessing(edge, short_side=int(edge / share), **look)
            return Preprocessing(edge, fit="squash", **look)
        side = int(crop) if crop and config.get("do_center_crop", True) else edge
        return Preprocessing(side, short_side=edge, **look)
    if "height" in size:
        if size["height"] != size.get("width"):
            raise ValueError(f"The model reads images of size {size}; expected a square.")
        edge = int(size["height"])
        if config.get("do_center_crop") and crop:
            return Preprocessing(int(crop), fit="squash", short_side=edge, **look)
        return Preprocessing(edge, fit="squash", **look)
    if size:
        raise ValueError(
            f"The model's preprocessor resizes to {size}; expected 'shortest_edge', or 'height' "
            "and 'width'."
        )
    return Preprocessing(fallback, **look)


def grey_levels(images: Tensor) -> Tensor:
    """Images as 8-bit files hold them: [B, 3, H, W] in 0..1 -> uint8."""
    return (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
