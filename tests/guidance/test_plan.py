"""What is planned is what a run then does."""

from __future__ import annotations

import math

import pytest
import torch
from lags_pack import guidance
from lags_pack.guidance import plan, preset
from lags_pack.tests.analytic import Gaussian, LinearLogWeight
from torch import Tensor

LEVELS = torch.cat([torch.logspace(1.3, -1.5, 12), torch.zeros(1)])

UNIT = Gaussian(torch.zeros(1), 1.0)


def eps(sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
    return latent + sigma.view(-1, 1, 1, 1) * noise


def flow(sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
    sigma = sigma.view(-1, 1, 1, 1)
    return sigma * noise + (1 - sigma) * latent


class Levelling(LinearLogWeight):
    """A log w whose gain levels off two deviations above wherever its gradient was taken."""

    def value_and_grad(self, denoised: Tensor) -> tuple[Tensor, Tensor]:
        self.here = denoised
        return torch.zeros(len(denoised)), self.slope.expand_as(denoised)

    def __call__(self, denoised: Tensor) -> Tensor:
        predicted = ((denoised - self.here) * self.slope).sum(dim=1)
        return -6 * torch.expm1(-predicted / 6)


@pytest.mark.parametrize("mode", ["balanced", "fast", "paper"])
def test_plan_and_run_agree(mode: str) -> None:
    """Guided steps, calls and alpha, on a Gaussian, where the guess is exact."""
    method = preset(mode, difference=guidance.DifferenceStep(max_step=1000.0))
    weight = guidance.CachedGradient(Levelling(torch.tensor([3.0])), method.reuse)
    made = plan(method, LEVELS, eps, score_std=3.0)
    trace, state = guidance.Trace(), guidance.RunState()
    for number, level in enumerate(LEVELS[:-1]):
        x, sigma = torch.randn(2, 1) * math.sqrt(1 + float(level) ** 2), level.expand(2)
        if number == 0 and method.tilts_start:
            start = guidance.Step(state=state)
            x, record = method.tilted_start(UNIT.denoise, weight, x, sigma, start)
            trace.add_start(record)
            weight = guidance.CachedGradient(weight.log_weight, method.reuse)
        trace.add(method(UNIT.denoise, weight, x, sigma, guidance.Step(state=state))[1])
    assert made.active.tolist() == [record.active for record in trace.records]
    assert made.total_calls == trace.model_calls
    for planned, record in zip(made.alpha.tolist(), trace.records, strict=True):
        done = 0.0 if record.alpha is None else float(record.alpha.mean())
        assert planned == pytest.approx(done, rel=0.02, abs=1e-6)
    assert made.start_calls == (mode == "balanced"), "D is told by that of the first step"
    assert made.value_calls == trace.value_calls
    assert made.weight_calls == weight.computed + (1 if mode == "balanced" else 0)
    second = 0.5 if mode == "balanced" else 1.0
    assert made.relative_cost == (12 + second * (made.total_calls - 12)) / 12
    alone = plan(method, LEVELS, eps, branches=1)  # at cfg 1 there is no branch to leave out
    assert alone.relative_cost == alone.total_calls / 12


def test_flow_models_start_without_signal_and_half_precision_drops_second_evaluations() -> None:
    levels = torch.tensor([1.0, 0.9, 0.5, 0.1, 0.0])
    made = plan(preset("paper"), levels, flow)
    assert made.active.tolist() == [False, True, True, True]
    assert made.sigma_ve[1:].tolist() == pytest.approx([9.0, 1.0, 1 / 9], rel=1e-4)
    assert plan(preset("balanced"), levels, flow).start_calls == 0
    assert plan(preset("balanced"), levels[1:], flow).start_calls == 2, "few steps"
    half = guidance.DifferenceStep(dtype=torch.float16)
    made = plan(preset("paper", 10.0, half), torch.tensor([10.0, 0.1, 0.0]), eps)
    assert made.model_calls.tolist() == [2, 1]
    one = plan(preset("balanced"), torch.tensor([5.0, 0.0]), eps)
    assert len(one.sigma) == 1 and bool(one.active[0])


def test_comparison_is_the_schedules_own_alpha() -> None:
    levels = torch.tensor([10.0, 1.0, 0.1])
    shown = {
        "c": guidance.UncertaintySchedule(5.0),
        "gate": guidance.HardGateSchedule(0.5),
        "one": guidance.ConstantSchedule(),
        "auto": guidance.AutoSchedule(0.1),
    }
    found = guidance.compared(shown, levels, score_std=2.0)
    assert found["c"].tolist() == pytest.approx([1 / (1 + 5 * s**4) for s in (10, 1, 0.1)])
    assert found["gate"].tolist() == [0, 0, 1]
    assert found["one"].tolist() == [1, 1, 1]
    expected = [1 / (1 + 0.1 * 4 * s * s / (1 + s * s)) for s in (10, 1, 0.1)]
    assert found["auto"].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("levels", [[], [0.0], [math.nan, 0.0]])
def test_no_levels(levels: list[float]) -> None:
    with pytest.raises(ValueError, match=r"noise level"):
        plan(preset("paper"), torch.tensor(levels), eps)
