"""The 2D heart: a Gaussian mixture tilted to a heart, where every answer is known.

The base is a 5x5 grid of Gaussians, w a heart-shaped mixture, so q = w p / Z is a mixture with
closed-form samples and scores. The paper's own 2D setting is not published; this one is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SIGMA_MIN, SIGMA_MAX = 0.02, 40.0


@dataclass(frozen=True)
class Mixture:
    """Isotropic Gaussian mixture with one variance for all components.

    Attributes:
        means: [K, D].
        variance: of each coordinate of each component.
        log_weights: [K], normalised.
    """

    means: Tensor
    variance: float
    log_weights: Tensor

    def logits(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """log of (weight * density) per component at noise level sigma, up to what x alone fixes.

        [B, D] -> [B, K]; |x|^2 is left out, which no softmax sees.
        """
        spread = self.variance + torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1) ** 2
        cross = x @ self.means.to(x.dtype).T
        return (cross - self.means.square().sum(1).to(x.dtype) / 2) / spread + self.log_weights.to(
            x.dtype
        )

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x] for x = x0 + sigma * noise: [B, D], sigma [B]."""
        noise = sigma.to(x.dtype).reshape(-1, 1) ** 2
        barycentre = self.logits(x, sigma).softmax(dim=1) @ self.means.to(x.dtype)
        return (self.variance * x + noise * barycentre) / (self.variance + noise)

    def log_density(self, x: Tensor) -> Tensor:
        """log p [B] of points [B, D], up to a constant: each component counts 1 at its mean."""
        return self.logits(x).logsumexp(dim=1) - x.square().sum(1) / (2 * self.variance)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Exact draws [count, D]."""
        chosen = torch.multinomial(
            self.log_weights.exp(), count, replacement=True, generator=generator
        )
        noise = torch.randn(count, self.means.shape[1], generator=generator)
        return self.means[chosen].float() + math.sqrt(self.variance) * noise

    def times(self, other: Mixture) -> Mixture:
        """The normalised product of two mixtures, again a mixture."""
        total = self.variance + other.variance
        variance = self.variance * other.variance / total
        a, b = self.means[:, None], other.means[None]
        means = (other.variance * a + self.variance * b) / total
        overlap = -(a - b).square().sum(-1) / (2 * total)
        log_weights = self.log_weights[:, None] + other.log_weights[None] + overlap
        log_weights = log_weights.flatten()
        return Mixture(means.flatten(0, 1), variance, log_weights - log_weights.logsumexp(0))


class MixtureLogWeight:
    """log w of a mixture, with its gradient in closed form (no autograd, for the clock's sake)."""

    name = "heart"

    def __init__(self, mixture: Mixture, rows: int = 1024) -> None:
        self.mixture, self.rows = mixture, rows
        self.slope = (mixture.means / mixture.variance).T.contiguous()
        self.offset = mixture.log_weights - mixture.means.square().sum(1) / (2 * mixture.variance)

    def __call__(self, x: Tensor) -> Tensor:
        """log w [B] of points [B, 2]."""
        return self.mixture.log_density(x)

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(log w [B], gradient [B, 2]); in blocks of rows that stay in the processor's cache."""
        parts = [self._value_and_grad(part) for part in x.split(self.rows)]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = torch.addmm(self.offset, x, self.slope)
        share = logits.softmax(dim=1)
        # The largest share is exp(largest logit - logsumexp): one pass of exponentials serves both.
        log_total = logits.amax(dim=1) - share.amax(dim=1).log()
        variance = self.mixture.variance
        log_w = log_total - x.square().sum(1) / (2 * variance)
        return log_w, (share @ self.mixture.means - x) / variance


def grid() -> Mixture:
    """The base p: means {-4, -2, 0, 2, 4}^2, variance 0.15, equal weights."""
    axis = torch.arange(-4.0, 4.1, 2.0, dtype=torch.float64)
    means = torch.cartesian_prod(axis, axis)
    return Mixture(means, 0.15, torch.full((25,), -math.log(25), dtype=torch.float64))


def heart() -> Mixture:
    """The weight w: 160 Gaussians of standard deviation 0.5 along a heart curve."""
    u = torch.arange(160, dtype=torch.float64) * (2 * math.pi / 160)
    across = 16 * u.sin() ** 3
    upward = 13 * u.cos() - 5 * (2 * u).cos() - 2 * (3 * u).cos() - (4 * u).cos() + 2
    means = torch.stack([across, upward], dim=1) / 4
    return Mixture(means, 0.25, torch.full((160,), -math.log(160), dtype=torch.float64))


def float32(mixture: Mixture) -> Mixture:
    """The same mixture in single precision, for the clock's sake."""
    return Mixture(mixture.means.float(), mixture.variance, mixture.log_weights.float())


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = 128) -> float:
    """Sliced 2-Wasserstein distance of two equally large 2D samples, over evenly spread lines."""
    angle = torch.arange(directions, dtype=torch.float64) * (math.pi / directions)
    lines = torch.stack([angle.cos(), angle.sin()])
    first, second = (a.double() @ lines).sort(dim=0)[0], (b.double() @ lines).sort(dim=0)[0]
    return (first - second).square().mean(dim=0).mean().sqrt().item()
