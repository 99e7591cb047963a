"""LiDAR: a few cheap finished pictures, weighed once, tell every step where to go.

Source: "LiDAR", arXiv 2602.03211, in denoised form. The pictures x_i of the set stand for the
model's: at a noisy x the posterior puts softmax(-|x - x_i|^2 / (2 sigma^2)) on them, and the
posterior of w p adds log w(x_i) to each exponent. The denoised picture is moved by the difference
of the two means.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from ..contracts import Denoiser, LogWeight, check_finite_model, checked_value
from ..finite_difference import rms
from ..shapes import Latents, Levels, PerSample
from ..trace import StepRecord
from ..ve import per_sample

# The paper stops at t = 200 of 1000: this noise level in Stable Diffusion's schedule.
SIGMA_END = 0.57
STEPS = 8  # of the lookahead, as in the paper's slower setting


@dataclass(frozen=True)
class Lookahead:
    """Finished pictures and what they weigh.

    Attributes:
        pictures: [n, ...] for all samples of a batch, or [B, n, ...], a set for each.
        log_w: [n] or [B, n]; minus infinity is a weight of zero.
        model_calls: forwards of the denoiser for a set.
        value_calls: evaluations of the weight for a set.
    """

    pictures: Tensor
    log_w: Tensor
    model_calls: int = 0
    value_calls: int = 0

    def __post_init__(self) -> None:
        shape = self.log_w.shape
        if len(shape) not in (1, 2) or shape[-1] == 0 or self.pictures.shape[: len(shape)] != shape:
            raise ValueError(
                f"Lookahead pictures have shape {tuple(self.pictures.shape)} and log-weights "
                f"{tuple(shape)}; expected [n, ...] and [n], or [B, n, ...] and [B, n]."
            )
        if bool(torch.isnan(self.log_w).any() or torch.isposinf(self.log_w).any()):
            raise ValueError("A lookahead picture's log-weight is NaN or plus infinity.")
        if bool(torch.isneginf(self.log_w).all(dim=-1).any()):
            raise ValueError(
                "Every lookahead picture has weight zero, so none says where to go: take more of "
                "them, or a weight that is not zero almost everywhere."
            )

    def of(self, sample: int) -> tuple[Latents, PerSample]:
        """The set [n, ...] and its log-weights [n] of one sample of a batch."""
        if self.log_w.ndim == 1:
            return self.pictures, self.log_w
        return self.pictures[sample], self.log_w[sample]


@dataclass(frozen=True)
class LiDAR:
    """D' = D + scale sum_i (w'_i - w_i) x_i, w and w' the posteriors above.

    With scale 1 and a set that is all of the data, D' is the exact denoised picture of w p. The
    weight is not asked again, and needs no gradient.

    Attributes:
        lookahead: the set.
        scale: factor of the shift; the paper uses 12.5 with 50 pictures of Stable Diffusion 1.5.
        sigma_end: noise levels below this stay plain; 0 guides all.
    """

    lookahead: Lookahead
    scale: float = 1.0
    sigma_end: float = SIGMA_END

    def __post_init__(self) -> None:
        for name in ("scale", "sigma_end"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; expected a finite number, 0 or more.")

    def __call__(
        self,
        denoiser: Denoiser,
        log_weight: LogWeight,
        x: Latents,
        sigma_ve: PerSample,
        keep: float = 1.0,
    ) -> tuple[Latents, StepRecord]:
        """The guided denoised picture at one noise level.

        Args:
            denoiser: D, called once.
            log_weight: not asked.
            x: [B, ...] noisy sample, variance-exploding.
            sigma_ve: [B].
            keep: of the sampler's step; not read.

        Returns:
            denoised [B, ...] in the dtype of D's output, and what was done; the record's log_w is
            the set's estimate of log E[w | x], its variance that of log w under w.

        Raises:
            ModelError: the model's own output is not finite.
        """
        start = time.perf_counter()
        denoised = denoiser(x, sigma_ve)
        if self.scale == 0 or bool((sigma_ve < self.sigma_end).all()):
            return denoised, StepRecord.skipped(sigma_ve, time.perf_counter() - start)
        check_finite_model(denoised, sigma_ve)
        # One sample at a time: the set times the batch need not be held, and no sample is rounded
        # by what it shares a batch with.
        towards = [
            self._towards(x[b].float(), denoised[b].float(), sigma_ve[b].float(), b)
            for b in range(x.shape[0])
        ]
        shift, log_w, variance = (torch.stack(values) for values in zip(*towards, strict=True))
        shift = per_sample(self.scale * (sigma_ve >= self.sigma_end), shift) * shift
        record = StepRecord(
            sigma_ve=sigma_ve,
            active=True,
            alpha=torch.ones_like(log_w),
            log_w=log_w,
            variance=variance,
            shift_rms=rms(shift),
            denoised_rms=rms(denoised),
            model_calls=1,
            weight_calls=0,
            seconds=time.perf_counter() - start,
        )
        return (denoised.float() + shift).to(denoised.dtype), record

    def _towards(
        self, x: Tensor, denoised: Tensor, sigma: Tensor, sample: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(sum_i (w'_i - w_i) x_i, log sum_i w_i w(x_i), variance of log w under w), one sample."""
        pictures, log_w = (part.to(x.device, torch.float32) for part in self.lookahead.of(sample))
        # -|x - x_i|^2 / 2 about the denoised picture, without the part that all share: what is left
        # is small, where |x|^2 of a whole latent is beyond float32's digits.
        away = (pictures - denoised).flatten(1)
        closeness = away @ (x - denoised).flatten() - away.square().sum(dim=1) / 2
        logits = (closeness / sigma**2).log_softmax(dim=0)
        share, tilted = logits.exp(), (logits + log_w).softmax(dim=0)
        shift = ((tilted - share) @ away).reshape(x.shape)
        finite = log_w.clamp(min=log_w[log_w.isfinite()].min())
        mean = (share * finite).sum()
        variance = (share * (finite - mean) ** 2).sum()
        return shift, (logits + log_w).logsumexp(dim=0), variance


def look_ahead(denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigmas: Levels) -> Lookahead:
    """Plain pictures in few steps, weighed.

    Args:
        denoiser: D, unguided.
        log_weight: log w; its gradient is not asked for.
        x: [n, ...] pure noise at level ``sigmas[0]``, variance-exploding.
        sigmas: [K + 1] falling, the last 0.

    Raises:
        WeightError: the weight broke its contract.
        ModelError: the model's output is not finite.
    """
    pictures = few_steps(denoiser, x, sigmas)
    check_finite_model(pictures, sigmas[-1:])
    log_w = checked_value(log_weight, pictures, sigmas[-1:])
    count = x.shape[0]
    return Lookahead(pictures, log_w, count * (len(sigmas) - 1), count)


@torch.no_grad()
def few_steps(denoiser: Denoiser, x: Latents, sigmas: Levels) -> Latents:
    """The probability flow in few steps: DPM-Solver++(2M), arXiv 2211.01095.

    Args:
        denoiser: D.
        x: [B, ...] at noise level ``sigmas[0]``, variance-exploding.
        sigmas: [K + 1] falling, the last 0.
    """
    ones, levels = x.new_ones(x.shape[0]), sigmas.tolist()
    before: tuple[Latents, float] | None = None  # the last denoised picture, and its step in log
    for sigma, lower in zip(levels[:-1], levels[1:], strict=True):
        denoised = denoiser(x, sigma * ones)
        if lower == 0:
            return denoised
        step = math.log(sigma / lower)
        ahead = denoised
        if before is not None:
            earlier, last_step = before
            ahead = denoised + (denoised - earlier) * (step / (2 * last_step))
        x = x * (lower / sigma) - ahead * math.expm1(-step)
        before = denoised, step
    return x
