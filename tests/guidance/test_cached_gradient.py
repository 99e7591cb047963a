"""One gradient of log w for several evaluations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lags_pack.guidance import (
    AutogradLogWeight,
    CachedGradient,
    ChordSchedule,
    Measured,
    Paper,
    plan,
    preset,
)
from torch import Tensor

POINTS = [torch.randn(3, 4, generator=torch.Generator().manual_seed(i)) for i in range(7)]


def bent(x: Tensor) -> Tensor:
    return (x.sin() + 0.3 * x).sum(dim=1)


class Counted(AutogradLogWeight):
    def __init__(self) -> None:
        super().__init__(bent, "bent")
        self.gradients = 0

    def value_and_grad(self, denoised: Tensor) -> tuple[Tensor, Tensor]:
        self.gradients += 1
        return super().value_and_grad(denoised)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_the_gradient_is_computed_at_every_kth_time(every: int) -> None:
    weight = Counted()
    cached, fresh = CachedGradient(weight, every), []
    for i, point in enumerate(POINTS):
        log_w, v = cached.value_and_grad(point)
        fresh.append(cached.is_fresh)
        first = POINTS[i - i % every]
        value, gradient = AutogradLogWeight(bent, "").value_and_grad(first)
        assert torch.equal(v, gradient)
        along = value + (gradient * (point - first)).sum(dim=1)
        assert torch.allclose(log_w, along, atol=1e-6)
    assert fresh == [i % every == 0 for i in range(len(POINTS))]
    assert weight.gradients == sum(fresh)


def test_every_time_is_the_weight_itself_bit_for_bit_and_values_are_never_kept() -> None:
    cached, weight, seldom = CachedGradient(Counted(), 1), Counted(), CachedGradient(Counted(), 5)
    for point in POINTS:
        pairs = zip(cached.value_and_grad(point), weight.value_and_grad(point), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
        assert torch.equal(cached(point), weight(point))
        seldom.value_and_grad(POINTS[0])
        assert torch.equal(seldom(point), bent(point))


def test_a_line_goes_on_exactly() -> None:
    line = AutogradLogWeight(lambda x: 2 * x.sum(dim=1), "line")
    cached = CachedGradient(line, 10)
    for point in POINTS:
        assert torch.allclose(cached.value_and_grad(point)[0], line(point), atol=1e-5)


def test_log_w_is_asked_for_anew_where_it_is_compared_with_other_values() -> None:
    """Red before: what the tangent had missed was taken for what the shift gained or lost."""
    weight = Counted()
    cached = CachedGradient(weight, 3, compares_values=True)
    for i, point in enumerate(POINTS):
        log_w, v = cached.value_and_grad(point)
        first = POINTS[i - i % 3]
        assert torch.equal(v, AutogradLogWeight(bent, "").value_and_grad(first)[1])
        assert torch.allclose(log_w, bent(point), atol=1e-6)
    assert (weight.gradients, cached.computed, cached.asked) == (3, 3, 4)


def test_a_measured_alpha_goes_by_what_really_comes_of_a_reused_gradient() -> None:
    """Red before: the gain was counted from where the tangent had gone on to."""

    def parabola(x: Tensor) -> Tensor:
        return -0.5 * (x - 0.3).square().sum(dim=1)

    def halved(x: Tensor, sigma_ve: Tensor) -> Tensor:
        return x / 2

    method = replace(preset("paper"), schedule=ChordSchedule(1.0), skip_below=0.0)
    weight = CachedGradient(AutogradLogWeight(parabola, ""), 2, method.compares_values)
    sigma, x = torch.ones(8), torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    method(halved, weight, x, sigma)
    _, record = method(halved, weight, x + 0.6, sigma)
    v, denoised = 0.3 - x / 2, (x + 0.6) / 2
    gain = parabola(denoised + v / 2) - parabola(denoised)
    exact = method.schedule.alpha(sigma, Measured(v.square().sum(dim=1) / 2, gain))
    assert record.alpha is not None and torch.allclose(record.alpha, exact, atol=1e-3)


@pytest.mark.parametrize("make", [lambda: CachedGradient(Counted(), 0), lambda: Paper(reuse=0)])
def test_less_than_one_is_refused(make: object) -> None:
    with pytest.raises(ValueError, match="0.*expected 1 or more"):
        make()  # type: ignore[operator]


def exploding(sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
    return latent + sigma.view(-1, 1, 1, 1) * noise


def test_the_plan_counts_what_is_left() -> None:
    levels = torch.cat([torch.logspace(1.3, -1.5, 11), torch.zeros(1)])
    paper = preset("paper")
    for every, gradients in ((1, 11), (2, 6), (4, 3), (20, 1)):
        made = plan(replace(paper, reuse=every), levels, exploding)
        assert made.weight_calls == gradients
        measuring = replace(paper, reuse=every, schedule=ChordSchedule(1.0))
        assert plan(measuring, levels, exploding).value_calls == 11 + 11 - gradients


def test_a_sample_of_another_size_gets_a_gradient_of_its_own() -> None:
    """Samplers that enlarge the samples during a run ask for one in between."""

    def brightness(x: Tensor) -> Tensor:
        return x.sin().sum(dim=(1, 2, 3))

    cached = CachedGradient(AutogradLogWeight(brightness, "brightness"), 4)
    for size in (2, 2, 3, 3):
        assert cached.value_and_grad(torch.ones(1, 1, size, size))[1].shape == (1, 1, size, size)
    assert cached.computed == 2
