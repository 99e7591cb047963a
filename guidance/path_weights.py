"""How much each image of a guided run counts as a sample of w p, at no cost.

A step of an ancestral sampler is x' = m + s xi, and guidance moves m by ``push`` times s: both are
known, so the plain density of the step over the guided one is exp(-push . xi - |push|^2 / 2).
The product over the steps, times w of the image, is an importance weight that is exact at any
step size, whatever the guidance: the same that particles have (``particles.engine``). Of a tilted
start the first plain D is foreseen, not evaluated.

With a share e of the images effective, the mean of anything is at most sqrt(1 / e - 1) of its
standard deviations off (Cauchy-Schwarz).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .shapes import Latents, PerSample


@dataclass
class PathWeights:
    """The log of plain over guided density of the steps that a batch has taken.

    Attributes:
        log_ratio: [B], of the steps up to the last x; None before the first.
        mean: [B, ...] of the step under way, as guided; None where none is.
        push: [B, ...] by which it is guided, in its standard deviations.
        std: of its noise.
        sigma: noise level that it starts at.
    """

    log_ratio: PerSample | None = None
    mean: Latents | None = None
    push: Latents | None = None
    std: float = 0.0
    sigma: float = 0.0

    def start(self, noise: Latents, push: Latents) -> None:
        """Note by what the initial noise was moved, both in its standard deviations, [B, ...].

        The push depends on the noise; the determinant of that map is neglected, since it would take
        more evaluations.
        """
        self.log_ratio = _log_ratio(push, noise)

    def step(
        self, x: Latents, plain: Latents, guided: Latents, sigma: float, keep: float
    ) -> PerSample:
        """The log of the ratio up to x, [B]; then note the step that goes on from there.

        Args:
            x: [B, ...] variance-exploding.
            plain: D(x).
            guided: what the sampler gets for it.
            sigma: noise level.
            keep: (sigma' / sigma)^2 of the sampler's step; 0 in the last, which has no noise.
        """
        if self.log_ratio is None:
            self.log_ratio = torch.zeros(x.shape[0], device=x.device)
        is_taken = sigma != self.sigma  # a level that follows itself starts no step
        if is_taken and self.mean is not None and self.push is not None:
            self.log_ratio = self.log_ratio + _log_ratio(self.push, (x - self.mean) / self.std)
        self.sigma, self.std = sigma, sigma * math.sqrt(keep * (1 - keep))
        self.mean = self.push = None
        if self.std > 0:
            self.mean = torch.lerp(guided.float(), x.float(), keep)
            self.push = (1 - keep) / self.std * (guided.float() - plain.float())
        return self.log_ratio


def ess_share(log_weights: Tensor) -> PerSample:
    """The ESS of a batch's log-weights [B], as a share of it: [1]."""
    return 1 / (len(log_weights) * log_weights.softmax(dim=0).square().sum(dim=0, keepdim=True))


def _log_ratio(push: Latents, xi: Latents) -> PerSample:
    """log N(xi + push; 0, 1) - log N(xi; 0, 1), [B]."""
    push = push.float()
    return -(push * (xi.float() + push / 2)).flatten(1).sum(dim=1)
