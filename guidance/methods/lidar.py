"""LiDAR: a few cheap finished samples, weighed once, tell every step where to go.

Source: "LiDAR", arXiv 2602.03211, in denoised form. The samples x_i of the set stand for the
model's: at a noisy x the posterior puts softmax(-|x - x_i|^2 / (2 sigma^2)) on them, and the
posterior of w p adds log w(x_i) to each exponent. The denoised sample is moved by the difference
of the two means.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..contracts import Denoiser, LogWeight, check_finite_model
from ..schedules import Measured
from ..shapes import Latents, PerSample
from ..ve import chosen
from .base import Cost, Guided, Method, Run, StartCost, Step, check_not_negative, finish
from .lookahead import Lookahead

# The paper stops at t = 200 of 1000: this noise level in Stable Diffusion's schedule.
SIGMA_END = 0.57
STEPS = 8  # of the lookahead, as in the paper's slower setting
COUNT = 16


@dataclass(frozen=True)
class LiDAR(Method):
    """D' = D + scale sum_i (w'_i - w_i) x_i, w and w' the posteriors above.

    With scale 1 and a set that is all of the data, D' is the exact denoised sample of w p. The
    weight is not asked again, and needs no gradient.

    Attributes:
        scale: factor of the shift; the paper uses 12.5 with 50 images of Stable Diffusion 1.5.
        sigma_end: noise levels below this stay plain; 0 guides all.
        count: samples in the set.
        steps: of the lookahead.
        seed: of the set's noise.
        lookahead: the set; ``bind`` asks the run for it.
    """

    scale: float = 1.0
    sigma_end: float = SIGMA_END
    count: int = COUNT
    steps: int = STEPS
    seed: int = 0
    lookahead: Lookahead | None = None
    name = "LiDAR"
    needs_gradient = False

    def __post_init__(self) -> None:
        check_not_negative(self, "scale", "sigma_end")

    def bind(self, run: Run) -> LiDAR:
        """With the run's lookahead samples."""
        return replace(self, lookahead=run.look_ahead(self.count, self.steps, self.seed))

    def is_active(self, sigma_ve: PerSample) -> Tensor:
        """Which noise levels are high enough to be guided: [B] booleans."""
        return (sigma_ve >= self.sigma_end) & (sigma_ve > 0) & (self.scale != 0)

    def cost(self, sigma_ve: PerSample) -> Cost:
        """Nothing beyond the plain evaluation."""
        active = self.is_active(sigma_ve)
        return Cost(active, torch.zeros_like(active))

    def start_cost(self, sigma_ve: PerSample) -> StartCost:
        """The lookahead of one sample."""
        return StartCost(model_calls=self.count * self.steps, value_calls=self.count)

    def guide(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample, step: Step
    ) -> Guided:
        """One evaluation; arguments as for ``Method``.

        The record's log_w is the set's estimate of log E[w | x], its predicted gain the variance of
        log w under w, which is what <v, sigma^2 J v> stands for.
        """
        denoised = step.denoise(denoiser, x, sigma_ve)
        check_finite_model(denoised, sigma_ve)
        if self.lookahead is None:
            raise ValueError("LiDAR was not bound to a run: it has no lookahead samples.")
        # One sample at a time: the set times the batch need not be in memory at once, and no sample
        # is rounded by what it shares a batch with.
        samples = zip(x.float(), denoised.float(), sigma_ve.float(), strict=True)
        sets = self.lookahead.each(x.shape[0], x.device)
        towards = [_towards(*one, *of_one) for one, of_one in zip(samples, sets, strict=True)]
        shift, log_w, variance = (torch.stack(values) for values in zip(*towards, strict=True))
        shift = self.scale * chosen(step.cost.active, shift, torch.zeros_like(shift))
        return finish(denoised, shift, sigma_ve, step, log_w, Measured(variance))


def _towards(
    x: Tensor, denoised: Tensor, sigma: Tensor, samples: Tensor, log_w: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(sum_i (w'_i - w_i) x_i, log sum_i w_i w(x_i), variance of log w under w), one sample."""
    if samples.shape[1:] != x.shape:
        raise ValueError(
            f"The sampler changed its samples from {tuple(samples.shape[1:])} to "
            f"{tuple(x.shape)} during the run, and LiDAR's lookahead samples have the first "
            "size: take a sampler that keeps the size, or LAGS without a method."
        )
    # -|x - x_i|^2 / 2 about the denoised sample, without the part that all share: what is left
    # is small, where |x|^2 of a whole latent is beyond float32's digits.
    away = (samples - denoised).flatten(1)
    closeness = away @ (x - denoised).flatten() - away.square().sum(dim=1) / 2
    logits = (closeness / sigma**2).log_softmax(dim=0)
    share, tilted = logits.exp(), (logits + log_w).softmax(dim=0)
    shift = ((tilted - share) @ away).reshape(x.shape)
    finite = log_w.clamp(min=torch.where(log_w.isfinite(), log_w, torch.inf).min())
    mean = (share * finite).sum()
    variance = (share * (finite - mean) ** 2).sum()
    return shift, (logits + log_w).logsumexp(dim=0), variance
