"""Distilled models: a finished image from any noise level, where others give a posterior mean.

Turbo, Lightning, LCM, Hyper and their like draw in 1 to 8 steps because their D(x) is the image
that x leads to. Nothing of it is left to chance once x is known, so there is no posterior to tilt:
what can be drawn from w p is the noise, at the start and wherever a sampler draws more of it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .contracts import Denoiser
from .finite_difference import DifferenceStep, jacobian_vector_product, rms
from .shapes import Latents, PerSample

FEW_STEPS = 8  # distilled models are run with no more
# Latents have a second moment of about 1, which a posterior's mean and variance share.
MOST_MOMENT = 2.0


def gives_finished_images(
    denoiser: Denoiser,
    x: Latents,
    sigma_ve: PerSample,
    denoised: Latents,
    difference: DifferenceStep,
) -> Tensor:
    """Whether D(x) is an image and no mean of images: [B] booleans, by one more evaluation.

    The posterior covariance of E[x0 | x] is sigma^2 J, so |D|^2 / n + sigma^2 tr(J) / n is the
    second moment of the data, whatever the noise level is. A distilled model has all of that in
    |D|^2 already, and a J that falls with sigma, not with sigma^2. The trace is taken along one
    random direction (Hutchinson), the same for all samples.

    Args:
        denoiser: D at cfg 1; classifier-free guidance scales |D| as it likes.
        x: [B, ...] variance-exploding.
        sigma_ve: [B] a high noise level.
        denoised: D(x).
        difference: of the run; its step along a direction is the small one here.
    """
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(x.shape[1:], generator=generator).to(x.device).expand_as(x)
    small = replace(difference, full=False)
    jv = jacobian_vector_product(
        denoiser, x, sigma_ve, denoised, probe, small.size(probe, sigma_ve)
    )
    variance = sigma_ve.float() ** 2 * (probe * jv).flatten(1).mean(dim=1)
    return rms(denoised).square() + variance > MOST_MOMENT
