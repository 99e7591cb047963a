"""The measured deviation of a score is the true one where theory gives it."""

from __future__ import annotations

import math

import pytest
import torch
from lags_pack.guidance import AutogradLogWeight, DifferenceStep, ModelError, score_std
from lags_pack.tests.analytic import Gaussian, LinearLogWeight

UNIT = Gaussian(torch.zeros(4), 1.0)


@pytest.mark.parametrize("sigma", [80.0, 10.0, 1.0])
@pytest.mark.parametrize("count", [1, 64])
def test_linear_score_of_a_gaussian(sigma: float, count: int) -> None:
    """For data N(0, 1) and score a . x the deviation is |a|, wherever the run starts."""
    a = torch.tensor([0.5, -2.0, 1.0, 0.25])
    levels = torch.full((count,), sigma)
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0)) * math.sqrt(1 + sigma**2)
    found = score_std(UNIT.denoise, LinearLogWeight(a), x, levels, DifferenceStep())
    # At low noise a single image knows little of the others: what is left is the posterior's.
    posterior = sigma / math.sqrt(1 + sigma**2) * float(a.norm())
    assert found == pytest.approx(posterior if count == 1 else float(a.norm()), rel=0.12)


@pytest.mark.parametrize(
    ("function", "sigma", "std"),
    [
        # The slope at 0 would say 5; the images spread over the flat parts, at most 1.
        (lambda z: torch.tanh(5 * z[:, 0]), 50.0, pytest.approx(1.0, rel=0.05)),
        (lambda z: 0 * z.sum(dim=1), 10.0, 0.0),
    ],
    ids=["bends", "is flat"],
)
def test_score_that_is_no_line(function, sigma: float, std: object) -> None:
    score, levels = AutogradLogWeight(function, "score"), torch.full((1,), sigma)
    assert score_std(UNIT.denoise, score, torch.zeros(1, 4), levels, DifferenceStep()) == std


def test_model_that_is_not_finite() -> None:
    weight, x, levels = LinearLogWeight(torch.ones(4)), torch.ones(1, 4), torch.ones(1)
    with pytest.raises(ModelError):
        score_std(lambda x, sigma: x * math.nan, weight, x, levels, DifferenceStep())
