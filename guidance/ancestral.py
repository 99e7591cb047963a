"""Samplers as Gaussian chains, x' = mean(x, D) + s * noise, in variance-exploding units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from .shapes import Latents


@runtime_checkable
class Chain(Protocol):
    """One step from noise level ``sigma`` down to ``lower``: its spread s and its mean.

    Both noise levels are variance-exploding. Noise must be Gaussian, independent per coordinate and
    fresh at each step, and s must not depend on x: then the step has a density whose ratio to a
    shifted one is known.
    """

    def spread(self, sigma: float, lower: float) -> float: ...

    def mean(self, x: Latents, denoised: Latents, sigma: float, lower: float) -> Latents: ...


@dataclass(frozen=True)
class Ancestral:
    """Euler ancestral, and DDIM with the same eta: in these units they are one formula.

    s = eta * lower * sqrt(1 - lower^2 / sigma^2), mean = D + (x - D) sqrt(lower^2 - s^2) / sigma.
    With eta = 1 this is the exact posterior of the next noise level given x and x0 = D.

    Attributes:
        eta: how much of the posterior's noise is drawn, above 0 and at most 1.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.eta <= 1:
            raise ValueError(
                f"eta is {self.eta}; expected above 0 and at most 1. A chain without noise has no "
                "density, so its particles cannot be weighted."
            )

    def spread(self, sigma: float, lower: float) -> float:
        """s; 0 where ``lower`` is 0."""
        return self.eta * lower * math.sqrt(max(0.0, 1 - (lower / sigma) ** 2))

    def mean(self, x: Latents, denoised: Latents, sigma: float, lower: float) -> Latents:
        """Between the denoised picture and x."""
        s = self.spread(sigma, lower)
        return (x - denoised).mul_(math.sqrt(max(0.0, lower**2 - s**2)) / sigma).add_(denoised)
