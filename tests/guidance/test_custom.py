"""A method of one function is sampled, counted and checked like any other."""

from __future__ import annotations

import pytest
import torch
from lags_pack.guidance import AutogradDenoiser, AutogradLogWeight, ConstantSchedule, Fast, Step
from lags_pack.guidance.contracts import ModelError, WeightError
from lags_pack.guidance.methods.custom import CustomMethod
from lags_pack.guidance.methods.dps import DPS
from lags_pack.tests.analytic import Counted, noisy_draws, sigmas, unit_mixture
from torch import Tensor

WEIGHT = AutogradLogWeight(lambda x: -(x - 0.7).square().sum(dim=1), "quadratic")
MIXTURE = unit_mixture(dim=6, components=4, variance=0.2, seed=1)
LEVEL = 0.8


def fast(denoiser, log_weight, x: Tensor, sigma_ve: Tensor) -> Tensor:
    """LAGS without the Jacobian, alpha = 1."""
    denoised = denoiser(x, sigma_ve)
    _, v = log_weight.value_and_grad(denoised)
    return denoised + sigma_ve[:, None] ** 2 * v


@pytest.fixture
def draws() -> tuple[Tensor, Tensor]:
    return noisy_draws(MIXTURE, 5, LEVEL, seed=2), sigmas(5, LEVEL)


def test_the_same_function_is_the_same_method(draws: tuple[Tensor, Tensor]) -> None:
    lags = Fast(ConstantSchedule())
    expected, theirs = lags(MIXTURE.denoise, WEIGHT, *draws)
    guided, ours = CustomMethod(fast)(MIXTURE.denoise, WEIGHT, *draws)
    assert torch.allclose(guided, expected, atol=1e-6)
    for name in ("alpha", "log_w", "shift_rms", "denoised_rms"):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-4), name
    assert (ours.model_calls, ours.weight_calls, ours.value_calls) == (1, 1, 0)
    assert ours.active and ours.seconds > 0


def test_every_call_is_counted_and_the_first_picture_is_the_plain_one(
    draws: tuple[Tensor, Tensor],
) -> None:
    def greedy(denoiser, log_weight, x: Tensor, sigma_ve: Tensor) -> Tensor:
        plain, other = denoiser(x, sigma_ve), denoiser(x + 0.1, sigma_ve)
        better = log_weight(other) > log_weight(plain)
        return torch.where(better[:, None], other, plain)

    guided, record = CustomMethod(greedy)(MIXTURE.denoise, WEIGHT, *draws)
    plain = MIXTURE.denoise(*draws)
    assert (record.model_calls, record.weight_calls, record.value_calls) == (2, 0, 2)
    assert record.predicted_gain is None
    assert torch.equal(record.log_w, WEIGHT(MIXTURE.denoise(draws[0] + 0.1, draws[1])))
    assert torch.allclose(record.shift_rms, (guided - plain).square().mean(dim=1).sqrt())
    assert (WEIGHT(guided) >= WEIGHT(plain)).all() and not torch.equal(guided, plain)


@pytest.mark.parametrize("again", [lambda x: x, lambda x: x.float(), lambda x: x.clone()])
def test_the_steps_own_sample_is_evaluated_once(again, draws: tuple[Tensor, Tensor]) -> None:
    """However the function writes x, it is the sampler's own evaluation that it gets."""
    x, sigma = draws[0].half().double(), draws[1].double()
    model, asked = Counted(MIXTURE.denoise), Counted(MIXTURE.denoise)
    step = Step(own=lambda: model(x, sigma))

    def twice(denoiser, log_weight, x: Tensor, sigma_ve: Tensor) -> Tensor:
        first = denoiser(again(x), sigma_ve)
        assert torch.equal(denoiser(x, sigma_ve).to(first), first)
        return first.to(x)

    guided, record = CustomMethod(twice)(asked, WEIGHT, x, sigma, step)
    assert (model.calls, asked.calls, record.model_calls) == (1, 0, 1)


def test_a_step_without_the_weight_is_plain(draws: tuple[Tensor, Tensor]) -> None:
    guided, record = CustomMethod(lambda d, w, x, s: d(x, s))(MIXTURE.denoise, WEIGHT, *draws)
    assert torch.equal(guided, MIXTURE.denoise(*draws))
    assert not record.active and record.log_w is None and (record.shift_rms == 0).all()


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        (lambda d, w, x, s: d(x, s)[:2], ModelError, r"shape \(2, 6\).* expected .*like x"),
        (lambda d, w, x, s: d(x, s) / 0 * 0, ModelError, r"sigma = 0.8.* fault lies in the method"),
        (lambda d, w, x, s: d(x / 0, s), ModelError, "model's own output is not finite"),
        (lambda d, w, x, s: None, ModelError, r"type NoneType for x of shape \(5, 6\)"),
        (lambda d, w, x, s: (d(x, s), None), ModelError, "type tuple"),
        (lambda d, w, x, s: d(x, s / 2), ModelError, "evaluates at noise level 0.4, .* 0.8 only"),
        (lambda d, w, x, s: d.vjp(x, s / 2)[0], ModelError, "evaluates at noise level 0.4"),
        (lambda d, w, x, s: w.value_and_grad(x[:, :0])[1], WeightError, "no gradient"),
    ],
)
def test_what_would_spoil_a_picture_is_refused(function, error, said, draws) -> None:
    weight = (
        AutogradLogWeight(lambda x: torch.zeros(len(x)), "flat") if error is WeightError else WEIGHT
    )
    with pytest.raises(error, match=said):
        CustomMethod(function)(MIXTURE.denoise, weight, *draws)


def test_a_method_through_the_model_is_dps(draws: tuple[Tensor, Tensor]) -> None:
    def dps(denoiser, log_weight, x: Tensor, sigma_ve: Tensor) -> Tensor:
        denoised, pull = denoiser.vjp(x, sigma_ve)
        _, v = log_weight.value_and_grad(denoised)
        return denoised + sigma_ve[:, None] ** 2 * pull(v)

    expected, theirs = DPS()(AutogradDenoiser(MIXTURE.denoise), WEIGHT, *draws)
    guided, ours = CustomMethod(dps)(AutogradDenoiser(MIXTURE.denoise), WEIGHT, *draws)
    assert torch.allclose(guided, expected, atol=1e-5)
    counts = (ours.model_calls, ours.model_backwards, ours.weight_calls)
    assert counts == (theirs.model_calls, theirs.model_backwards, theirs.weight_calls) == (1, 1, 1)


def test_it_has_the_models_dtype_and_no_graph(draws: tuple[Tensor, Tensor]) -> None:
    x, sigma = draws
    slope = torch.ones(x.shape[1], requires_grad=True)

    def function(denoiser, log_weight, x, sigma_ve):
        return denoiser(x, sigma_ve).float() + slope

    guided, record = CustomMethod(function)(lambda x, sigma: x / 2, WEIGHT, x.half(), sigma)
    assert guided.dtype == torch.float16 and not guided.requires_grad
    assert record.shift_rms is not None and not record.shift_rms.requires_grad


def test_more_pictures_than_the_batch_may_be_weighed(draws: tuple[Tensor, Tensor]) -> None:
    """Two of each, say; what stands in the trace is of the batch."""

    def antithetic(denoiser, log_weight, x: Tensor, sigma_ve: Tensor) -> Tensor:
        denoised = denoiser(x, sigma_ve)
        both = torch.cat([denoised + 0.1, denoised - 0.1])
        log_w = log_weight(both).unflatten(0, (2, -1)) + 0 * log_weight.value_and_grad(both)[0][0]
        return torch.where((log_w[0] > log_w[1])[:, None], denoised + 0.1, denoised - 0.1)

    _, record = CustomMethod(antithetic)(MIXTURE.denoise, WEIGHT, *draws)
    assert record.log_w is None and record.predicted_gain is None
    assert (record.weight_calls, record.value_calls) == (1, 1)
