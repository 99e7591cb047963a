"""Colour: push the image's hue, brightness or saturation, or its mean colour to a given one."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from .base import Reward
from .pixels import luma, root

ATTRIBUTES = ("hue", "brightness", "saturation", "mean colour")
ENOUGH = 256  # pixels on the shorter side; below it a decoder has too few latents to go by


def parse_colour(text: str) -> tuple[float, float, float]:
    """'#rrggbb' -> (r, g, b) in 0..1.

    Raises:
        ValueError: any other text.
    """
    if not re.fullmatch(r"#?[0-9a-fA-F]{6}", text.strip()):
        raise ValueError(f"colour is {text!r}; expected '#rrggbb', for example '#2060ff'.")
    digits = text.strip().lstrip("#")
    red, green, blue = (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


class ColourReward(Reward):
    """A colour attribute averaged over the image.

    - ``hue``: the chroma along a hue, red at 0, green at 120, blue at 240 degrees; for red this is
      R - (G + B) / 2. About -1..1.
    - ``brightness``: mean luma, 0..1.
    - ``saturation``: mean chroma, 0..1.
    - ``mean colour``: minus the distance of the mean colour to a given one, 0 at best.

    Args:
        attribute: one of the above.
        hue: degrees, used by ``hue``.
        colour: '#rrggbb', used by ``mean colour``.

    Raises:
        ValueError: unknown attribute, a hue that is not finite, or a colour that is no '#rrggbb'.
    """

    scale = "image units, 0..1 per channel"
    default_strength = 20.0
    working_range = (5.0, 100.0)

    def __init__(self, attribute: str, hue: float = 0.0, colour: str = "#ff0000") -> None:
        if attribute not in ATTRIBUTES:
            raise ValueError(f"colour attribute is {attribute!r}; expected one of {ATTRIBUTES}.")
        if not math.isfinite(hue):
            raise ValueError(f"hue is {hue}; expected degrees, 0 to 360.")
        self.attribute = attribute
        self.angle = math.radians(hue)
        self.target = parse_colour(colour) if attribute == "mean colour" else None
        self.name = f"colour ({attribute})"

    @property
    def needed_side(self) -> int:
        """Little: these are averages over the image."""
        return ENOUGH

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, H, W] in 0..1."""
        images = images.float()
        if self.attribute == "brightness":
            return luma(images).mean(dim=(1, 2))
        if self.target is not None:
            target = torch.tensor(self.target, device=images.device)
            return -root((images.mean(dim=(2, 3)) - target).square().sum(dim=1))
        along_red, across = opponent_axes(images)
        if self.attribute == "saturation":
            chroma = torch.stack([along_red, across], dim=1)
            return root(chroma.square().sum(dim=1)).mean(dim=(1, 2))
        chroma = along_red * math.cos(self.angle) + across * math.sin(self.angle)
        return chroma.mean(dim=(1, 2))


def opponent_axes(images: Tensor) -> tuple[Tensor, Tensor]:
    """The hue plane, two [B, H, W]: R - (G + B) / 2 and sqrt(3) (G - B) / 2."""
    red, green, blue = images.unbind(dim=1)
    return red - (green + blue) / 2, math.sqrt(3) / 2 * (green - blue)
