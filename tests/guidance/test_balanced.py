"""Going the whole way: exact for a line and any p, and exact for the chain that a sampler runs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from lags_pack import guidance
from lags_pack.demo.heart import Mixture
from lags_pack.demo.sampler import karras_sigmas
from lags_pack.guidance import Balanced, ChordSchedule, ancestral_keep, step_correction
from lags_pack.tests.analytic import Counted, LinearLogWeight, sigmas
from torch import Tensor

BASE = Mixture(
    torch.tensor([[-3.0, 0.0], [0.0, 2.0], [2.0, -1.0]], dtype=torch.float64),
    0.2,
    torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log(),
)
FULL = guidance.DifferenceStep(full=True, max_step=1000.0)  # in a plane, and with exact denoisers


def tilted(slope: Tensor) -> Mixture:
    """exp(slope . x) p: each mean moves by variance * slope, and counts exp(...) as much."""
    gain = BASE.means @ slope + BASE.variance * slope.square().sum() / 2
    logits = BASE.log_weights + gain
    return Mixture(
        BASE.means + BASE.variance * slope, BASE.variance, logits - logits.logsumexp(dim=0)
    )


@pytest.mark.parametrize("level", [0.1, 0.5, 1.5, 6.0])
@pytest.mark.parametrize("schedule", [guidance.ConstantSchedule(), ChordSchedule()])
def test_a_line_is_tilted_exactly_whatever_p_is(level: float, schedule: object) -> None:
    """Strong slopes, far from a Gaussian p, where the derivative alone is off by half."""
    slope = torch.tensor([1.5, -1.0], dtype=torch.float64)
    x = BASE.sample(64, torch.Generator().manual_seed(0)).double()
    x = x + level * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    sigma, weight = sigmas(64, level), LinearLogWeight(slope)
    exact = tilted(slope).denoise(x, sigma)
    method = Balanced(schedule=schedule, difference=FULL)
    found, record = method(BASE.denoise, weight, x, sigma)
    assert (found - exact).abs().max() < 1e-4
    assert torch.allclose(record.alpha, torch.ones(64), atol=1e-4)
    if level > 1:
        first_order, _ = guidance.Paper(schedule=guidance.ConstantSchedule())(
            BASE.denoise, weight, x, sigma
        )
        assert (first_order - exact).abs().max() > 0.5


class Trials(LinearLogWeight):
    """A line whose gradient is in order, while its value elsewhere is what the test says."""

    def __init__(self, slope: Tensor, value: float | None = None) -> None:
        super().__init__(slope)
        self.value, self.tried = value, []

    def __call__(self, denoised: Tensor) -> Tensor:
        self.tried.append(denoised)
        right = super().__call__(denoised)
        return right if self.value is None else torch.full_like(right, self.value)

    def value_and_grad(self, denoised: Tensor) -> tuple[Tensor, Tensor]:
        return super().__call__(denoised), self.slope.expand_as(denoised)


def test_the_trial_is_the_shifted_sample() -> None:
    weight = Trials(torch.tensor([0.5, 0.5]))
    x, sigma = torch.randn(3, 2, generator=torch.Generator().manual_seed(2)), sigmas(3, 1.0)
    method = Balanced(schedule=ChordSchedule(), difference=FULL)
    denoiser = Counted(BASE.denoise)
    found, record = method(denoiser, weight, x, sigma)
    assert torch.allclose(weight.tried[0], found, atol=1e-5)
    assert (record.model_calls, record.weight_calls, record.value_calls) == (2, 1, 1)
    gain = (weight.tried[0] - denoiser.answered[0]) @ weight.slope
    assert torch.allclose(record.actual_gain, gain, atol=1e-5)
    _, start = method.tilted_start(BASE.denoise, weight, x, sigma)
    middle = (weight.tried[-1] + weight.tried[-2]) / 2
    assert torch.allclose(middle, denoiser.answered[0].float(), atol=1e-5)
    assert start.value_calls == 2


def test_a_trial_of_weight_zero_shifts_nothing_and_one_without_a_number_is_refused() -> None:
    x, sigma = torch.ones(1, 2), sigmas(1, 2.0)
    method = Balanced(schedule=ChordSchedule(), difference=FULL)
    found, record = method(BASE.denoise, Trials(torch.ones(2), -math.inf), x, sigma)
    assert torch.equal(found, BASE.denoise(x, sigma)) and record.alpha.item() == 0
    for value in (math.nan, math.inf):
        with pytest.raises(guidance.WeightError, match=r"not finite at noise level sigma = 2"):
            method(BASE.denoise, Trials(torch.ones(2), value), x, sigma)


# ---- the conditional branch alone ---------------------------------------------------------------


class Branches:
    """Two branches; what is asked of each is noted."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.asked.append("both")
        self.last = x
        return 3 * x

    def conditional(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.asked.append("one")
        return 3 * self.last + 0.5 * (x - self.last)


@pytest.mark.parametrize(("conditional", "asked", "j"), [(True, "one", 0.5), (False, "both", 3.0)])
def test_the_second_evaluation_takes_the_branch_that_it_is_told(
    conditional: bool, asked: str, j: float
) -> None:
    method = guidance.Paper(schedule=guidance.ConstantSchedule(), conditional=conditional)
    denoiser, slope = Branches(), torch.tensor([1.0, 2.0])
    found, _ = method(denoiser, LinearLogWeight(slope), torch.ones(1, 2), sigmas(1, 1.0))
    assert denoiser.asked == ["both", asked]
    assert torch.allclose(found, 3 + j * slope, atol=1e-4)


# ---- the correction of an ancestral step -----------------------------------------------------


@pytest.mark.parametrize("std", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("steps", [10, 30])
def test_coarse_ancestral_steps_draw_the_tilt_of_their_own_law(std: float, steps: int) -> None:
    """Gaussian p: the chain's outputs have variance V < std^2, and log w = b x must give V b."""
    levels = karras_sigmas(steps, 0.003, 15.0)
    slope = torch.tensor([0.4])

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return x * std**2 / (std**2 + sigma[:, None] ** 2)

    def outcome(method: guidance.LAGS, fits: bool = True) -> float:
        weight = LinearLogWeight(slope)
        x, _ = method.tilted_start(denoise, weight, torch.zeros(1, 1), levels[:1])
        for sigma, lower in zip(levels[:-1], levels[1:], strict=True):
            keep = ancestral_keep(levels, float(sigma))
            assert keep == pytest.approx(float(lower / sigma) ** 2, rel=1e-5)
            denoised, _ = method(
                denoise, weight, x, sigma[None], guidance.Step(keep if fits else 1.0)
            )
            x = denoised + keep * (x - denoised)
        return float(x)

    variance = float(levels[0]) ** 2
    for sigma, lower in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        keep, j = (lower / sigma) ** 2, std**2 / (std**2 + sigma**2)
        variance = (j + keep * (1 - j)) ** 2 * variance + keep * (sigma**2 - lower**2)
    method = replace(guidance.preset("balanced", difference=FULL), skip_below=0.0)
    assert outcome(method) == pytest.approx(0.4 * variance, rel=2e-3)
    assert outcome(method, fits=False) > 1.15 * 0.4 * variance


def test_fine_steps_and_other_samplers_take_the_full_shift() -> None:
    full_shift, sigma, gain = torch.tensor([[0.5, 0.5]]), torch.ones(1), torch.tensor([1.0])
    assert float(step_correction(0.999999, sigma, gain, full_shift)) == pytest.approx(1, abs=1e-5)
    assert float(step_correction(1.0, sigma, gain, full_shift)) == 1
    assert float(step_correction(0.0, sigma, gain, full_shift)) == 0  # the last step has no noise
    assert ancestral_keep(torch.tensor([4.0, 2.0, 0.0]), 3.0) == 1
    assert ancestral_keep(torch.tensor([4.0, 2.0, 0.0]), 2.0) == 0
