"""MPGD: the gradient of log w added to the denoised sample, without going through the denoiser.

Source: He et al., "Manifold Preserving Guided Diffusion", ICLR 2024, arXiv 2311.16424, in the form
without an autoencoder of its own: in latent space the VAE's decoder takes that part.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..contracts import Denoiser, LogWeight, check_finite_model, checked_value_and_grad
from ..schedules import Measured
from ..shapes import Latents, PerSample
from ..ve import per_sample
from .base import (
    Cost,
    Guided,
    Method,
    Step,
    check_not_negative,
    cost_everywhere,
    finish,
    plain_cost,
    predicted_gain,
    times_sigma2,
)


@dataclass(frozen=True)
class MPGD(Method):
    """D' = D + rho min(sigma^2, 1) v, v = grad log w at D.

    sigma^2 v is the shift that adds v to the score; the step is capped at that of sigma = 1, since
    far from the data v says little about where x should go.

    Attributes:
        rho: factor of the shift; not negative.
    """

    rho: float = 1.0
    name = "MPGD"

    def __post_init__(self) -> None:
        check_not_negative(self, "rho")

    def cost(self, sigma_ve: PerSample) -> Cost:
        """One gradient of the weight in every step."""
        return cost_everywhere(sigma_ve, gradients=1) if self.rho else plain_cost(sigma_ve)

    def guide(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample, step: Step
    ) -> Guided:
        """One evaluation; arguments as for ``Method``."""
        denoised = step.denoise(denoiser, x, sigma_ve)
        check_finite_model(denoised, sigma_ve)
        log_w, v = checked_value_and_grad(log_weight, denoised, sigma_ve)
        shift = per_sample(self.rho * (sigma_ve.float() ** 2).clamp(max=1), x) * v
        gain = Measured(predicted_gain(v, times_sigma2(sigma_ve, v)))
        return finish(denoised, shift, sigma_ve, step, log_w, gain)
