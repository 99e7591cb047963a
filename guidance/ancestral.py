"""The ancestral step: as a Gaussian chain with a known density, and as samplers compute it.

A chain is x' = mean(x, D) + s * noise, in variance-exploding units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .shapes import Latents, Levels


@runtime_checkable
class Chain(Protocol):
    """One step from noise level ``sigma`` down to ``lower``: standard deviation s and mean.

    Both noise levels are variance-exploding. Noise must be Gaussian, independent per coordinate and
    fresh at each step, and s must not depend on x: then the step has a density whose ratio to a
    shifted one is known.
    """

    def noise_std(self, sigma: float, lower: float) -> float: ...

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

    def noise_std(self, sigma: float, lower: float) -> float:
        """s; 0 where ``lower`` is 0."""
        return self.eta * lower * math.sqrt(max(0.0, 1 - (lower / sigma) ** 2))

    def mean(self, x: Latents, denoised: Latents, sigma: float, lower: float) -> Latents:
        """Between the denoised sample and x."""
        s = self.noise_std(sigma, lower)
        return (x - denoised).mul_(math.sqrt(max(0.0, lower**2 - s**2)) / sigma).add_(denoised)


def euler_ancestral(
    x: Latents, denoised: Latents, sigma: Tensor, lower: Tensor, noise: Callable[[Latents], Latents]
) -> Latents:
    """One step with eta = 1, by the operations of k-diffusion's sampler, down to the last bit.

    Args:
        x: [B, ...] at noise level ``sigma``.
        denoised: D(x).
        sigma: a number, variance-exploding.
        lower: the next noise level, below sigma; 0 ends at D.
        noise: unit noise like its argument.
    """
    up = torch.minimum(lower, (lower**2 * (sigma**2 - lower**2) / sigma**2) ** 0.5)
    down = (lower**2 - up**2) ** 0.5
    if down == 0:
        return denoised
    return x + (x - denoised) / sigma * (down - sigma) + noise(x) * up


def ancestral_keep(sigmas: Levels, sigma: float) -> float:
    """(sigma' / sigma)^2 of the step that starts at sigma; 1 where no step of the list does.

    Args:
        sigmas: falling noise levels of a run, variance-exploding, the last may be 0; one that
            follows itself starts no step.
        sigma: > 0.
    """
    levels = sigmas.tolist()
    for level, lower in zip(levels[:-1], levels[1:], strict=True):
        if lower < level and abs(level - sigma) <= 1e-4 * sigma:
            return float(lower / level) ** 2
    return 1.0
