"""LiDAR: the closed form where the set is all of the data, the right way on a mixture."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lags_pack.demo.heart import Mixture
from lags_pack.guidance import AutogradLogWeight, WeightError
from lags_pack.guidance.methods import LiDAR, Lookahead, few_steps, look_ahead
from lags_pack.guidance.particles import Ancestral
from lags_pack.tests.analytic import Counted, LinearLogWeight, noisy_draws, sigmas, unit_mixture
from torch import Tensor

SLOPE = torch.tensor([1.5, -0.5])
WEIGHT = LinearLogWeight(SLOPE)
LEVELS = torch.tensor([20.0, 9.0, 4.0, 1.8, 0.8, 0.35, 0.12, 0.0])


def data(count: int = 12, dim: int = 3) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(1))


def posterior_mean(points: Tensor, log_w: Tensor, x: Tensor, level: float) -> Tensor:
    """E[x0 | x] of points counting w each, float64, written without the code's rearrangement."""
    points, x = points.double(), x.double()
    logits = -(x[:, None] - points).square().sum(dim=-1) / (2 * level**2) + log_w.double()
    return logits.softmax(dim=1) @ points


@pytest.mark.parametrize("level", [0.3, 1.0, 5.0])
def test_exact_where_the_set_is_all_of_the_data(level: float) -> None:
    points = data()
    log_w = 2 * points[:, 0]
    x = points[:8] + level * torch.randn(8, 3, generator=torch.Generator().manual_seed(2))

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return posterior_mean(points, torch.zeros(12), x, level).float()

    method = LiDAR(lookahead=Lookahead(points, log_w), sigma_end=0.0)
    guided, record = method(denoise, WEIGHT, x, sigmas(8, level))
    exact = posterior_mean(points, log_w, x, level)
    torch.testing.assert_close(guided.double(), exact, rtol=1e-4, atol=1e-5)
    # The record's log w is log E[w | x].
    logits = -(x[:, None].double() - points).square().sum(dim=-1) / (2 * level**2)
    expected = (logits.softmax(dim=1) @ log_w.double().exp()).log()
    torch.testing.assert_close(record.log_w.double(), expected, rtol=1e-4, atol=1e-4)


def test_large_samples_keep_their_digits() -> None:
    """A latent of 16,000 numbers: |x|^2 / sigma^2 is beyond float32, the differences are not."""
    points = 3 + 1e-2 * data(5, 16384)
    log_w, level = torch.linspace(0, 1, 5), 0.5
    x = points[:2] + level * torch.randn(2, 16384, generator=torch.Generator().manual_seed(3))
    denoised = posterior_mean(points, torch.zeros(5), x, level)
    method = LiDAR(lookahead=Lookahead(points, log_w), sigma_end=0.0)
    guided, _ = method(lambda x, s: denoised.float(), WEIGHT, x, sigmas(2, level))
    exact = posterior_mean(points, log_w, x, level)
    error = (guided.double() - exact).norm() / (exact - denoised).norm()
    assert float(error) < 1e-3


@pytest.mark.parametrize("seed", [1, 2])
def test_moves_the_mean_of_a_mixture_the_right_way(seed: int) -> None:
    mixture = unit_mixture(dim=2, components=4, variance=0.3, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    start = LEVELS[0] * torch.randn(256, 2, generator=generator)
    ahead = look_ahead(mixture.denoise, WEIGHT, start, LEVELS)
    method = LiDAR(lookahead=ahead, sigma_end=0.1)
    levels = torch.cat([torch.logspace(math.log10(20), -1.3, 20), torch.zeros(1)])
    means = []
    for guided in (False, True):
        generator = torch.Generator().manual_seed(seed + 10)
        x = levels[0] * torch.randn(400, 2, generator=generator)
        for sigma, lower in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
            level = sigmas(len(x), sigma)
            if guided:
                denoised, _ = method(mixture.denoise, WEIGHT, x, level)
            else:
                denoised = mixture.denoise(x, level)
            chain = Ancestral()
            noise = torch.randn(x.shape, generator=generator)
            x = chain.mean(x, denoised, sigma, lower) + chain.noise_std(sigma, lower) * noise
        means.append(x.mean(dim=0))
    # A linear log w tilts a mixture in closed form: means move by variance * slope.
    tilt = mixture.log_weights + mixture.means @ SLOPE.double()
    target = tilt.softmax(0) @ mixture.means + mixture.variance * SLOPE.double()
    wanted = float((target.float() - means[0]) @ SLOPE)
    reached = float((means[1] - means[0]) @ SLOPE)
    assert 0.5 * wanted < reached < 1.3 * wanted


def test_few_steps_follow_the_probability_flow() -> None:
    """A Gaussian's flow is known: x0 = mean + spread / sqrt(spread^2 + sigma^2) (x - mean)."""
    mixture = Mixture(torch.tensor([[1.0, -2.0]]).double(), 0.25, torch.zeros(1).double())
    x = 20 * torch.randn(64, 2, generator=torch.Generator().manual_seed(4)).double()
    exact = mixture.means + 0.5 / (0.25 + 400) ** 0.5 * (x - mixture.means)
    errors = []
    for steps in (10, 20, 40):
        levels = torch.cat([torch.logspace(math.log10(20), -2, steps), torch.zeros(1)]).double()
        end = few_steps(mixture.denoise, x, levels)
        errors.append(float((end - exact).square().mean().sqrt()))
    assert errors[0] < 0.1
    assert errors[2] < errors[1] / 3 < errors[0] / 9, "second order"
    twice = torch.cat([levels[:9], levels[8:]])
    assert torch.equal(few_steps(mixture.denoise, x, twice), end), "a level may repeat"


def test_a_batch_equals_its_singles_bit_for_bit() -> None:
    x = 1.4 * data(4)

    def halved(x: Tensor, sigma: Tensor) -> Tensor:  # no matrix product, whose bits vary
        return x / 2

    each = Lookahead(torch.stack([data(), data() + 1, -data(), 2 * data()]), data(12, 4).T)
    for ahead in (Lookahead(data(), data()[:, 0]), each):
        batch, _ = LiDAR(lookahead=ahead)(halved, WEIGHT, x, sigmas(4, 1.0))
        for i in range(4):
            own = ahead if ahead.log_w.ndim == 1 else Lookahead(ahead.samples[i], ahead.log_w[i])
            single, _ = LiDAR(lookahead=own)(halved, WEIGHT, x[i : i + 1], sigmas(1, 1.0))
            assert torch.equal(single[0], batch[i])


def test_calls_scale_and_end() -> None:
    mixture = unit_mixture(dim=2, components=3, variance=0.3, seed=7)
    model, weight = Counted(mixture.denoise), LinearLogWeight(SLOPE)
    x = noisy_draws(mixture, 4, 1.0, seed=8)
    ahead = look_ahead(model, weight, 20 * data(10, 2), LEVELS)
    assert model.calls == 7 and ahead.samples.shape == (10, 2)
    plain = mixture.denoise(x, sigmas(4, 1.0))
    once, record = LiDAR(lookahead=ahead)(model, weight, x, sigmas(4, 1.0))
    twice, _ = LiDAR(lookahead=ahead, scale=2.0)(model, weight, x, sigmas(4, 1.0))
    torch.testing.assert_close(twice - plain, 2 * (once - plain))
    assert record.active and record.model_calls == 1 and record.weight_calls == 0
    assert weight.calls == 0, "no gradient of the weight at all"
    for method, level in ((LiDAR(lookahead=ahead, scale=0.0), 1.0), (LiDAR(lookahead=ahead), 0.5)):
        same, record = method(model, weight, x, sigmas(4, level))
        assert torch.equal(same, mixture.denoise(x, sigmas(4, level))) and not record.active
    mixed, _ = LiDAR(lookahead=ahead, sigma_end=0.8)(
        model, weight, x, torch.tensor([1.0, 0.5, 1.0, 0.5])
    )
    assert torch.equal(mixed[1], mixture.denoise(x, sigmas(4, 0.5))[1])
    assert torch.equal(mixed[0], once[0])
    finished, record = LiDAR(lookahead=ahead, sigma_end=0.0)(model, weight, x, sigmas(4, 0.0))
    assert torch.equal(finished, mixture.denoise(x, sigmas(4, 0.0))) and not record.active


def test_a_set_that_all_share_goes_to_the_device_once() -> None:
    class Noted(Tensor):
        moved = 0

        def to(self, *args: Any, **options: Any) -> Tensor:
            Noted.moved += self.shape == data().shape
            return super().to(*args, **options)

    ahead = Lookahead(data().as_subclass(Noted), data()[:, 0])
    LiDAR(lookahead=ahead)(lambda x, _: x / 2, WEIGHT, data(4), sigmas(4, 1.0))
    assert Noted.moved == 1


def test_weights_of_zero_and_refusals() -> None:
    points, log_w = data(), torch.full((12,), -math.inf)
    log_w[3] = 0.0
    method = LiDAR(lookahead=Lookahead(points, log_w))
    guided, record = method(lambda x, s: x, WEIGHT, torch.zeros(2, 3), sigmas(2, 30.0))
    assert torch.isfinite(guided).all() and torch.isfinite(record.predicted_gain).all()
    with pytest.raises(ValueError, match="Every lookahead sample has weight zero"):
        Lookahead(points, torch.full((12,), -math.inf))
    with pytest.raises(ValueError, match="NaN or plus infinity"):
        Lookahead(points, torch.full((12,), math.nan))
    for bad in (torch.zeros(11), torch.zeros(0), torch.zeros(())):
        with pytest.raises(ValueError, match="expected .n, .*and .n."):
            Lookahead(points, bad)
    with pytest.raises(ValueError, match="was not bound to a run"):
        LiDAR()(lambda x, s: x, WEIGHT, torch.zeros(2, 3), sigmas(2, 30.0))
    with pytest.raises(ValueError, match=r"from \(3,\) to \(4,\).*keeps the size"):
        method(lambda x, s: x, WEIGHT, torch.zeros(2, 4), sigmas(2, 30.0))
    with pytest.raises(ValueError, match="scale is -1"):
        LiDAR(scale=-1.0)
    broken = AutogradLogWeight(lambda x: x.sum(dim=1) * math.nan, "broken")
    with pytest.raises(WeightError, match="'broken' has a value that is not finite"):
        look_ahead(lambda x, s: x, broken, points, LEVELS)
