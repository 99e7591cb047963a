"""DPS: the gradient of log w taken through the denoiser, in every step.

Source: Chung et al., "Diffusion Posterior Sampling for General Noisy Inverse Problems", ICLR 2023,
arXiv 2209.14687, for a weight in place of a measurement.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..contracts import Denoiser, LogWeight, check_finite_model, checked_value_and_grad
from ..finite_difference import rms
from ..particles.drift import DenoiserVJP, autograd_vjp
from ..shapes import Latents, PerSample
from ..trace import StepRecord
from ..ve import per_sample

# What makes a denoiser one that can be gone back through. One forward serves both directions.
Differentiable = Callable[[Denoiser], DenoiserVJP]
LEAST_LOG_W = 1e-3  # the normalised form divides by |log w|, which may be 0


@dataclass(frozen=True)
class DPS:
    """Guidance by the full gradient: D' = D + rho sigma^2 J^T v, v = grad log w at D.

    The step of the sampler then adds rho times the gradient of log w(D(x)) to the score.

    Attributes:
        rho: factor of the shift, 1 as derived; not negative.
        normalised: whether the shift of each sample is divided by |log w|, which takes the part of
            the residual's norm in the paper; at least 1e-3. With it a strength of the weight
            cancels out, and rho, of about the score's own size, is what remains to be tuned. As
            sigma^2 is kept, rho does not depend on the number of steps; in the paper it does.
        vjp: makes a denoiser differentiable; by autograd unless something else is given.
    """

    rho: float = 1.0
    normalised: bool = False
    vjp: Differentiable = autograd_vjp

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rho) and self.rho >= 0):
            raise ValueError(f"rho is {self.rho}; expected a finite number, 0 or more.")

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
            log_weight: log w on denoised pictures.
            x: [B, ...] noisy sample, variance-exploding.
            sigma_ve: [B].
            keep: of the sampler's step; not read.

        Returns:
            denoised [B, ...] in the dtype of D's output, and what was done.

        Raises:
            WeightError: the weight has no gradient, or broke its contract at this noise level.
            ModelError: the model's output or its gradient is not finite.
        """
        start = time.perf_counter()
        if self.rho == 0:
            denoised = denoiser(x, sigma_ve)
            return denoised, StepRecord.skipped(sigma_ve, time.perf_counter() - start)
        denoised, log_w, v, gradient = gradient_through(self.vjp(denoiser), log_weight, x, sigma_ve)
        factor = self.rho * sigma_ve.float() ** 2
        if self.normalised:
            factor = factor / log_w.abs().clamp(min=LEAST_LOG_W)
        shift = per_sample(factor, x) * gradient
        whole = per_sample(sigma_ve.float() ** 2, x) * gradient
        variance = (v.float() * whole).flatten(1).sum(dim=1)
        record = shifted(sigma_ve, log_w, variance, shift, denoised, start)
        return (denoised.float() + shift).to(denoised.dtype), record


def shifted(
    sigma_ve: PerSample,
    log_w: PerSample,
    variance: PerSample,
    shift: Latents,
    denoised: Latents,
    start: float,
) -> StepRecord:
    """The record of a step by one forward and one backward pass; ``start`` on perf_counter."""
    return StepRecord(
        sigma_ve=sigma_ve,
        active=True,
        alpha=torch.ones_like(log_w),
        log_w=log_w,
        variance=variance,
        shift_rms=rms(shift),
        denoised_rms=rms(denoised),
        model_calls=1,
        weight_calls=1,
        seconds=time.perf_counter() - start,
        model_backwards=1,
    )


def gradient_through(
    vjp: DenoiserVJP, log_weight: LogWeight, x: Latents, sigma_ve: PerSample
) -> tuple[Latents, PerSample, Latents, Latents]:
    """D(x), log w [B] there, its gradient v at D(x), and J^T v, the gradient at x (float32).

    Raises:
        WeightError: the weight has no gradient, or broke its contract at this noise level.
        ModelError: the model's output or its gradient is not finite.
    """
    denoised, pull = vjp(x, sigma_ve)
    check_finite_model(denoised, sigma_ve)
    log_w, v = checked_value_and_grad(log_weight, denoised, sigma_ve)
    gradient = pull(v).float()
    check_finite_model(gradient, sigma_ve)
    return denoised, log_w, v, gradient
