"""How large an image a reward needs to see."""

from __future__ import annotations

import pytest
import torch
from lags_pack.rewards import ColourReward, FrequencyReward, Reward, SharpnessReward, Weight
from lags_pack.rewards.base import Term
from lags_pack.rewards.masked import MaskedReward
from torch import Tensor


class Encoder(Reward):
    name, scale, input_size = "encoder", "none", 224

    def __call__(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3))


def test_twice_what_a_network_sees_little_for_colour_and_all_for_detail() -> None:
    """A weight needs what its neediest term needs."""
    colour, encoder = Term(ColourReward("hue"), 1.0), Term(Encoder(), 1.0)
    assert (Encoder().needed_side, ColourReward("hue").needed_side) == (448, 256)
    assert FrequencyReward(0.1, 0.3).needed_side is SharpnessReward().needed_side is None
    assert Weight((colour, encoder)).needed_side == 448
    assert Weight((colour, Term(SharpnessReward(), 1.0), encoder)).needed_side is None


@pytest.mark.parametrize(
    ("box", "expected", "colours"),
    [
        ((0, 64, 0, 128), 224, 256),
        ((0, 32, 0, 128), 224, 512),
        ((10, 42, 20, 36), 896, 1024),
    ],
)
def test_a_mask_needs_its_box_as_large(
    box: tuple[int, int, int, int], expected: int, colours: int
) -> None:
    """A network is shown a square around the box, so its longer side counts."""
    top, bottom, left, right = box
    mask = torch.zeros(64, 128)
    mask[top:bottom, left:right] = 1
    assert MaskedReward(Encoder(), mask).needed_side == expected
    assert MaskedReward(ColourReward("hue"), mask).needed_side == colours
    assert MaskedReward(SharpnessReward(), mask).needed_side is None
