"""The demo's sampler: noise levels and ancestral steps, on any denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def karras_sigmas(steps: int, low: float, high: float) -> Tensor:
    """steps + 1 noise levels from high to low, then 0 (Karras et al. 2022, eq. 5, rho = 7)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigmas = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


def sample_ancestral(
    denoiser: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigmas: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Ancestral sampling: each step draws from the exact posterior of the next noise level.

    Args:
        denoiser: (x, sigma [B]) -> denoised.
        x: [B, ...] noise of standard deviation ``sigmas[0]``.
        sigmas: falling noise levels, the last may be 0.
        generator: source of the steps' noise.
    """
    for sigma, lower in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        denoised = denoiser(x, x.new_full((x.shape[0],), sigma))
        keep = (lower / sigma) ** 2
        spread = lower * math.sqrt(max(0.0, 1 - keep))
        x = denoised + keep * (x - denoised)
        if spread > 0:
            x = x + spread * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x
