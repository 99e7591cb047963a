"""Weight: log w as a sum of strength * score."""

from __future__ import annotations

import math
import re
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from lags_pack.rewards import (
    ColourReward,
    FrequencyReward,
    JpegSizeReward,
    Reward,
    SharpnessReward,
    Term,
    Weight,
    product,
)
from torch import Tensor, nn

HUE, BAND = ColourReward("hue"), FrequencyReward(0.1, 0.3)
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
REFUSED = [math.nan, math.inf, -math.inf]


class Oracle(Reward):
    """A reward without a gradient."""

    name, scale, differentiable = "oracle", "0 or 1", False

    def __init__(self, *modules: nn.Module) -> None:
        self.modules = modules

    def __call__(self, images: Tensor) -> Tensor:
        return (images.mean(dim=(1, 2, 3)) > 0.5).float()


BOTH = Weight((Term(HUE, 25.0), Term(BAND, -2.0)))


def test_log_w_is_strength_times_score_and_off_if_all_strengths_are_0() -> None:
    assert torch.allclose(Weight.of(HUE, 25.0)(IMAGES), 25 * HUE(IMAGES))
    assert torch.allclose(Weight.of(HUE, -3.0)(IMAGES), -3 * HUE(IMAGES))
    assert torch.equal(Weight.of(HUE, 0.0)(IMAGES), torch.zeros(3))
    assert Weight((Term(HUE, 0.0), Term(BAND, 0.0, spread=2.0))).is_off
    assert not Weight((Term(HUE, 0.0), Term(BAND, -1.0))).is_off
    assert Weight.of(HUE, 3.0).power(0).is_off


def test_a_product_of_weights_is_the_sum_of_its_terms() -> None:
    assert torch.allclose(BOTH(IMAGES), 25 * HUE(IMAGES) - 2 * BAND(IMAGES))
    assert BOTH(IMAGES).shape == (3,)
    assert BOTH.name == "colour (hue) + frequency band"
    terms = BOTH.by_term(IMAGES)
    assert terms.shape == (2, 3) and torch.equal(BOTH(IMAGES), terms.sum(dim=0))
    assert torch.allclose(terms[0], 25 * HUE(IMAGES))
    assert torch.allclose(terms[1], -2 * BAND(IMAGES))


def test_a_power_scales_every_strength() -> None:
    half = BOTH.power(0.5)
    assert [term.strength for term in half.terms] == [12.5, -1.0]
    assert torch.allclose(half(IMAGES), 0.5 * BOTH(IMAGES))
    assert [term.strength for term in BOTH.terms] == [25.0, -2.0]
    assert torch.allclose(BOTH.power(-1)(IMAGES), -BOTH(IMAGES))
    with pytest.raises(FrozenInstanceError):
        BOTH.terms[0].strength = 2.0


@pytest.mark.parametrize("strength", REFUSED)
def test_refuses_a_strength_that_is_not_finite(strength: float) -> None:
    message = rf"strength of weight 'colour \(hue\)' is {strength}; expected a finite .*0 is off"
    with pytest.raises(ValueError, match=message):
        Weight.of(HUE, strength)
    with pytest.raises(ValueError, match=f"is {strength}; expected a finite"):
        Weight.of(HUE, 1.0).power(strength)


def test_terms_of_one_name_get_numbers() -> None:
    terms = (Term(HUE, 1.0), Term(BAND, 2.0), Term(ColourReward("hue", 90.0), 3.0), Term(HUE, 4.0))
    names = ("colour (hue)", "frequency band", "colour (hue) (2)", "colour (hue) (3)")
    assert Weight(terms).labels == names
    assert Weight(terms).strengths == dict(zip(names, (1.0, 2.0, 3.0, 4.0), strict=True))


def test_each_network_is_listed_once_and_one_term_without_a_gradient_makes_the_weight_so() -> None:
    eye, head, other = (nn.Linear(1, 1) for _ in range(3))
    first, second = Oracle(eye, head), Oracle(other, eye)
    weight = Weight((Term(first, 1.0), Term(HUE, 1.0), Term(second, 1.0), Term(first, 2.0)))
    assert weight.modules == (eye, head, other) and not weight.differentiable
    assert Weight.of(HUE, 1.0).modules == () and Weight.of(HUE, 1.0).differentiable


def test_a_weight_needs_a_term_and_a_power_that_does_not_overflow() -> None:
    with pytest.raises(ValueError, match="A weight has no terms; expected at least one reward"):
        Weight(())
    with pytest.raises(ValueError, match="is inf; expected a finite"):
        Weight.of(HUE, 1e300).power(1e300)


# ---- automatic strength -----------------------------------------------------------------------


def test_an_automatic_strength_makes_its_spread_in_nats() -> None:
    """Of scores with a standard deviation of 0.2: 3 nats are a strength of 15."""
    term = Term(HUE, 25.0, spread=3.0).measured(0.2)
    assert (term.strength, term.spread, term.reward) == (pytest.approx(15.0), 0.0, HUE)
    assert Term(HUE, -0.1, spread=3.0).measured(0.2).strength == pytest.approx(-15.0)
    for strength, spread in ((25.0, -3.0), (-25.0, 3.0)):
        assert Weight.of(HUE, strength, spread).terms == (Term(HUE, -25.0, 3.0),)
    assert Weight.of(HUE, -25.0, -3.0).terms == (Term(HUE, 25.0, 3.0),)
    deviation = HUE(IMAGES).std().item()
    log_w = Weight.of(HUE, -1.0, spread=3.0).measured({0: deviation})(IMAGES)
    assert log_w.std().item() == pytest.approx(3.0, rel=1e-5)
    assert torch.allclose(log_w, -3 / deviation * HUE(IMAGES))


def test_only_automatic_strengths_are_measured() -> None:
    weight = Weight((Term(HUE, 25.0), Term(BAND, -2.0, spread=3.0), Term(HUE, 0.0, spread=1.0)))
    assert not weight.is_measured
    known = weight.measured({1: 0.5})
    assert known.is_measured
    assert [term.strength for term in known.terms] == [25.0, -6.0, 0.0]
    assert known.measured({}) == known
    assert Term(HUE, 25.0).measured(0.0) == Term(HUE, 25.0)  # whatever was measured
    off = Term(HUE, 0.0, spread=3.0)
    assert off.is_known and off.measured(0.0) == off
    assert torch.equal(Weight((off,))(IMAGES), torch.zeros(3))


def test_an_automatic_strength_cannot_be_used_before_it_is_measured() -> None:
    weight = Weight((Term(HUE, 25.0), Term(BAND, 1.0, spread=3.0)))
    named = r"strength of weight 'colour \(hue\) \+ frequency band'"
    for use in (weight, weight.by_term):
        with pytest.raises(ValueError, match=named):
            use(IMAGES)
    with pytest.raises(ValueError, match="has not been measured yet.*Set a strength by hand"):
        weight(IMAGES)


@pytest.mark.parametrize("deviation", [0.0, -0.1, math.nan, math.inf])
def test_a_score_that_does_not_vary_has_no_automatic_strength(deviation: float) -> None:
    said = (
        "The automatic strength of weight 'frequency band' needs a score that varies; its standard "
        f"deviation is {deviation}. Set a strength by hand (automatic 0)."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        Weight.of(BAND, 1.0, spread=3.0).measured({0: deviation})


@pytest.mark.parametrize("spread", [-1.0, *REFUSED])
def test_refuses_a_spread_that_is_negative_or_not_finite(spread: float) -> None:
    said = f"automatic strength of weight 'frequency band' is {spread} nats; expected a finite "
    with pytest.raises(ValueError, match=f"^{re.escape(said)}number, 0 \\(off\\) or more\\.$"):
        Term(BAND, 1.0, spread=spread)


@pytest.mark.parametrize("exponent", [0.5, -2.0, 1.0])
def test_a_power_comes_before_or_after_measuring(exponent: float) -> None:
    weight = Weight((Term(HUE, -4.0, spread=3.0), Term(BAND, 2.0)))
    before = weight.power(exponent).measured({0: 0.2})
    after = weight.measured({0: 0.2}).power(exponent)
    assert [t.strength for t in before.terms] == pytest.approx([t.strength for t in after.terms])
    assert torch.allclose(before(IMAGES), exponent * weight.measured({0: 0.2})(IMAGES))


# ---- products ---------------------------------------------------------------------------------


def test_a_product_of_powers_is_the_sum_of_their_logarithms() -> None:
    second = Weight.of(BAND, 3.0)
    combined = product([BOTH, second], [0.5, -2.0])
    assert torch.allclose(combined(IMAGES), 0.5 * BOTH(IMAGES) - 2 * second(IMAGES), atol=1e-5)
    assert [term.strength for term in combined.terms] == [12.5, -1.0, -6.0]
    assert combined.labels == ("colour (hue)", "frequency band", "frequency band (2)")
    assert [term.spread for term in product([Weight.of(HUE, 1.0, 3.0)], [-2.0]).terms] == [6.0]
    with pytest.raises(ValueError, match=r"strength of weight 'colour \(hue\)' is nan"):
        product([Weight.of(HUE, 1.0)], [math.nan])


@pytest.mark.parametrize(("weights", "exponents"), [(0, 0), (1, 0), (1, 2), (2, 1), (0, 1)])
def test_a_product_needs_one_exponent_for_each_weight(weights: int, exponents: int) -> None:
    said = f"^There are {weights} weights and {exponents} exponents; expected one exponent for each"
    with pytest.raises(ValueError, match=said):
        product([Weight.of(HUE, 1.0)] * weights, [1.0] * exponents)


def test_a_term_that_is_off_is_as_if_it_were_not_there() -> None:
    off, on = Term(JpegSizeReward(), 0.0), Term(SharpnessReward(), 1.0)
    assert (
        Weight((off, on)).differentiable
        and not Weight((replace(off, strength=1), on)).differentiable
    )
    assert Weight((off, on)).without_off == Weight((on,))
    assert Weight((off,)).without_off == Weight((off,)), "where all are, it stays"
