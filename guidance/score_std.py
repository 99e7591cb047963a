"""How much a score varies over what the model draws, before anything is drawn."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .contracts import Denoiser, LogWeight, check_finite_model, checked_value_and_grad
from .finite_difference import DifferenceStep, jacobian_vector_product, rms
from .methods.base import Step
from .shapes import Latents, PerSample
from .ve import per_sample


def score_std(
    denoiser: Denoiser,
    score: LogWeight,
    x: Latents,
    sigma_ve: PerSample,
    difference: DifferenceStep,
    step: Step | None = None,
    distilled: Tensor | None = None,
) -> float:
    """Standard deviation of a score over the samples that a run would draw without guidance.

    By the law of total variance: the variance between the denoised samples of the batch, plus the
    mean variance of the score under the posterior of each. At the first noise level the denoised
    samples differ little, and most of it is in the posteriors; so one sample suffices.

    The posterior's covariance is sigma^2 J. To first order the score's variance under it is
    e = sigma^2 <g, J g>, and the sample moves by delta = sigma^2 J g / sqrt(e) when the score
    moves by one standard deviation. Scores bend over that distance, so what is taken is how far
    the score really moves, [s(D + delta) - s(D - delta)] / 2. Not in the paper.

    A distilled model leaves no posterior; its image moves with the noise, by
    delta = sigma J g / |g| for one standard deviation of the noise along g.

    Args:
        denoiser: D.
        score: the score as a log-weight of strength 1.
        x: [B, ...] the run's first sample, variance-exploding.
        sigma_ve: [B].
        difference: the finite difference.
        step: where in the run this is; None for an evaluation on its own.
        distilled: [B] whether D is a finished image; None where it is not.

    Raises:
        WeightError: the score broke its contract.
        ModelError: the model's own output is not finite.
    """
    denoised = (step or Step()).denoise(denoiser, x, sigma_ve)
    check_finite_model(denoised, sigma_ve)
    values, g = checked_value_and_grad(score, denoised, sigma_ve)
    jg = jacobian_vector_product(denoiser, x, sigma_ve, denoised, g, difference.size(g, sigma_ve))
    check_finite_model(jg, sigma_ve)
    shift = per_sample(sigma_ve.float() ** 2, x) * jg
    e = (g.float() * shift).flatten(1).sum(dim=1).clamp(min=0)  # rounding can make it negative
    length = torch.where(e > 0, e.clamp(min=1e-30).rsqrt(), 0.0)
    if distilled is not None:
        norm = rms(g) * math.sqrt(g[0].numel()) * sigma_ve.float()
        length = torch.where(distilled, 1 / norm.clamp(min=1e-30), length)
    delta = shift * per_sample(length, x)
    within = (score(denoised + delta) - score(denoised - delta)).double() / 2
    # Without posteriors the two parts are one and the same.
    has_two = values.shape[0] > 1 and (distilled is None or not bool(distilled.all()))
    between = values.double().var().item() if has_two else 0.0
    return math.sqrt(between + within.square().mean().item())
