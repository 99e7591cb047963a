"""What the coarse steps of a sampler that draws noise leave of a shift."""

from __future__ import annotations

import torch
from torch import Tensor

from .shapes import Latents, PerSample


def step_correction(
    keep: float,
    sigma_ve: PerSample,
    predicted_gain: PerSample,
    full_shift: Latents,
    distilled: Tensor | None = None,
) -> PerSample:
    """How much of the shift sigma^2 J v fits the kernel of an ancestral step: [B] in 0..1.

    The step is x' = D + keep (x - D) + s xi with keep = (sigma' / sigma)^2 and
    s^2 = keep (sigma^2 - sigma'^2). To tilt what such a chain draws, its kernel's mean has to move
    by s^2 J' v, J' at the next noise level; a shifted D moves it by (1 - keep) sigma^2 J v. For
    data that is Gaussian along the shift, J = j and J' = j / (j + (1 - j) keep), so the share is
    keep / (j + (1 - j) keep). It goes to 1 as the steps get finer. With 30 steps, where such a
    chain draws images that differ less than the model's own (by 17 to 30 % in variance), the
    full shift would be 19 to 42 % too long. Not in the paper.

    A sampler that draws fresh noise around D (LCM's) moves its kernel's mean by the whole shift and
    has s = sigma': the share is the same. Of a distilled model J = s / sqrt(s^2 + sigma^2) for
    Gaussian data of deviation s, which makes it keep / sqrt(j^2 + (1 - j^2) keep); a step without
    noise has nothing to tilt there.

    Args:
        keep: (sigma' / sigma)^2, 0 in the last step, which has no noise and is left alone; 1 of
            a sampler that draws none.
        sigma_ve: [B].
        predicted_gain: [B] <v, sigma^2 J v>.
        full_shift: [B, ...] sigma^2 J v.
        distilled: [B] whether D is a finished image; None where it is not.
    """
    finished = torch.zeros_like(sigma_ve, dtype=torch.bool) if distilled is None else distilled
    if keep >= 1:
        return torch.where(finished, 0.0, torch.ones_like(predicted_gain))
    # <Jv, Jv> / <v, Jv>: j where the shift is, not where v has parts that J takes away.
    sigma2 = sigma_ve.float() ** 2
    j = full_shift.flatten(1).square().sum(dim=1) / (sigma2 * predicted_gain).clamp(min=1e-30)
    j = j.clamp(0, 1)
    share = keep / (j + (1 - j) * keep).clamp(min=1e-30)
    of_finished = keep / (j**2 + (1 - j**2) * keep).clamp(min=1e-30).sqrt()
    return torch.where(finished, of_finished, share)
