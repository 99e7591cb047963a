"""Weight: log w as a sum of strength * score."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import pytest
import torch
from lags_pack.rewards import ColourReward, FrequencyReward, Reward, Term, Weight, product
from torch import Tensor, nn

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


def test_the_terms_of_log_w_are_listed() -> None:
    both = Weight((Term(HUE, 25.0), Term(BAND, -2.0)))
    terms = both.by_term(IMAGES)
    assert terms.shape == (2, 3)
    assert torch.allclose(terms[0], 25 * HUE(IMAGES)) and torch.allclose(
        terms[1], -2 * BAND(IMAGES)
    )
    assert torch.equal(both(IMAGES), terms.sum(dim=0))


def test_terms_of_one_name_get_numbers() -> None:
    terms = (Term(HUE, 1.0), Term(BAND, 2.0), Term(ColourReward("hue", 90.0), 3.0), Term(HUE, 4.0))
    names = ("colour (hue)", "frequency band", "colour (hue) (2)", "colour (hue) (3)")
    assert Weight(terms).labels == names
    assert Weight(terms).strengths == dict(zip(names, (1.0, 2.0, 3.0, 4.0), strict=True))


def test_each_network_is_listed_once() -> None:
    class Network(Oracle):
        def __init__(self, *modules: nn.Module) -> None:
            self.modules = modules

    eye, head, other = (nn.Linear(1, 1) for _ in range(3))
    first, second = Network(eye, head), Network(other, eye)
    weight = Weight((Term(first, 1.0), Term(HUE, 1.0), Term(second, 1.0), Term(first, 2.0)))
    assert weight.modules == (eye, head, other)
    assert Weight.of(HUE, 1.0).modules == ()


def test_a_weight_needs_a_term() -> None:
    with pytest.raises(ValueError, match="A weight has no terms; expected at least one reward"):
        Weight(())


def test_a_weight_is_off_if_all_strengths_are_0() -> None:
    assert Weight((Term(HUE, 0.0), Term(BAND, 0.0, spread=2.0))).is_off
    assert not Weight((Term(HUE, 0.0), Term(BAND, -1.0))).is_off
    assert Weight.of(HUE, 3.0).power(0).is_off


# ---- automatic strength -----------------------------------------------------------------------


def test_an_automatic_strength_makes_its_spread_in_nats() -> None:
    """Of scores with a standard deviation of 0.2: 3 nats are a strength of 15."""
    term = Term(HUE, 25.0, spread=3.0).measured(0.2)
    assert (term.strength, term.spread, term.reward) == (pytest.approx(15.0), 0.0, HUE)
    assert Term(HUE, -0.1, spread=3.0).measured(0.2).strength == pytest.approx(-15.0)
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


def test_a_strength_of_0_is_off_and_needs_no_measuring() -> None:
    term = Term(HUE, 0.0, spread=3.0)
    assert term.is_known and term.measured(0.0) == term
    assert torch.equal(Weight((term,))(IMAGES), torch.zeros(3))


def test_an_automatic_strength_cannot_be_used_before_it_is_measured() -> None:
    weight = Weight((Term(HUE, 25.0), Term(BAND, 1.0, spread=3.0)))
    for use in (weight, weight.by_term):
        with pytest.raises(
            ValueError, match=r"strength of weight 'colour \(hue\) \+ frequency band'"
        ):
            use(IMAGES)
    with pytest.raises(ValueError, match="has not been measured yet.*Set a strength by hand"):
        weight(IMAGES)


@pytest.mark.parametrize("deviation", [0.0, -0.1, math.nan, math.inf])
def test_a_score_that_does_not_vary_has_no_automatic_strength(deviation: float) -> None:
    with pytest.raises(ValueError) as caught:
        Weight.of(BAND, 1.0, spread=3.0).measured({0: deviation})
    assert str(caught.value) == (
        "The automatic strength of weight 'frequency band' needs a score that varies; its standard "
        f"deviation is {deviation}. Set a strength by hand (automatic 0)."
    )


@pytest.mark.parametrize("spread", [-1.0, *REFUSED])
def test_refuses_a_spread_that_is_negative_or_not_finite(spread: float) -> None:
    with pytest.raises(ValueError) as caught:
        Weight.of(BAND, 1.0, spread=spread)
    assert str(caught.value) == (
        f"automatic strength of weight 'frequency band' is {spread} nats; expected a finite "
        "number, 0 (off) or more."
    )


@pytest.mark.parametrize("exponent", [0.5, -2.0, 1.0])
def test_a_power_comes_before_or_after_measuring(exponent: float) -> None:
    weight = Weight((Term(HUE, -4.0, spread=3.0), Term(BAND, 2.0)))
    before = weight.power(exponent).measured({0: 0.2})
    after = weight.measured({0: 0.2}).power(exponent)
    assert [t.strength for t in before.terms] == pytest.approx([t.strength for t in after.terms])
    assert torch.allclose(before(IMAGES), exponent * weight.measured({0: 0.2})(IMAGES))


# ---- products ---------------------------------------------------------------------------------


def test_a_product_of_powers_is_the_sum_of_their_logarithms() -> None:
    first, second = Weight((Term(HUE, 25.0), Term(BAND, -2.0))), Weight.of(BAND, 3.0)
    combined = product([first, second], [0.5, -2.0])
    assert torch.allclose(combined(IMAGES), 0.5 * first(IMAGES) - 2 * second(IMAGES), atol=1e-5)
    assert [term.strength for term in combined.terms] == [12.5, -1.0, -6.0]
    assert combined.labels == ("colour (hue)", "frequency band", "frequency band (2)")
    assert [term.spread for term in product([Weight.of(HUE, 1.0, 3.0)], [-2.0]).terms] == [6.0]


@pytest.mark.parametrize(("weights", "exponents"), [(0, 0), (1, 0), (1, 2), (2, 1), (0, 1)])
def test_a_product_needs_one_exponent_for_each_weight(weights: int, exponents: int) -> None:
    with pytest.raises(ValueError) as caught:
        product([Weight.of(HUE, 1.0)] * weights, [1.0] * exponents)
    assert str(caught.value).startswith(
        f"There are {weights} weights and {exponents} exponents; expected one exponent for each"
    )


def test_a_product_refuses_an_exponent_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match=r"strength of weight 'colour \(hue\)' is nan"):
        product([Weight.of(HUE, 1.0)], [math.nan])
