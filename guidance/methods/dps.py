"""DPS: guidance by the full gradient, through the denoiser.

Source: Chung et al., "Diffusion Posterior Sampling for General Noisy Inverse Problems", ICLR 2023,
arXiv 2209.14687, for a weight in place of a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..contracts import (
    Denoiser,
    DifferentiableDenoiser,
    LogWeight,
    check_finite_model,
    checked_value_and_grad,
)
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

LEAST_LOG_W = 1e-3  # the normalised form divides by |log w|, which may be 0


@dataclass(frozen=True)
class DPS(Method):
    """Guidance by the full gradient: D' = D + rho sigma^2 J^T v, v = grad log w at D.

    The step of the sampler then adds rho times the gradient of log w(D(x)) to the score.

    Attributes:
        rho: factor of the shift, 1 as derived; not negative.
        normalised: whether the shift of each sample is divided by |log w|, which takes the part of
            the residual's norm in the paper; at least 1e-3. With it a strength of the weight
            cancels out, and rho, of about the score's own size, is what remains to be tuned. As
            sigma^2 is kept, rho does not depend on the number of steps; in the paper it does.
    """

    rho: float = 1.0
    normalised: bool = False
    name = "DPS"
    through_model = compares = True

    def __post_init__(self) -> None:
        check_not_negative(self, "rho")

    def cost(self, sigma_ve: PerSample) -> Cost:
        """One pass back through the denoiser and one gradient of the weight, in every step."""
        return cost_everywhere(sigma_ve, 1, 1) if self.rho else plain_cost(sigma_ve)

    def guide(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample, step: Step
    ) -> Guided:
        """One evaluation; arguments as for ``Method``."""
        denoised, log_w, v, gradient = gradient_through(denoiser, log_weight, x, sigma_ve, step)
        factor = self.rho * sigma_ve.float() ** 2
        if self.normalised:
            factor = factor / log_w.abs().clamp(min=LEAST_LOG_W)
        shift = per_sample(factor, x) * gradient
        gain = Measured(predicted_gain(v, times_sigma2(sigma_ve, gradient)))
        return finish(denoised, shift, sigma_ve, step, log_w, gain)


def gradient_through(
    denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample, step: Step
) -> tuple[Latents, PerSample, Latents, Latents]:
    """D(x), log w [B] there, its gradient v at D(x), and J^T v at x, at least float32.

    Raises:
        TypeError: the denoiser is no ``DifferentiableDenoiser``.
        WeightError: the weight has no gradient, or broke its contract at this noise level.
        ModelError: the model's output or its gradient is not finite.
    """
    if not isinstance(denoiser, DifferentiableDenoiser):
        raise TypeError(
            f"{type(denoiser).__name__} is a denoiser without vjp, which a method through the "
            "model needs: wrap it in AutogradDenoiser, or take a method without it."
        )
    denoised, pull = denoiser.vjp(x, sigma_ve)
    step.denoised = denoised
    check_finite_model(denoised, sigma_ve)
    log_w, v = checked_value_and_grad(log_weight, denoised, sigma_ve)
    gradient = pull(v)
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    check_finite_model(gradient, sigma_ve)
    return denoised, log_w, v, gradient
