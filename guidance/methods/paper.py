"""LAGS to the letter: arXiv 2502.04646, its algorithm and its equation numbers.

    D = D(x, sigma)                          the denoised sample E[x0 | x]                (Tweedie)
    v = grad log w (D)                       at D, so nothing goes back through the model (Taylor)
    J v = [D(x + h v, sigma) - D] / h        one more forward in place of the Hessian     (eq. 13)
    alpha = 1 / (1 + c sigma^4)              how certain log w(D) is           (Prop. 1, simplified)
    D' = D + sigma^2 alpha J v               adds alpha J v to the score      (eq. 17, Tweedie)

sigma is the variance-exploding noise level: sigma^2 = (1 - abar) / abar.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..contracts import Denoiser, LogWeight, check_finite_model, checked_value_and_grad
from ..shapes import Latents, PerSample
from ..ve import chosen, per_sample
from .base import Guided, Step, finish, times_sigma2
from .lags import LAGS


@dataclass(frozen=True)
class Paper(LAGS):
    """LAGS as published, in every step."""

    name = "LAGS, paper"

    def guide(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample, step: Step
    ) -> Guided:
        """The algorithm above; arguments as for ``Method``."""
        denoised = step.denoise(denoiser, x, sigma_ve)  # E[x0 | x], Tweedie's formula
        check_finite_model(denoised, sigma_ve)

        # The Taylor step: log E[w | x] is taken for log w at D.
        log_w, v = checked_value_and_grad(log_weight, denoised, sigma_ve)
        # Eq. 13: the finite difference of two forwards.
        jv = self.jacobian_product(denoiser, x, sigma_ve, v, step)
        full_shift = times_sigma2(sigma_ve, jv)
        # Prop. 1, simplified; other schedules are the gate of appendix B.2, and ours.
        gain = self.measure(log_weight, denoised, log_w, v, full_shift, sigma_ve)
        alpha = self.schedule.alpha(sigma_ve, gain)
        alpha = chosen(step.cost.active, alpha, torch.zeros_like(alpha))
        shift = self.limited(per_sample(alpha, x) * full_shift, denoised)
        return finish(denoised, shift, sigma_ve, step, log_w, gain, alpha)
