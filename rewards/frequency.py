"""Frequency: more or less energy in a radial band of the image's spectrum."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Reward
from .pixels import luma

HIGHEST = 0.5**0.5  # cycles per pixel, the finest diagonal stripe
FLOOR = 1e-8  # mean-square brightness; far below one grey level of 255


class FrequencyReward(Reward):
    """Natural logarithm of the brightness energy between two spatial frequencies.

    The energy is the mean square of the image filtered to the band, so it does not depend on the
    image's size; one unit of score is a factor e in energy.

    Args:
        low: lower edge in cycles per pixel, 0..0.71; the mean (frequency 0) never counts.
        high: upper edge, above ``low``. 0.5 is the finest stripe along an axis, 0.71 on a diagonal.

    Raises:
        ValueError: edges out of range or in the wrong order.
    """

    name = "frequency band"
    scale = "natural logarithm of mean-square brightness in the band"
    working_range = (0.5, 5.0)

    def __init__(self, low: float, high: float) -> None:
        if not (0 <= low < high and low < HIGHEST):
            raise ValueError(
                f"frequency band is {low} to {high}; expected 0 <= low < high and low under 0.7, "
                "in cycles per pixel (0.5 is the finest stripe along an axis)."
            )
        self.low, self.high = low, high

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, H, W] in 0..1.

        Raises:
            ValueError: the image is too small to have any frequency in the band.
        """
        height, width = images.shape[-2:]
        rows = torch.fft.fftfreq(height, device=images.device)[:, None]
        columns = torch.fft.fftfreq(width, device=images.device)[None, :]
        radius = (rows**2 + columns**2).sqrt()
        band = (radius >= self.low) & (radius <= self.high) & (radius > 0)
        if not bool(band.any()):
            raise ValueError(
                f"No frequency of a {width}x{height} image lies in {self.low} to {self.high} "
                "cycles per pixel: widen the band."
            )
        spectrum = torch.fft.fft2(luma(images), norm="forward")
        power: Tensor = (spectrum.real.square() + spectrum.imag.square())[:, band].sum(dim=1)
        return (power + FLOOR).log()
