"""LAGS with a full step and a measured alpha: our default. What differs from the paper is ours.

- The second evaluation goes the full step: sigma^2 J v stands for D(x + sigma^2 v) - D(x), which is
  exact where log w has the slope v everywhere, whatever p is.
- alpha is measured per sample, by how much of the predicted gain in log w comes true.
- The shift is made to fit the kernel of an ancestral sampler's step.
- The run's initial noise is drawn from w p too.
- Steps that would change nothing stay plain; the second evaluation takes the conditional branch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..contracts import Denoiser, LogWeight, check_finite_model, checked_value_and_grad
from ..distilled import FEW_STEPS, gives_finished_images
from ..finite_difference import rms
from ..shapes import Latents, PerSample
from ..step_correction import step_correction
from ..ve import per_sample
from .base import Guided, StartCost, Step, finish, predicted_gain, times_sigma2
from .lags import LAGS

SKIP_BELOW = 0.15
MAX_DEVIATIONS = 4.0


@dataclass(frozen=True)
class Balanced(LAGS):
    """Guidance by the full step, limited by what is measured.

    Attributes:
        max_deviations: greatest shift in standard deviations of the posterior along it, which is
            where an approximation around the denoised sample ends; None for no limit.
        fits_step: whether the shift is made to fit the step's kernel, see ``step_correction``.
        tilts_start: as for ``Method``.
        may_be_distilled: whether to ask at the start if the model gives finished images; a few
            steps without classifier-free guidance are how such models are run.
        distilled: [B] the answer, see ``gives_finished_images``; None where nobody asked.

    The others as for ``LAGS``.
    """

    max_deviations: float | None = None
    fits_step: bool = True
    tilts_start: bool = True
    may_be_distilled: bool = False
    distilled: Tensor | None = None
    name = "LAGS, balanced"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_deviations is not None and not self.max_deviations > 0:
            raise ValueError(f"max_deviations is {self.max_deviations}; expected above 0, or None.")

    def guide(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample, step: Step
    ) -> Guided:
        """One evaluation; arguments as for ``Method``."""
        denoised = step.denoise(denoiser, x, sigma_ve)
        check_finite_model(denoised, sigma_ve)
        log_w, v = checked_value_and_grad(log_weight, denoised, sigma_ve)
        bounded = self.difference.within_max_step(v, sigma_ve)
        jv = self.jacobian_product(denoiser, x, sigma_ve, bounded, step)
        full_shift = times_sigma2(sigma_ve, jv)
        gain = self.measure(log_weight, denoised, log_w, v, full_shift, sigma_ve, step.is_start)
        alpha = self.schedule.alpha(sigma_ve, gain) * step.cost.active
        factor = alpha
        if self.max_deviations is not None:
            reach = self._deviations(bounded, full_shift, sigma_ve).clamp(min=1e-30)
            factor = torch.minimum(factor, self.max_deviations / reach)
        if self.fits_step and not step.is_start:
            fit = (step.keep, sigma_ve, gain.predicted, full_shift, self.distilled)
            factor = factor * step_correction(*fit)
        shift = self.limited(per_sample(factor, x) * full_shift, denoised)
        if step.is_start:
            step.cost = replace(step.cost, values=2 * step.cost.values)
        onto = x if step.is_start else denoised
        return finish(denoised, shift, sigma_ve, step, log_w, gain, alpha, onto)

    def _deviations(self, v: Latents, full_shift: Latents, sigma_ve: PerSample) -> PerSample:
        """How many standard deviations a tilt by v moves the mean of what is tilted, [B].

        Of the posterior it is sqrt(<v, full shift>); of the noise, where a distilled model leaves
        no posterior, the length of sigma J v.
        """
        of_posterior = predicted_gain(v, full_shift).clamp(min=0).sqrt()
        if self.distilled is None:
            return of_posterior
        of_noise = rms(full_shift) * math.sqrt(full_shift[0].numel()) / sigma_ve.float()
        return torch.where(self.distilled, of_noise, of_posterior)

    def in_steps(self, steps: int, branches: int) -> Balanced:
        """The method for a run of so many steps, with so many branches of guidance."""
        return replace(self, may_be_distilled=steps <= FEW_STEPS and branches == 1)

    def told(
        self, denoiser: Denoiser, x: Latents, sigma_ve: PerSample, step: Step | None = None
    ) -> Balanced:
        """The method after it has asked, if it is to; arguments as for ``tilted_start``."""
        if not self.may_be_distilled:
            return self
        denoised = (step or Step()).denoise(denoiser, x, sigma_ve)
        answer = gives_finished_images(denoiser, x, sigma_ve, denoised, self.difference)
        return replace(self, distilled=answer)

    def tilted_start(
        self,
        denoiser: Denoiser,
        log_weight: LogWeight,
        x: Latents,
        sigma_ve: PerSample,
        step: Step | None = None,
    ) -> Guided:
        """The initial noisy sample, drawn from w p instead of p.

        A sampler starts from x0 + sigma * noise as if the noise knew nothing of the image. It
        does: E[w | x] differs from one noise to the next, above all for what has more variance than
        sigma^2 (the colour or brightness of a whole image). Tilting N(x0, sigma^2) by exp(g . x),
        g = alpha J v, moves its mean by sigma^2 g: the same shift, applied to x.

        The first denoised sample has no detail yet, so a weight that rewards detail has a steep
        gradient there that says little; a schedule that looks at log w looks on both sides here.

        Args and errors as for a step.

        Returns:
            x [B, ...] moved, and what was done.
        """
        step = step or Step()
        step.is_start = True
        moved, record = self(denoiser, log_weight, x, sigma_ve, step)
        if self.distilled is not None:
            record = replace(record, model_calls=record.model_calls + 1)  # that ``told`` made
        return (moved if record.active else x), record

    def start_cost(self, sigma_ve: PerSample) -> StartCost:
        """Two evaluations for the initial noise, the weight on both sides."""
        cost = self.cost(sigma_ve)
        if not cost.is_guided:
            return StartCost()
        calls = 1 + cost.takes_second + self.may_be_distilled
        return StartCost(calls, int(cost.takes_second), 1, 2 * cost.values)
