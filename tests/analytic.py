"""Denoisers and weights with known answers, shared by the tests as `lags_pack.tests.analytic`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..demo.heart import Mixture


@dataclass
class Gaussian:
    """Base N(mean, variance I) with its exact denoiser."""

    mean: Tensor
    variance: float

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        noise = sigma.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1)) ** 2
        mean = self.mean.to(x.dtype)
        return (self.variance * x + noise * mean) / (self.variance + noise)


class LinearLogWeight:
    """log w = <slope, x0>, counting its evaluations; one slope for all samples, or one each."""

    name = "linear"

    def __init__(self, slope: Tensor) -> None:
        self.slope, self.calls = slope, 0

    def __call__(self, x: Tensor) -> Tensor:
        return (x.float() * self.slope.float()).flatten(1).sum(1)

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return self(x), self.slope.float().expand(x.shape).clone()


class Counted:
    """A denoiser that keeps what it was asked and what it answered."""

    def __init__(self, denoise: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.denoise = denoise
        self.asked: list[Tensor] = []
        self.answered: list[Tensor] = []

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.asked.append(x)
        self.answered.append(self.denoise(x, sigma))
        return self.answered[-1]

    @property
    def calls(self) -> int:
        return len(self.asked)


def sigmas(count: int, sigma: float) -> Tensor:
    """[count], all the same noise level."""
    return torch.full((count,), sigma)


def unit_mixture(dim: int, components: int, variance: float, seed: int) -> Mixture:
    """A mixture of unit total variance per coordinate, float64, unequal weights."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(components, dim, generator=generator, dtype=torch.float64)
    weights = torch.rand(components, generator=generator, dtype=torch.float64) + 0.5
    return Mixture(means * math.sqrt(1 - variance), variance, (weights / weights.sum()).log())


def noisy_draws(mixture: Mixture, count: int, sigma: float, seed: int) -> Tensor:
    """x0 + sigma * noise, [count, dim] float32."""
    generator = torch.Generator().manual_seed(seed)
    x0 = mixture.sample(count, generator)
    return x0 + sigma * torch.randn(x0.shape, generator=generator)


def mixture_jacobian_product(mixture: Mixture, x: Tensor, sigma: Tensor, v: Tensor) -> Tensor:
    """J v = Cov[x0 | x] v / sigma^2 in closed form, float64; shares no code with Mixture."""
    x, v, noise = x.double(), v.double(), sigma.double()[:, None] ** 2
    total = mixture.variance + noise
    distance = (x[:, None] - mixture.means[None]).square().sum(-1)
    share = (mixture.log_weights - distance / (2 * total)).softmax(1)[..., None]
    centre = (mixture.variance * x[:, None] + noise[:, None] * mixture.means) / total[:, None]
    mean = (share * centre).sum(1)
    away = centre - mean[:, None]
    between = (share * away * (away * v[:, None]).sum(-1, keepdim=True)).sum(1)
    return between / noise + mixture.variance / total * v


@dataclass
class PixelMixture:
    """Every coordinate on its own: +-a with Gaussian spread, unit variance. J is diagonal."""

    variance: float

    @property
    def peak(self) -> float:
        return math.sqrt(1 - self.variance)

    def sample(self, count: int, dim: int, generator: torch.Generator) -> Tensor:
        sign = torch.randn(count, dim, generator=generator).sign()
        noise = torch.randn(count, dim, generator=generator)
        return sign * self.peak + math.sqrt(self.variance) * noise

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        noise = sigma.to(x.dtype)[:, None] ** 2
        total = self.variance + noise
        return (self.variance * x + noise * self.peak * (self.peak * x / total).tanh()) / total

    def jacobian_product(self, x: Tensor, sigma: Tensor, v: Tensor) -> Tensor:
        noise, x, v = sigma.double()[:, None] ** 2, x.double(), v.double()
        total = self.variance + noise
        slope = 1 - (self.peak * x / total).tanh() ** 2
        return v * (self.variance + noise * self.peak**2 * slope / total) / total
