from __future__ import annotations

import math

import pytest
import torch
from lags_pack.rewards import ColourReward
from lags_pack.rewards.colour import parse_colour
from torch import Tensor

PURE = {"#ff0000": 0, "#ffff00": 60, "#00ff00": 120, "#00ffff": 180, "#0000ff": 240, "#ff00ff": 300}


def flat(colour: str, size: int = 4) -> Tensor:
    return torch.tensor(parse_colour(colour)).view(1, 3, 1, 1).expand(1, 3, size, size).clone()


def score(attribute: str, image: Tensor, **options) -> float:
    return ColourReward(attribute, **options)(image).item()


@pytest.mark.parametrize(("colour", "hue"), PURE.items())
def test_a_pure_colour_scores_1_along_its_hue(colour: str, hue: float) -> None:
    image = flat(colour)
    assert score("hue", image, hue=hue) == pytest.approx(1, abs=1e-6)
    assert score("hue", image, hue=hue + 360) == pytest.approx(1, abs=1e-5)
    assert score("hue", image, hue=hue + 180) == pytest.approx(-1, abs=1e-6)
    assert score("hue", image, hue=hue + 90) == pytest.approx(0, abs=1e-6)
    assert score("saturation", image) == pytest.approx(1, abs=1e-6)


def test_hue_0_is_red_minus_the_rest() -> None:
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    red, green, blue = image.mean(dim=(0, 2, 3)).tolist()
    assert score("hue", image) == pytest.approx(red - (green + blue) / 2, abs=1e-6)


@pytest.mark.parametrize("grey", ["#000000", "#808080", "#ffffff"])
def test_grey_has_neither_hue_nor_saturation(grey: str) -> None:
    for hue in (0.0, 77.0, 240.0):
        assert score("hue", flat(grey), hue=hue) == pytest.approx(0, abs=1e-6)
    assert score("saturation", flat(grey)) == pytest.approx(0, abs=1e-3)


def test_brightness_is_luma_and_saturation_is_of_pixels_not_of_their_mean() -> None:
    assert score("brightness", flat("#ffffff")) == pytest.approx(1, abs=1e-6)
    assert score("brightness", flat("#000000")) == 0
    channels = [score("brightness", flat(c)) for c in ("#ff0000", "#00ff00", "#0000ff")]
    assert channels == pytest.approx([0.2126, 0.7152, 0.0722], abs=1e-6)
    image = torch.cat([flat("#ff0000"), flat("#00ffff")], dim=3)  # together grey
    assert score("saturation", image) == pytest.approx(1, abs=1e-5)
    assert score("saturation", 0.5 * image) == pytest.approx(0.5, abs=1e-5)


def test_mean_colour_is_best_at_the_target_and_falls_with_distance() -> None:
    target = "#2060ff"
    assert score("mean colour", flat(target), colour=target) == pytest.approx(0, abs=1e-3)
    assert score("mean colour", flat("#000000"), colour="#ffffff") == pytest.approx(-math.sqrt(3))
    halves = torch.cat([flat("#ff0000"), flat("#0000ff")], dim=3)
    assert score("mean colour", halves, colour="#800080") == pytest.approx(0, abs=5e-3)


@pytest.mark.parametrize("attribute", ["hue", "brightness", "saturation", "mean colour"])
def test_the_score_does_not_depend_on_the_size(attribute: str) -> None:
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    large = image.repeat_interleave(4, dim=2).repeat_interleave(3, dim=3)
    assert score(attribute, large) == pytest.approx(score(attribute, image), abs=1e-5)


@pytest.mark.parametrize("text", ["red", "#fff", "#12345g", "", "#1122334", "##112233", "#1 2233"])
def test_parses_colours_and_refuses_what_is_none(text: str) -> None:
    assert parse_colour("#ff8000") == pytest.approx((1.0, 128 / 255, 0.0))
    assert parse_colour(" 0A0a0A ") == pytest.approx((10 / 255,) * 3)
    with pytest.raises(ValueError, match=f"colour is '{text}'; expected '#rrggbb', for example"):
        ColourReward("mean colour", colour=text)


def test_refuses_an_unknown_attribute_and_a_hue_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match="attribute is 'warmth'; expected one of .*'brightness'"):
        ColourReward("warmth")
    for hue in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=f"hue is {hue}; expected degrees"):
            ColourReward("hue", hue=hue)
