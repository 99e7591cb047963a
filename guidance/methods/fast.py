"""LAGS without the second evaluation: nearly the cost of plain sampling; acts late. Not published.

The Jacobian is taken for the identity, which it is at low noise. With reuse, one gradient of log w
serves several evaluations.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..contracts import Denoiser, LogWeight, check_finite_model, checked_value_and_grad
from ..shapes import Latents, PerSample
from ..trace import StepRecord
from ..ve import per_sample
from .base import Step, finish, skip, times_sigma2
from .lags import LAGS

SKIP_BELOW = 0.02
REUSE = 2  # costs it nothing measurable; ``balanced`` would lose a little where log w bends


@dataclass(frozen=True)
class Fast(LAGS):
    """D' = D + sigma^2 alpha v, v = grad log w at D."""

    name = "LAGS, fast"
    compares = False

    def __call__(
        self,
        denoiser: Denoiser,
        log_weight: LogWeight,
        x: Latents,
        sigma_ve: PerSample,
        step: Step | None = None,
    ) -> tuple[Latents, StepRecord]:
        """One evaluation; arguments as for ``Method``."""
        step = step or Step()
        denoised = step.denoise(denoiser, x, sigma_ve)
        cost = self.cost(sigma_ve)
        if not cost.is_guided:
            return skip(denoised, sigma_ve, step)
        check_finite_model(denoised, sigma_ve)
        log_w, v = checked_value_and_grad(log_weight, denoised, sigma_ve)
        full_shift = times_sigma2(sigma_ve, v.float())
        gain = self.measure(log_weight, denoised, log_w, v, full_shift, sigma_ve)
        alpha = self.schedule.alpha(sigma_ve, gain) * cost.active
        shift = self.limited(per_sample(alpha, x) * full_shift, denoised)
        return finish(denoised, shift, sigma_ve, step, cost, log_w=log_w, alpha=alpha, gain=gain)
