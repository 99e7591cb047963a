"""LAGS with a full step and a measured alpha: our default. What differs from the paper is ours.

- The second evaluation goes the full step: sigma^2 J v stands for D(x + sigma^2 v) - D(x), which is
  exact where log w has the slope v everywhere, whatever p is.
- alpha is measured per sample, by how much of the predicted gain in log w comes true.
- The shift is made to fit the sampler's step, which is coarse.
- The run's initial noise is drawn from w p too.
- What one step has measured serves the next one, down to two thirds of its noise level and with
  the trend of the last two, and what the last has measured all late ones. The second evaluation
  takes the conditional branch.
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
from ..step_correction import Measurement, Start, is_spent, slope_along
from ..ve import chosen, per_sample
from .base import Guided, StartCost, Step, finish, predicted_gain, times_sigma2
from .lags import LAGS

SKIP_BELOW = 0.03  # guides down to noise of 0.18
SERVES = 0.64  # of the noise level; at 30 steps that is the next evaluation, at 10 mostly none
MAX_DEVIATIONS = 4.0
LEAST_OPEN = 0.1  # of the variance along a shift; less may be a network's rounding


@dataclass(frozen=True)
class Balanced(LAGS):
    """Guidance by the full step, limited by what is measured.

    Attributes:
        max_deviations: greatest shift in standard deviations of the data along it, beyond which
            a network has seen nothing; None for no limit.
        fits_step: whether the shift is made to fit the sampler's step, see ``RunState.share``.
        tilts_start: as for ``Method``.
        serves: the share of its noise level down to which a measurement serves; 1 is one in every
            guided step. In few steps it is 1.
        may_be_distilled: whether to ask at the start if the model gives finished images; a few
            steps without classifier-free guidance are how such models are run.
        distilled: [B] the answer, see ``gives_finished_images``; None where nobody asked.

    The others as for ``LAGS``.
    """

    max_deviations: float | None = None
    fits_step: bool = True
    tilts_start: bool = True
    serves: float = 1.0
    may_be_distilled: bool = False
    distilled: Tensor | None = None
    name = "LAGS, balanced"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_deviations is not None and not self.max_deviations > 0:
            raise ValueError(f"max_deviations is {self.max_deviations}; expected above 0, or None.")
        if not 0 < self.serves <= 1:
            raise ValueError(f"serves is {self.serves}; expected above 0 and at most 1.")

    def __call__(
        self,
        denoiser: Denoiser,
        log_weight: LogWeight,
        x: Latents,
        sigma_ve: PerSample,
        step: Step | None = None,
    ) -> Guided:
        """One evaluation; arguments as for ``Method``."""
        step = step or Step()
        start, step.state.start = step.state.start, None
        foreseen = None
        if start is not None and not step.is_watched:
            foreseen = step.denoised = start.foreseen(x, sigma_ve)
        guided, record = super().__call__(denoiser, log_weight, x, sigma_ve, step)
        return guided, replace(record, model_calls=record.model_calls - (foreseen is not None))

    def guide(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample, step: Step
    ) -> Guided:
        """By a measurement here, or by the last one where none is due.

        What the model answers is not checked where the last one serves.
        """
        measured = step.state.measured
        if measured is not None and not step.is_start:
            due, cost = measured.is_due(x, step.on_cpu(sigma_ve), self.serves), step.cost
            step.cost = replace(cost, active=cost.active & due, second=cost.second & due)
            if not step.cost.is_guided:
                step.state.measured = measured.passed_by()
                guided, record = self.skip(denoiser, x, sigma_ve, step)
                alpha, log_w = measured.alpha, measured.log_w
                return guided, replace(record, active=True, alpha=alpha, log_w=log_w)
        return self._measured(denoiser, log_weight, x, sigma_ve, step)

    def _measured(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample, step: Step
    ) -> Guided:
        """Gradient, second evaluation and value of log w here, noted for later evaluations."""
        denoised = step.denoise(denoiser, x, sigma_ve)
        check_finite_model(denoised, sigma_ve)
        log_w, v = checked_value_and_grad(log_weight, denoised, sigma_ve)
        tilt = self._tilt(v, step)
        bounded = self.difference.within_max_step(tilt, sigma_ve)
        jv = self.jacobian_product(denoiser, x, sigma_ve, bounded, step)
        seen = times_sigma2(sigma_ve, jv)
        j = slope_along(bounded, seen, sigma_ve)
        # alpha goes by the shift that the second evaluation has seen.
        gain = self.measure(log_weight, denoised, log_w, v, seen, sigma_ve, step.is_start)
        alpha = self.schedule.alpha(sigma_ve, gain)
        alpha = chosen(step.cost.active, alpha, torch.zeros_like(alpha))
        continued = self.difference.continued(tilt, sigma_ve, j)
        limit = self._limit(bounded, seen, sigma_ve, continued, j)
        factor = continued * torch.minimum(alpha, limit)
        shift = self.limited(per_sample(factor, x) * seen, denoised)
        # What the start has found serves the first step, which is at the same noise.
        state, levels = step.state, step.on_cpu(sigma_ve).float()
        served = torch.full_like(levels, -1.0 if step.is_start else 0.0)
        no_trend, one = torch.zeros_like(j), torch.ones_like(j)
        found = Measurement(sigma_ve.float(), shift, j, alpha, log_w, levels, served, no_trend, one)
        before = None if state.measured is None else state.measured.passed_by()
        state.measured = found.after(before).where(step.cost.active, before)
        if step.is_start:
            step.cost = replace(step.cost, values=2 * step.cost.values)
            state.keep = 1.0
            state.start = Start(x, sigma_ve, denoised, shift, j) if self.serves < 1 else None
            return finish(denoised, shift, sigma_ve, step, log_w, gain, alpha, onto=x)
        shift = self._fitted(*state.measured.now(sigma_ve), step)
        return finish(denoised, shift, sigma_ve, step, log_w, gain, state.measured.alpha)

    def skip(self, denoiser: Denoiser, x: Latents, sigma_ve: PerSample, step: Step) -> Guided:
        """The shift that the last measurement says; nothing is evaluated for it.

        So it goes on below the noise levels that are guided: little is undecided there if the data
        vary much, but most is if they vary little.
        """
        denoised, record = super().skip(denoiser, x, sigma_ve, step)
        step.state.pass_by()
        measured = step.state.measured
        if step.is_start or measured is None or measured.shift.shape != x.shape:
            return denoised, record
        shift = self._fitted(*measured.now(sigma_ve), step)
        record = replace(record, shift_rms=rms(shift), denoised_rms=rms(denoised))
        return (denoised.float() + shift).to(denoised.dtype), record

    def _tilt(self, v: Latents, step: Step) -> Latents:
        """The gradient along which a step is tilted: midway where it makes up for a noisy one.

        D of a distilled model jumps from image to image, and nothing is halfway: v is taken alone.
        """
        if not (self.fits_step and step.draws_noise and step.keep < 1) or step.is_start:
            return v
        midway = step.state.midway(v, step.cost.active)
        if self.distilled is None:
            return midway
        return torch.where(per_sample(self.distilled, v), v, midway)

    def _fitted(self, shift: Latents, j: PerSample, step: Step) -> Latents:
        """The part of a shift that fits the sampler's step; j [B] is J along it."""
        if not self.fits_step:
            return shift
        # In few steps without noise a model of means draws blurred samples, and of a shift that
        # fits those next to nothing is left.
        keep = 1.0 if self.may_be_distilled and not step.draws_noise else step.keep
        share = step.state.share(keep, step.draws_noise, j, self.distilled)
        return per_sample(share, shift) * shift

    def _limit(
        self,
        v: Latents,
        full_shift: Latents,
        sigma_ve: PerSample,
        continued: PerSample,
        j: PerSample,
    ) -> PerSample:
        """The factor that leaves ``max_deviations`` of a shift ``continued`` times as long, [B].

        A tilt by v moves the mean of the posterior by sqrt(<v, full shift>) of its standard
        deviations, and 1 - j of the data's variance along the shift is the posterior's. Of the
        noise, by |sigma J v|, where a distilled model leaves no posterior.
        """
        if self.max_deviations is None:
            return torch.full_like(continued, torch.inf)
        posterior = predicted_gain(v, full_shift).clamp(min=0).sqrt()
        deviations = posterior * (1 - j).clamp(min=LEAST_OPEN).sqrt()
        if self.distilled is not None:
            of_noise = rms(full_shift) * math.sqrt(full_shift[0].numel()) / sigma_ve.float()
            deviations = torch.where(self.distilled, of_noise, deviations)
        return self.max_deviations / (continued * deviations).clamp(min=1e-30)

    def in_steps(self, steps: int, branches: int) -> Balanced:
        """The method for a run of so many steps, with so many branches of guidance."""
        few = steps <= FEW_STEPS
        serves = 1.0 if few else self.serves
        return replace(self, may_be_distilled=few and branches == 1, serves=serves)

    def detect_distilled(
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
            record = replace(record, model_calls=record.model_calls + 1)  # of ``detect_distilled``
        return (moved if record.active else x), record

    def measures(self, sigma_ve: PerSample, is_tilted: bool) -> Tensor:
        """Where ``Measurement.is_due``; the start's is one."""
        last, served, measured = sigma_ve[0] if is_tilted else None, -1, []
        for sigma in sigma_ve:
            due = last is None or bool(is_spent(sigma / last, served, self.serves))
            last, served = (sigma, 0) if due else (last, served + 1)
            measured.append(due)
        return torch.tensor(measured)

    def start_cost(self, sigma_ve: PerSample) -> StartCost:
        """Two evaluations for the initial noise, the weight on both sides.

        One of them says what the first step's would say, where measurements serve later steps.
        """
        cost = self.cost(sigma_ve)
        if not cost.is_guided:
            return StartCost()
        calls = (self.serves == 1) + cost.takes_second + self.may_be_distilled
        return StartCost(calls, int(cost.takes_second), 1, 2 * cost.values)
