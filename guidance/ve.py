"""The variance-exploding view: every model as x_ve = x0 + sigma_ve * noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .shapes import Latents, PerSample

NoiseScaling = Callable[[Tensor, Tensor, Tensor], Tensor]
SMALLEST_SIGNAL = 1e-3  # a flow model at sigma > 0.999 carries no signal to divide by


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ...] with as many dimensions as ``like``."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def chosen(where: Tensor, values: Tensor, others: Tensor) -> Tensor:
    """``values`` of the samples that are chosen, ``others`` of the rest.

    Args:
        where: [B] booleans on the CPU; copied to the device only where samples differ.
        values: [B, ...].
        others: likewise.
    """
    if bool(where.all()):
        return values
    if not bool(where.any()):
        return others
    return torch.where(per_sample(where.to(values.device), values), values, others)


@dataclass(frozen=True)
class VEView:
    """How a sampler's x at some noise level is made: x = signal * x0 + noise * eps.

    Attributes:
        signal: [B] factor of the clean sample.
        noise: [B] factor of the unit noise.
    """

    signal: PerSample
    noise: PerSample

    @property
    def sigma_ve(self) -> PerSample:
        """[B] noise level after division by the signal: sigma for EPS, sigma/(1-sigma) for flow."""
        return self.noise / self.signal.clamp(min=SMALLEST_SIGNAL)

    @property
    def is_usable(self) -> bool:
        """Whether there is enough signal to divide by, and any noise at all."""
        return bool((self.signal > SMALLEST_SIGNAL).all() and (self.noise > 0).all())

    def to_ve(self, x: Latents) -> Latents:
        """The sampler's x in variance-exploding form."""
        return x / per_sample(self.signal, x).to(x.dtype)

    def from_ve(self, x_ve: Latents) -> Latents:
        """Back to the sampler's own form."""
        return x_ve * per_sample(self.signal, x_ve).to(x_ve.dtype)


def ve_view(noise_scaling: NoiseScaling, sigma: PerSample) -> VEView:
    """Read signal and noise off a model's own forward process, whatever its class.

    Args:
        noise_scaling: ``(sigma, noise, latent) -> x``, affine in noise and latent, as every ComfyUI
            ``model_sampling`` has it.
        sigma: [B] the sampler's sigma.
    """
    sigma = sigma.float()
    one = sigma.new_ones(sigma.shape[0], 1, 1, 1)
    signal = noise_scaling(sigma, torch.zeros_like(one), one.clone())
    noise = noise_scaling(sigma, one.clone(), torch.zeros_like(one))
    return VEView(signal.float().reshape(-1), noise.float().reshape(-1))
