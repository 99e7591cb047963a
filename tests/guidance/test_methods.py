"""What every method promises, over METHODS: its cost, its record, one evaluation of D(x)."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from lags_pack import guidance
from lags_pack.guidance import METHODS, MPGD, Method
from lags_pack.tests.analytic import Counted, Gaussian, LinearLogWeight, sigmas
from torch import Tensor

BASE = Gaussian(torch.zeros(6), 0.5)
SLOPE = torch.linspace(-1.0, 1.0, 6)
LEVELS = (0.01, 0.3, 1.0, 8.0)


class ARun:
    """What a method may ask of a run."""

    sigmas = torch.tensor([*sorted(LEVELS, reverse=True), 0.0])

    def look_ahead(self, count: int, steps: int, seed: int) -> guidance.Lookahead:
        generator = torch.Generator().manual_seed(seed)
        samples = 0.5**0.5 * torch.randn(count, 6, generator=generator)
        return guidance.Lookahead(samples, samples @ SLOPE)


def bound(name: str, **changes: Any) -> Method:
    """A method of METHODS as people use it, in a run."""
    whole = {"window": guidance.Window(1.0, 0.0, 0.0, 1)} if name == "FreeDoM" else {}
    method = guidance.preset(name) if name in guidance.MODES else METHODS[name](**whole)
    return replace(method, **changes).bind(ARun())


def draw(level: float, count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = (0.5 + level**2) ** 0.5 * torch.randn(count, 6, generator=generator)
    return x, sigmas(count, level)


def denoiser(function: Any = BASE.denoise) -> guidance.AutogradDenoiser:
    return guidance.AutogradDenoiser(function)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", METHODS)
def test_the_record_is_complete_and_costs_what_was_said(name: str, level: float) -> None:
    method, (x, sigma) = bound(name), draw(level)
    model, weight = Counted(BASE.denoise), LinearLogWeight(SLOPE)
    _, record = method(denoiser(model), weight, x, sigma)
    cost = method.cost(sigma[:1])
    assert record.active == cost.is_guided and record.sigma_ve.tolist() == sigma.tolist()
    assert record.model_calls == model.calls == 1 + cost.takes_second
    json.dumps(record.to_dict())
    if not record.active:
        assert (record.weight_calls, record.model_backwards, weight.calls) == (0, 0, 0)
        return
    assert record.weight_calls == weight.calls == cost.gradients
    assert (record.value_calls, record.model_backwards) == (cost.values, cost.backwards)
    for values in ("alpha", "log_w", "predicted_gain", "shift_rms", "denoised_rms"):
        assert getattr(record, values).shape == (4,), values
    assert (record.predicted_gain >= 0).all() and record.seconds > 0


@pytest.mark.parametrize("name", METHODS)
def test_the_samplers_own_evaluation_is_made_once_and_passed_on(name: str) -> None:
    """D(x) comes from the step; what a method asks the denoiser for is a second evaluation."""
    method, (x, sigma) = bound(name), draw(1.0)
    own, other = Counted(BASE.denoise), Counted(BASE.denoise)
    step = guidance.Step(own=lambda: own(x, sigma))
    _, record = method(denoiser(other), LinearLogWeight(SLOPE), x, sigma, step)
    if method.through_model:
        assert (own.calls, other.calls) == (0, 1), "one forward serves both directions"
    else:
        assert (own.calls, other.calls) == (1, record.model_calls - 1)
    assert torch.equal(step.denoise(denoiser(other), x, sigma), BASE.denoise(x, sigma))
    assert own.calls + other.calls == record.model_calls, "known by now"


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_follows_float32(name: str) -> None:
    x, sigma = draw(1.0)
    weight = LinearLogWeight(SLOPE)
    changes = (
        {"difference": guidance.DifferenceStep(dtype=torch.float16)} if name == "paper" else {}
    )
    exact, _ = bound(name)(denoiser(), weight, x.half().float(), sigma)
    rough, _ = bound(name, **changes)(
        denoiser(lambda x, s: BASE.denoise(x.float(), s).to(x.dtype)), weight, x.half(), sigma
    )
    plain = BASE.denoise(x.half().float(), sigma)
    assert rough.dtype == torch.float16 and torch.isfinite(rough).all()
    assert not torch.equal(exact, plain)
    assert (rough.float() - exact).norm() < 0.05 * (exact - plain).norm() + 5e-3


def exact_ones() -> dict[str, Method]:
    """Those that claim it: the posterior mean of w p for Gaussian p and linear log w."""
    full = guidance.DifferenceStep(full=True, max_step=1e6)
    return {
        "paper": guidance.Paper(guidance.ConstantSchedule()),
        "balanced": guidance.Balanced(guidance.ConstantSchedule(), full),
        "DPS": METHODS["DPS"](),
    }


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["paper", "balanced", "DPS"])
def test_gaussian_data_and_a_linear_log_w_are_exact(name: str, level: float) -> None:
    x, sigma = draw(level)
    guided, _ = exact_ones()[name](denoiser(), LinearLogWeight(SLOPE), x, sigma)
    variance = 0.5 * level**2 / (0.5 + level**2)  # of the posterior
    expected = BASE.denoise(x, sigma) + variance * SLOPE
    torch.testing.assert_close(guided, expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("kind", [guidance.DPS, MPGD])
def test_rho_0_is_the_model_alone_and_less_is_refused(
    kind: type[guidance.DPS] | type[MPGD],
) -> None:
    x, sigma = draw(1.0)
    model, weight = Counted(BASE.denoise), LinearLogWeight(SLOPE)
    guided, record = kind(0.0)(denoiser(model), weight, x, sigma)
    assert torch.equal(guided, BASE.denoise(x, sigma)) and not record.active
    assert model.calls == 1 and weight.calls == 0
    assert not kind(0.0).cost(sigma).is_guided
    for rho in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"rho is {rho}; expected a finite number, 0 or more"):
            kind(rho)


@pytest.mark.parametrize("level", [0.5, 1.0, 4.0])
def test_mpgds_shift_in_closed_form(level: float) -> None:
    x, sigma = draw(level)
    guided, _ = MPGD(0.3)(denoiser(), LinearLogWeight(SLOPE), x, sigma)
    expected = BASE.denoise(x, sigma) + 0.3 * min(level**2, 1.0) * SLOPE
    torch.testing.assert_close(guided, expected)


def test_a_function_says_what_it_may_cost() -> None:
    def push(*_: Any) -> Tensor:
        raise NotImplementedError

    push.through_model, push.needs_gradient, push.name = True, False, "push"
    method, sigma = guidance.CustomMethod(push), torch.tensor([1.0, 2.0])
    cost = method.cost(sigma)
    assert (method.name, cost.backwards, cost.gradients) == ("push", 1, 0)
    assert cost.active.all() and not cost.takes_second and method.is_active(sigma).all()
    assert method.repeats(sigma).tolist() == [1, 1]


@pytest.mark.parametrize("size", [None, lambda v: v.square().mean(dim=1, keepdim=True).sqrt()])
def test_a_gradient_too_small_for_half_precision_comes_back(size: Any) -> None:
    """Sample by sample; one of zeros stays zero."""
    leaf = torch.ones(3, 4, requires_grad=True)
    output = (0.25 * leaf).half()
    v = torch.tensor([[1e-12], [1.0], [0.0]]) * torch.arange(1.0, 5.0)
    torch.testing.assert_close(
        guidance.scaled_vjp(output, leaf, v, size), 0.25 * v, rtol=1e-3, atol=0
    )
    lost = torch.autograd.grad((0.25 * leaf).half(), leaf, v.half())[0]
    assert (lost[0] == 0).all(), "without the scale it is gone"


@pytest.mark.parametrize(
    ("kind", "said"), [(guidance.FreeDoM, "noise levels"), (guidance.LiDAR, "lookahead")]
)
def test_what_needs_a_run_says_so(kind: type[Method], said: str) -> None:
    x, sigma = draw(1.0)
    with pytest.raises(ValueError, match=f"was not bound to a run.*{said}"):
        kind()(denoiser(), LinearLogWeight(SLOPE), x, sigma)
