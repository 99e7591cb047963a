"""The 2D heart: its closed forms against autograd and moments, and the benchmark's direction."""

from __future__ import annotations

import math

import pytest
import torch
from lags_pack.benchmarks import heart as benchmark
from lags_pack.demo import heart
from lags_pack.demo.heart import Mixture, MixtureLogWeight
from lags_pack.guidance import Paper, UncertaintySchedule
from lags_pack.tests.analytic import sigmas, unit_mixture
from torch import Tensor


def points(count: int, spread: float = 3.0, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(count, 2, generator=generator, dtype=torch.float64)


def log_density(mixture: Mixture, x: Tensor) -> Tensor:
    """log p [B] written out, with all constants."""
    dim, variance = mixture.means.shape[1], mixture.variance
    distance = (x[:, None] - mixture.means[None]).square().sum(-1)
    logits = mixture.log_weights - distance / (2 * variance)
    return logits.logsumexp(1) - dim / 2 * math.log(2 * math.pi * variance)


def test_the_target_is_the_base_times_the_weight() -> None:
    """log q - log p - log w is one constant, the normaliser; and q is normalised."""
    base, weight = heart.grid(), heart.heart()
    target, x = base.times(weight), points(200)
    gap = log_density(target, x) - log_density(base, x) - log_density(weight, x)
    assert (gap - gap[0]).abs().max() < 1e-8
    for mixture in (base, weight, target):
        assert mixture.log_weights.exp().sum().item() == pytest.approx(1)


def test_log_density_is_up_to_one_constant() -> None:
    for mixture in (heart.grid(), heart.heart()):
        gap = mixture.log_density(points(50)) - log_density(mixture, points(50))
        assert (gap - gap[0]).abs().max() < 1e-9
    one = Mixture(torch.ones(1, 2).double(), 0.3, torch.zeros(1).double())
    assert one.log_density(torch.ones(1, 2).double()).item() == pytest.approx(0)


@pytest.mark.parametrize("level", [0.05, 0.5, 2.0, 20.0])
def test_the_denoiser_is_tweedies(level: float) -> None:
    """D = x + sigma^2 grad log p_sigma, the density by autograd; a noise level per sample."""
    for mixture in (heart.grid(), unit_mixture(2, 4, 0.3, 2)):
        x, sigma = points(50), sigmas(50, level).double()
        leaf = x.clone().requires_grad_()
        noisy = Mixture(mixture.means, mixture.variance + level**2, mixture.log_weights)
        (score,) = torch.autograd.grad(log_density(noisy, leaf).sum(), leaf)
        assert torch.allclose(mixture.denoise(x, sigma), x + level**2 * score, atol=1e-6)
        sigma = level * torch.linspace(1, 3, 50).double()
        alone = [mixture.denoise(x[i : i + 1], sigma[i : i + 1]) for i in range(50)]
        assert torch.allclose(mixture.denoise(x, sigma), torch.cat(alone))


def test_the_weights_gradient_is_autograds() -> None:
    weight, x = MixtureLogWeight(heart.heart(), rows=16), points(50)  # more than one block of rows
    leaf = x.clone().requires_grad_()
    log_w = log_density(heart.heart(), leaf)
    (expected,) = torch.autograd.grad(log_w.sum(), leaf)
    value, grad = weight.value_and_grad(x)
    assert torch.allclose(grad, expected, atol=1e-9)
    assert torch.allclose(value, weight(x), atol=1e-9)
    assert torch.allclose(value - log_w.detach(), (value - log_w.detach())[:1], atol=1e-9)
    single = MixtureLogWeight(heart.float32(heart.heart())).value_and_grad(x.float())
    assert torch.allclose(single[0].double(), value, atol=2e-3)
    assert torch.allclose(single[1].double(), grad, atol=2e-3)


def test_exact_draws_have_the_mixtures_moments() -> None:
    means, shares = torch.tensor([[-2.0, 0.0], [3.0, 1.0]]).double(), torch.tensor([0.25, 0.75])
    mixture = Mixture(means, 0.5, shares.log())
    drawn = mixture.sample(40_000, torch.Generator().manual_seed(3)).double()
    assert torch.allclose(drawn.mean(0), torch.tensor([1.75, 0.75]).double(), atol=0.05)
    spread = torch.tensor([0.5 + 0.1875 * 25, 0.5 + 0.1875]).double()
    assert torch.allclose(drawn.var(0), spread, rtol=0.03)


def test_the_grid_and_the_heart_are_what_they_say() -> None:
    base, curve = heart.grid().means, heart.heart().means
    assert base.shape == (25, 2) and base.abs().max() == 4
    assert base.var(0, correction=0).tolist() == pytest.approx([8, 8])
    assert curve.shape == (160, 2)
    assert curve[:, 0].max().item() == pytest.approx(4, abs=0.01)
    assert curve[0].tolist() == pytest.approx([0, 7 / 4])  # the dent: (13 - 5 - 2 - 1 + 2) / 4
    assert curve[80].tolist() == pytest.approx([0, -15 / 4])  # the tip


# ---- the distance ------------------------------------------------------------------------------


def test_sliced_wasserstein_of_a_shift_and_of_a_scale() -> None:
    """A shift by d moves the projection on each line by |d| cos: |d| / sqrt(2) over all lines."""
    a = points(500)
    b = (a + torch.tensor([3.0, 4.0])).flip(0)
    assert heart.sliced_wasserstein(a, b) == pytest.approx(5 / math.sqrt(2), rel=1e-6)
    assert heart.sliced_wasserstein(a, a.flip(0)) == 0
    assert heart.sliced_wasserstein(b, a) == heart.sliced_wasserstein(a, b)
    # Centred points scaled by 2: the RMS of their projections.
    a = points(2000)
    expected = math.sqrt(a.square().sum(1).mean().item() / 2)
    assert heart.sliced_wasserstein(a, 2 * a) == pytest.approx(expected, rel=1e-6)


# ---- the benchmark -----------------------------------------------------------------------------


def test_lags_comes_closer_to_the_target_than_plain_sampling() -> None:
    """2,000 samples, 40 steps: the order plain > LAGS c = 10 > exact score, with room."""
    distance, problem = {}, benchmark.heart_problem()
    for name, c in (("plain", None), ("LAGS", 10.0)):
        method = None if c is None else Paper(schedule=UncertaintySchedule(c))
        drawn, trace = benchmark.run(method, 0, problem, steps=40, samples=2000)
        assert drawn.shape == (2000, 2) and torch.isfinite(drawn).all()
        assert trace.model_calls == (0 if c is None else 80)
        distance[name] = benchmark.score(drawn, 0, problem)
    solved = benchmark.run_exact(0, problem, steps=40, samples=2000)
    exact = benchmark.score(solved, 0, problem)
    assert distance["LAGS"]["sliced W2"] < 0.8 * distance["plain"]["sliced W2"]
    assert exact["sliced W2"] < 0.5 * distance["LAGS"]["sliced W2"]
    assert distance["LAGS"]["% off support"] < 0.3 * distance["plain"]["% off support"]
