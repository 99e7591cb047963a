"""How much a score varies over what the model draws, before anything is drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from .contracts import Denoiser, LogWeight, check_finite_model, checked_value_and_grad
from .finite_difference import DifferenceStep, jacobian_vector_product


def score_deviation(
    denoiser: Denoiser,
    score: LogWeight,
    x: Tensor,
    sigma_ve: Tensor,
    step: DifferenceStep,
) -> float:
    """Standard deviation of a score over the pictures that a run would draw without guidance.

    By the law of total variance: the variance between the denoised pictures of the batch, and
    within each the variance of the score under its posterior, to first order sigma^2 <g, J g>. At
    the first noise level the denoised pictures differ little, and most of it is within; so one
    picture suffices. Not in the paper.

    Args:
        denoiser: D, called twice.
        score: the score as a log-weight of strength 1.
        x: [B, ...] the run's first sample, variance-exploding.
        sigma_ve: [B].
        step: of the finite difference.

    Raises:
        WeightError: the score broke its contract.
        ModelError: the model's own output is not finite.
    """
    denoised = denoiser(x, sigma_ve)
    check_finite_model(denoised, sigma_ve)
    values, g = checked_value_and_grad(score, denoised, sigma_ve)
    jg = jacobian_vector_product(denoiser, x, sigma_ve, denoised, g, step.size(g, sigma_ve))
    check_finite_model(jg, sigma_ve)
    within = sigma_ve.float() ** 2 * (g.float() * jg).flatten(1).sum(dim=1)
    between = values.double().var().item() if values.shape[0] > 1 else 0.0
    # Rounding can make a single posterior variance negative; a variance is not.
    total = between + within.double().clamp(min=0).mean().item()
    return float(torch.tensor(total, dtype=torch.float64).sqrt())
