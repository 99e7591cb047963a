"""Weight: log w as a sum of strength * score."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import pytest
import torch
from lags_pack.rewards import ColourReward, FrequencyReward, Reward, Term, Weight
from torch import Tensor

HUE, BAND = ColourReward("hue"), FrequencyReward(0.1, 0.3)
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
REFUSED = [math.nan, math.inf, -math.inf]


class Oracle(Reward):
    """A reward without a gradient."""

    name, scale, differentiable = "oracle", "0 or 1", False

    def __call__(self, images: Tensor) -> Tensor:
        return (images.mean(dim=(1, 2, 3)) > 0.5).float()


def test_log_w_is_strength_times_score() -> None:
    assert torch.allclose(Weight.of(HUE, 25.0)(IMAGES), 25 * HUE(IMAGES))
    assert torch.allclose(Weight.of(HUE, -3.0)(IMAGES), -3 * HUE(IMAGES))
    off = Weight.of(HUE, 0.0)(IMAGES)
    assert torch.equal(off, torch.zeros(3))


def test_a_product_of_weights_is_the_sum_of_its_terms() -> None:
    both = Weight((Term(HUE, 25.0), Term(BAND, -2.0)))
    assert torch.allclose(both(IMAGES), 25 * HUE(IMAGES) - 2 * BAND(IMAGES))
    assert both(IMAGES).shape == (3,)
    assert both.name == "colour (hue) + frequency band"


def test_a_power_scales_every_strength() -> None:
    both = Weight((Term(HUE, 25.0), Term(BAND, -2.0)))
    half = both.power(0.5)
    assert [term.strength for term in half.terms] == [12.5, -1.0]
    assert torch.allclose(half(IMAGES), 0.5 * both(IMAGES))
    assert [term.strength for term in both.terms] == [25.0, -2.0]
    assert torch.allclose(both.power(-1)(IMAGES), -both(IMAGES))


def test_one_term_without_a_gradient_makes_the_weight_so() -> None:
    assert Weight.of(HUE, 1.0).differentiable
    assert not Weight((Term(HUE, 1.0), Term(Oracle(), 1.0))).differentiable


def test_weights_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Weight.of(HUE, 1.0).terms[0].strength = 2.0


@pytest.mark.parametrize("strength", REFUSED)
def test_refuses_a_strength_that_is_not_finite(strength: float) -> None:
    message = rf"strength of weight 'colour \(hue\)' is {strength}; expected a finite .*0 is off"
    with pytest.raises(ValueError, match=message):
        Weight.of(HUE, strength)
    with pytest.raises(ValueError, match=f"is {strength}; expected a finite"):
        Weight.of(HUE, 1.0).power(strength)


def test_refuses_a_power_that_overflows() -> None:
    with pytest.raises(ValueError, match="is inf; expected a finite"):
        Weight.of(HUE, 1e300).power(1e300)
