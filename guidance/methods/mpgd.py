"""MPGD: the gradient of log w added to the denoised sample, without going through the denoiser.

Source: He et al., "Manifold Preserving Guided Diffusion", ICLR 2024, arXiv 2311.16424, in the form
without an autoencoder of its own: in latent space the VAE's decoder takes that part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..contracts import Denoiser, LogWeight, check_finite_model, checked_value_and_grad
from ..schedules import Measured
from ..shapes import Latents, PerSample
from ..trace import StepRecord
from ..ve import per_sample
from .base import Cost, Method, Step, finish, plain_cost, predicted_gain, skip, times_sigma2


@dataclass(frozen=True)
class MPGD(Method):
    """D' = D + rho min(sigma^2, 1) v, v = grad log w at D.

    sigma^2 v is the shift that adds v to the score; the step is held at that of sigma = 1, since
    far from the data v says little about where x should go.

    Attributes:
        rho: factor of the shift; not negative.
    """

    rho: float = 1.0
    name = "MPGD"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rho) and self.rho >= 0):
            raise ValueError(f"rho is {self.rho}; expected a finite number, 0 or more.")

    def cost(self, sigma_ve: PerSample) -> Cost:
        """One gradient of the weight in every step."""
        if not self.rho:
            return plain_cost(sigma_ve)
        everywhere = sigma_ve > 0
        return Cost(everywhere, ~everywhere, gradients=1)

    def __call__(
        self,
        denoiser: Denoiser,
        log_weight: LogWeight,
        x: Latents,
        sigma_ve: PerSample,
        step: Step | None = None,
    ) -> tuple[Latents, StepRecord]:
        """One evaluation; arguments as for ``Method``."""
        step, cost = step or Step(), self.cost(sigma_ve)
        denoised = step.denoise(denoiser, x, sigma_ve)
        if not cost.is_guided:
            return skip(denoised, sigma_ve, step)
        check_finite_model(denoised, sigma_ve)
        log_w, v = checked_value_and_grad(log_weight, denoised, sigma_ve)
        shift = per_sample(self.rho * (sigma_ve.float() ** 2).clamp(max=1), x) * v
        gain = Measured(predicted_gain(v, times_sigma2(sigma_ve, v)))
        return finish(denoised, shift, sigma_ve, step, cost, log_w=log_w, gain=gain)
