"""DPS: agreement with LAGS where the Jacobian is symmetric, the two forms, refusals."""

from __future__ import annotations

import pytest
import torch
from lags_pack.guidance import (
    AutogradDenoiser,
    AutogradLogWeight,
    ConstantSchedule,
    DifferenceStep,
    Paper,
    WeightError,
)
from lags_pack.guidance.contracts import ModelError
from lags_pack.guidance.methods.dps import DPS
from lags_pack.tests.analytic import (
    Counted,
    LinearLogWeight,
    mixture_jacobian_product,
    noisy_draws,
    sigmas,
    unit_mixture,
)
from torch import Tensor

LEVELS = [0.05, 0.3, 1.0, 4.0]


def quadratic(x: Tensor) -> Tensor:
    return -(x - 0.7).square().sum(dim=1) - 0.1


WEIGHT = AutogradLogWeight(quadratic, "quadratic")
INVERSE = AutogradLogWeight(lambda x: -quadratic(x), "inverse")


@pytest.mark.parametrize("level", LEVELS)
def test_agrees_with_lags_on_a_mixture(level: float) -> None:
    """A mixture's Jacobian is symmetric, so backward (J^T v) and difference (J v) are one."""
    mixture = unit_mixture(dim=6, components=4, variance=0.2, seed=1)
    x, sigma = noisy_draws(mixture, 32, level, seed=2).double(), sigmas(32, level).double()
    lags = Paper(ConstantSchedule(), difference=DifferenceStep(relative=0.005))
    plain = mixture.denoise(x, sigma)
    # One difference forward and one back (the weight's inverse asks for that): its error is of
    # second order, so that what is left is float32's.
    forward = lags(mixture.denoise, WEIGHT, x, sigma)[0] - plain
    back = lags(mixture.denoise, INVERSE, x, sigma)[0] - plain
    dps, record = DPS()(AutogradDenoiser(mixture.denoise), WEIGHT, x, sigma)
    shift = dps - plain
    size = float(shift.abs().max())
    assert size > 1e-3, "there is something to agree on"
    assert float((shift - (forward - back) / 2).abs().max()) < 1e-4 * max(1.0, size)
    assert float((shift - forward).abs().max()) < 0.02 * size
    assert record.active and record.model_calls == record.weight_calls == 1


@pytest.mark.parametrize("rho", [0.5, 2.0])
@pytest.mark.parametrize("level", LEVELS)
def test_shift_in_closed_form(level: float, rho: float) -> None:
    mixture = unit_mixture(dim=3, components=3, variance=0.3, seed=3)
    x, sigma = noisy_draws(mixture, 8, level, seed=4), sigmas(8, level)
    plain = mixture.denoise(x, sigma)
    log_w, v = WEIGHT.value_and_grad(plain)
    expected = rho * level**2 * mixture_jacobian_product(mixture, x, sigma, v)
    guided, record = DPS(rho)(AutogradDenoiser(mixture.denoise), WEIGHT, x, sigma)
    torch.testing.assert_close((guided - plain).double(), expected, rtol=2e-4, atol=1e-5)
    torch.testing.assert_close(record.log_w, log_w)
    normalised, _ = DPS(rho, normalised=True)(AutogradDenoiser(mixture.denoise), WEIGHT, x, sigma)
    divided = expected / log_w.double().abs()[:, None]
    torch.testing.assert_close((normalised - plain).double(), divided, rtol=2e-4, atol=1e-5)


def test_backward_and_not_forward_product() -> None:
    """On a denoiser whose Jacobian is not symmetric the two differ, and DPS takes J^T v."""
    matrix, slope = torch.tensor([[0.3, 0.9], [-0.2, 0.5]]), torch.tensor([1.0, 2.0])
    denoiser, x = AutogradDenoiser(lambda x, s: x @ matrix.T), torch.ones(1, 2)
    guided, _ = DPS()(denoiser, LinearLogWeight(slope), x, sigmas(1, 2.0))
    shift = guided - x @ matrix.T
    torch.testing.assert_close(shift[0], 4.0 * matrix.T @ slope)
    assert not torch.allclose(shift[0], 4.0 * matrix @ slope)


def test_normalised_form_does_not_divide_by_nothing() -> None:
    weight = AutogradLogWeight(lambda x: x.sum(dim=1) - x.sum(dim=1).detach(), "zero")
    mixture = unit_mixture(dim=2, components=2, variance=0.5, seed=5)
    x, sigma = noisy_draws(mixture, 4, 0.5, seed=6), sigmas(4, 0.5)
    plain = mixture.denoise(x, sigma)
    once = DPS()(AutogradDenoiser(mixture.denoise), weight, x, sigma)[0] - plain
    shift = DPS(normalised=True)(AutogradDenoiser(mixture.denoise), weight, x, sigma)[0] - plain
    torch.testing.assert_close(shift, once * 1000, rtol=1e-3, atol=1e-3)


def test_one_forward_and_no_graph_left() -> None:
    mixture = unit_mixture(dim=2, components=2, variance=0.5, seed=9)
    model = Counted(mixture.denoise)
    x, sigma = noisy_draws(mixture, 3, 1.0, seed=10), sigmas(3, 1.0)
    with torch.inference_mode():  # where ComfyUI runs its nodes
        guided, _ = DPS()(AutogradDenoiser(model), WEIGHT, x.clone(), sigma.clone())
    assert model.calls == 1 and not guided.requires_grad
    outside, _ = DPS()(AutogradDenoiser(mixture.denoise), WEIGHT, x, sigma)
    torch.testing.assert_close(guided, outside)


def test_refusals() -> None:
    x, sigma = torch.zeros(2, 3), sigmas(2, 1.0)
    black = AutogradLogWeight(lambda d: d.detach().sum(dim=1), "jury")
    with pytest.raises(WeightError, match="'jury' gives no gradient, which guidance needs"):
        DPS()(AutogradDenoiser(lambda x, s: x), black, x, sigma)
    with pytest.raises(ModelError, match="not finite at noise level sigma = 1"):
        DPS()(AutogradDenoiser(lambda x, s: x / 0), WEIGHT, x, sigma)
    with pytest.raises(TypeError, match="without vjp.*AutogradDenoiser"):
        DPS()(lambda x, s: x, WEIGHT, x, sigma)
