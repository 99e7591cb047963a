from __future__ import annotations

import math

import pytest
import torch
from lags_pack.rewards import FrequencyReward
from lags_pack.rewards.frequency import FLOOR
from torch import Tensor


def stripes(
    frequency: float, amplitude: float, size: int = 64, axis: int = 1, width: int | None = None
) -> Tensor:
    """Grey stripes across an axis (0 = down, 1 = across), [1, 3, size, width]."""
    down, across = torch.meshgrid(torch.arange(size), torch.arange(width or size), indexing="ij")
    wave = torch.cos(2 * math.pi * frequency * (down, across)[axis])
    return (0.5 + amplitude * wave).expand(1, 3, -1, -1)


def diagonal(frequency: float, amplitude: float, size: int = 64) -> Tensor:
    """Stripes whose frequency along each axis is the given one."""
    step = torch.arange(size)
    wave = torch.cos(2 * math.pi * frequency * (step[:, None] + step[None]))
    return (0.5 + amplitude * wave).expand(1, 3, -1, -1)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("frequency", "amplitude"), [(0.125, 0.4), (0.25, 0.1), (0.375, 0.02)])
def test_a_pure_stripe_has_its_mean_square_in_its_band(
    frequency: float, amplitude: float, axis: int
) -> None:
    image = stripes(frequency, amplitude, axis=axis)
    inside = FrequencyReward(frequency - 0.02, frequency + 0.02)
    assert inside(image).item() == pytest.approx(math.log(amplitude**2 / 2), abs=1e-3)
    for low, high in ((0.0, frequency - 0.02), (frequency + 0.02, 0.71)):
        assert FrequencyReward(low, high)(image).item() == pytest.approx(math.log(FLOOR), abs=1e-3)


def test_a_diagonal_stripe_counts_at_its_radius() -> None:
    image = diagonal(0.25, 0.3)  # radius 0.354
    expected = math.log(0.3**2 / 2)
    assert FrequencyReward(0.3, 0.4)(image).item() == pytest.approx(expected, abs=1e-3)
    assert FrequencyReward(0.2, 0.3)(image).item() == pytest.approx(math.log(FLOOR), abs=1e-3)


def test_the_finest_stripe_and_the_corner_are_reached() -> None:
    """Frequency 0.5 has no mirror image: its mean square is amplitude^2."""
    fine, corner = stripes(0.5, 0.2), diagonal(0.5, 0.2)
    assert FrequencyReward(0.45, 0.55)(fine).item() == pytest.approx(math.log(0.04), abs=1e-3)
    assert FrequencyReward(0.7, 0.71)(corner).item() == pytest.approx(math.log(0.04), abs=1e-3)


def test_the_mean_never_counts() -> None:
    everything = FrequencyReward(0.0, 0.71)
    for value in (0.0, 0.5, 1.0):
        flat = torch.full((1, 3, 16, 16), value)
        assert everything(flat).item() == pytest.approx(math.log(FLOOR), abs=1e-3)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert everything(image).item() == pytest.approx(everything(image + 0.2).item(), abs=1e-4)


def test_the_whole_spectrum_is_the_variance_of_the_brightness() -> None:
    image = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(2))
    luma = 0.2126 * image[:, 0] + 0.7152 * image[:, 1] + 0.0722 * image[:, 2]
    expected = math.log(luma.var(correction=0).item() + FLOOR)
    assert FrequencyReward(0.0, 0.71)(image).item() == pytest.approx(expected, abs=1e-4)


def test_a_factor_of_contrast_is_two_logs_of_it() -> None:
    reward = FrequencyReward(0.05, 0.3)
    once, twice = reward(stripes(0.125, 0.1)).item(), reward(stripes(0.125, 0.2)).item()
    assert twice - once == pytest.approx(2 * math.log(2), abs=1e-3)


@pytest.mark.parametrize(("size", "width"), [(32, 32), (128, 128), (64, 192), (200, 64)])
def test_the_score_does_not_depend_on_the_size(size: int, width: int) -> None:
    reward = FrequencyReward(0.1, 0.15)
    image = stripes(0.125, 0.3, size, width=width)
    assert reward(image).item() == pytest.approx(math.log(0.045), abs=1e-3)


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
