from __future__ import annotations

import math

import pytest
import torch
from lags_pack.rewards import FrequencyReward
from lags_pack.rewards.frequency import FLOOR
from torch import Tensor

EVERYTHING = FrequencyReward(0.0, 0.71)


def grey(down: float, across: float, amplitude: float, height: int = 64, width: int = 64) -> Tensor:
    """Grey stripes of a frequency down and one across, [1, 3, height, width]."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    wave = torch.cos(2 * math.pi * (down * rows + across * columns))
    return (0.5 + amplitude * wave).expand(1, 3, -1, -1)


def score(low: float, high: float, image: Tensor) -> float:
    return FrequencyReward(low, high)(image).item()


@pytest.mark.parametrize(("frequency", "amplitude"), [(0.125, 0.4), (0.25, 0.1), (0.375, 0.02)])
def test_a_pure_stripe_has_its_mean_square_in_its_band(frequency: float, amplitude: float) -> None:
    for direction in ((frequency, 0.0), (0.0, frequency)):
        image, low, high = grey(*direction, amplitude), frequency - 0.02, frequency + 0.02
        expected = math.log(amplitude**2 / 2)
        assert score(low, high, image) == pytest.approx(expected, abs=1e-3)
        for band in ((0.0, low), (high, 0.71)):
            assert score(*band, image) == pytest.approx(math.log(FLOOR), abs=1e-3)


def test_a_diagonal_stripe_counts_at_its_radius_up_to_the_corner() -> None:
    """Frequency 0.5 has no mirror image: its mean square is amplitude^2."""
    image = grey(0.25, 0.25, 0.3)  # radius 0.354
    assert score(0.3, 0.4, image) == pytest.approx(math.log(0.3**2 / 2), abs=1e-3)
    assert score(0.2, 0.3, image) == pytest.approx(math.log(FLOOR), abs=1e-3)
    assert score(0.45, 0.55, grey(0.0, 0.5, 0.2)) == pytest.approx(math.log(0.04), abs=1e-3)
    assert score(0.7, 0.71, grey(0.5, 0.5, 0.2)) == pytest.approx(math.log(0.04), abs=1e-3)


def test_the_mean_never_counts_and_the_whole_spectrum_is_the_variance_of_the_brightness() -> None:
    for value in (0.0, 0.5, 1.0):
        flat = torch.full((1, 3, 16, 16), value)
        assert EVERYTHING(flat).item() == pytest.approx(math.log(FLOOR), abs=1e-3)
    image = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(2))
    assert EVERYTHING(image).item() == pytest.approx(EVERYTHING(image + 0.2).item(), abs=1e-4)
    luma = 0.2126 * image[:, 0] + 0.7152 * image[:, 1] + 0.0722 * image[:, 2]
    expected = math.log(luma.var(correction=0).item() + FLOOR)
    assert EVERYTHING(image).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("size", "width"), [(32, 32), (128, 128), (64, 192), (200, 64)])
def test_the_score_does_not_depend_on_the_size_and_contrast_counts_squared(
    size: int, width: int
) -> None:
    once, twice = (score(0.1, 0.15, grey(0.0, 0.125, a, size, width)) for a in (0.15, 0.3))
    assert twice == pytest.approx(math.log(0.045), abs=1e-3)
    assert twice - once == pytest.approx(2 * math.log(2), abs=1e-3)


@pytest.mark.parametrize(
    ("low", "high"), [(-0.1, 0.2), (0.3, 0.2), (0.2, 0.2), (math.nan, 0.5), (0.1, math.nan)]
)
def test_refuses_a_band_that_is_none(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=f"band is {low} to {high}; expected 0 <= low < high"):
        FrequencyReward(low, high)


def test_refuses_a_picture_without_the_band() -> None:
    reward = FrequencyReward(0.01, 0.05)
    with pytest.raises(ValueError, match="No frequency of a 16x8 image lies in 0.01 to 0.05.*wid"):
        reward(torch.rand(1, 3, 8, 16))
    assert torch.isfinite(reward(torch.rand(1, 3, 64, 64))).all()
