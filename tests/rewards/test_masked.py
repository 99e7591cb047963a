"""Scores of a part of the image."""

from __future__ import annotations

import math
import re

import pytest
import torch
from lags_pack.rewards import (
    ColourReward,
    FrequencyReward,
    JpegSizeReward,
    MaskedReward,
    Reward,
    SharpnessReward,
    Term,
    Weight,
)
from lags_pack.rewards.masked import box_of, masked, region, stretched
from torch import Tensor

HUE = ColourReward("hue", hue=40.0)


def pictures(count: int = 2, height: int = 24, width: int = 32, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def box(top: int, bottom: int, left: int, right: int, height: int = 24, width: int = 32) -> Tensor:
    mask = torch.zeros(height, width)
    mask[top:bottom, left:right] = 1
    return mask


def soft() -> Tensor:
    """A disc whose edge fades over several pixels."""
    rows, columns = torch.arange(24.0)[:, None] - 10, torch.arange(32.0) - 18
    return (1.5 - (rows.square() + columns.square()).sqrt() / 6).clamp(0, 1)


MASKS = {
    "box": box(4, 15, 7, 20),
    "soft disc": soft(),
    "two boxes": box(0, 5, 0, 5) + box(20, 24, 9, 30),
}
REWARDS = [HUE, SharpnessReward(), FrequencyReward(0.1, 0.4), ColourReward("saturation")]


class Seen(Reward):
    """Keeps what it is shown; the score is its mean."""

    name, scale = "seen", "any"

    def __call__(self, images: Tensor) -> Tensor:
        self.images = images
        return images.mean(dim=(1, 2, 3))


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("reward", [*REWARDS, JpegSizeReward()], ids=lambda reward: reward.name)
def test_score_and_gradient_do_not_depend_on_the_outside(reward: Reward, mask: Tensor) -> None:
    part, images = MaskedReward(reward, mask), pictures()
    other = torch.where(mask > 0, images, pictures(seed=2))
    assert torch.equal(part(images), part(other))
    inside = torch.where(mask > 0.9, pictures(seed=2), images)
    assert (part(images) != part(inside)).all()
    if reward.differentiable:
        leaf = images.requires_grad_()
        (grad,) = torch.autograd.grad(part(leaf).sum(), leaf)
        assert torch.isfinite(grad).all()
        assert (grad[:, :, mask == 0] == 0).all()
        assert (grad[:, :, mask == 1] != 0).any(dim=1).float().mean() > 0.9


def test_the_reward_sees_the_box_around_the_mask_with_grey_beside_it() -> None:
    seen, mask, images = Seen(), torch.zeros(24, 32), pictures()
    mask[5, 8], mask[9, 20], mask[7, 12] = 1.0, 1.0, 0.25
    MaskedReward(seen, mask)(images)
    assert seen.images.shape == (2, 3, 5, 13)
    assert torch.equal(seen.images[..., 0, 0], images[..., 5, 8])
    assert torch.equal(seen.images[..., -1, -1], images[..., 9, 20])
    expected = 0.25 * images[..., 7, 12] + 0.75 * 0.5
    torch.testing.assert_close(seen.images[..., 2, 4], expected)
    painted = torch.zeros(5, 13, dtype=torch.bool)
    painted[0, 0] = painted[-1, -1] = painted[2, 4] = True
    assert (seen.images[:, :, ~painted] == 0.5).all()


@pytest.mark.parametrize(("height", "width"), [(24, 32), (48, 64), (96, 128)])
def test_a_mask_of_another_resolution_is_stretched(height: int, width: int) -> None:
    """The left half, painted at any resolution, is the left half; a whole one changes nothing."""
    left, brightness = box(0, height, 0, width // 2, height, width), ColourReward("brightness")
    mask = stretched(left, 24, 32)
    assert torch.equal(mask, stretched(mask, 24, 32))
    assert (mask[:, :15] > 0.99).all() and (mask[:, 17:] < 0.01).all()
    half = pictures()[..., :16]
    beside = torch.cat([half, torch.full((2, 3, 24, 16), 0.9)], dim=3)
    found = MaskedReward(brightness, left)(beside)
    torch.testing.assert_close(found, brightness(half), atol=0.02, rtol=0)
    torch.testing.assert_close(MaskedReward(HUE, torch.ones(3, 5))(pictures()), HUE(pictures()))


def test_a_small_mask_grows_and_a_fine_one_is_averaged() -> None:
    coarse = torch.tensor([[1.0, 0.0]])
    grown = stretched(coarse, 4, 8)
    assert grown.shape == (4, 8) and (grown[:, 0] == 1).all() and (grown[:, -1] == 0).all()
    assert (grown[:, 1:] <= grown[:, :-1]).all()
    stripes = torch.zeros(8, 64)
    stripes[:, ::8] = 1  # a plain resize to one eighth would see only or none of them
    few = stretched(stripes, 8, 8)
    assert few.mean().item() == pytest.approx(1 / 8, abs=0.02) and few.max() < 0.3


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.float64])
def test_the_mask_is_kept_as_a_copy_in_0_to_1_of_any_type(dtype: torch.dtype) -> None:
    plain = box(4, 15, 7, 20)
    for mask in (3 * plain - 1, plain.to(dtype)):
        part = MaskedReward(HUE, mask)
        mask.zero_()
        assert torch.equal(part.mask, plain) and part.mask.dtype == torch.float32
        assert torch.equal(part(pictures()), MaskedReward(HUE, plain)(pictures()))
    with torch.inference_mode():
        made = MaskedReward(HUE, box(4, 15, 7, 20))
    images = pictures().requires_grad_()
    made(images).sum().backward()  # refused for a mask that remembers inference mode
    assert images.grad is not None and (images.grad != 0).any()


@pytest.mark.parametrize("shape", [(1, 24, 32), (24,), (1, 1, 24, 32), ()])
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    said = re.escape(f"The mask has shape {shape}; expected [height, width].")
    with pytest.raises(ValueError, match=f"^{said}$"):
        MaskedReward(HUE, torch.ones(shape))


@pytest.mark.parametrize("value", [0.0, 0.5, -1.0, math.nan])
def test_an_empty_mask_and_one_nan_are_refused(value: float) -> None:
    one_nan = box(4, 15, 7, 20)
    one_nan[0, 0] = math.nan
    for mask in (torch.full((24, 32), value), one_nan):
        with pytest.raises(ValueError, match="The mask is empty: nothing in it is above one half"):
            MaskedReward(HUE, mask)


@pytest.mark.parametrize("mask", [box(0, 24, 9, 14), box(3, 8, 0, 32), box(4, 11, 5, 12)])
def test_a_network_is_shown_the_whole_box_in_a_square(mask: Tensor) -> None:
    """One that cuts out the middle square saw a fifth of a strip, and no gradient beside it."""
    top, bottom, left, right = box_of(Weight.of(MaskedReward(HUE, mask), 1.0), 24, 32) or ()
    seen, images = Seen(), pictures().requires_grad_()
    seen.input_size = 7
    part = MaskedReward(seen, mask)
    (grad,) = torch.autograd.grad(part(images).sum(), images)
    side = max(bottom - top, right - left)
    assert seen.images.shape == (2, 3, side, side)
    assert ((grad != 0).all(dim=(0, 1)) == (mask > 0)).all()
    down, across = (side - (bottom - top)) // 2, (side - (right - left)) // 2
    shown = seen.images[..., down:, across:][..., : bottom - top, : right - left]
    assert torch.equal(shown, images[..., top:bottom, left:right])
    rest = (seen.images.sum() - shown.sum()).detach()
    assert float(rest) == pytest.approx(0.5 * 6 * (side**2 - shown[0, 0].numel()), rel=1e-4)
    assert part.needed_side == math.ceil(14 * 24 / side), "its longer side has what is needed"


def test_it_has_everything_of_the_reward_inside() -> None:
    class Inner(Seen):
        name, scale, input_size = "inner", "points", 7
        default_strength, working_range, strength_source = 5.0, (2.0, 9.0), "a paper"
        preference_scale, modules, differentiable = 3.0, (torch.nn.Identity(),), False

    inner = Inner()
    part = MaskedReward(inner, soft())
    assert part.name == "inner, masked"
    for attribute in (
        *("scale", "input_size", "default_strength", "working_range"),
        *("strength_source", "preference_scale", "modules", "differentiable", "published"),
    ):
        assert getattr(part, attribute) == getattr(inner, attribute)


# ---- weights ----------------------------------------------------------------------------------


def test_masked_restricts_every_term() -> None:
    weight = Weight((Term(HUE, 25.0), Term(SharpnessReward(), -1.0, spread=2.0)))
    part, inside = masked(weight, box(4, 15, 7, 20)), pictures()[..., 4:15, 7:20]
    assert [(term.strength, term.spread) for term in part.terms] == [(25.0, 0.0), (-1.0, 2.0)]
    for term, whole in zip(part.terms, weight.terms, strict=True):
        torch.testing.assert_close(term.reward(pictures()), whole.reward(inside))
    assert part.name == "colour (hue), masked + sharpness, masked"


def hue_in(*masks: Tensor) -> Weight:
    """A term for each of the masks."""
    return Weight(tuple(Term(MaskedReward(HUE, mask), 1.0) for mask in masks))


def test_the_region_is_the_union_of_the_masks() -> None:
    first, second = box(0, 8, 0, 8), box(4, 20, 6, 30)
    both = hue_in(first, second)
    found = region(both)
    assert found is not None and torch.equal(found, torch.maximum(first, second))
    assert box_of(both, *found.shape) == (0, 20, 0, 30), "the box around both"
    assert box_of(masked(Weight.of(HUE, 1.0), second), *found.shape) == (4, 20, 6, 30)
    everywhere = Weight.of(HUE, 1.0)
    assert box_of(everywhere, *found.shape) is region(everywhere) is None
    assert region(Weight((*both.terms, *everywhere.terms))) is None


def test_the_region_of_masks_of_several_sizes_has_the_finest() -> None:
    tall, wide = box(0, 40, 0, 4, 40, 8), box(0, 10, 0, 16, 10, 16)
    found, left = region(hue_in(tall, wide)), region(hue_in(tall))
    assert found is not None and found.shape == (40, 16)
    assert (found == 1).all()
    assert left is not None and torch.equal(left, tall)


def test_a_mask_on_a_mask_is_both() -> None:
    """The inner one was stretched over the box of the outer one."""
    right, left = torch.zeros(64, 64), torch.zeros(64, 64)
    right[:, 32:], left[:, :48] = 1, 1
    twice = masked(masked(Weight.of(ColourReward("brightness"), 1.0), right), left)
    dark = torch.zeros(1, 3, 64, 64)
    for columns, is_seen in ((slice(0, 32), False), (slice(32, 48), True), (slice(48, 64), False)):
        lit = dark.clone()
        lit[..., columns] = 1
        assert (float(twice(lit)) != float(twice(dark))) is is_seen
    acts = region(twice)
    assert acts is not None and torch.equal(acts, right * left)
    assert "masked, masked" not in twice.name
    with pytest.raises(ValueError, match="areas that overlap"):
        masked(masked(Weight.of(ColourReward("brightness"), 1.0), right), 1 - right)


def test_the_noise_of_a_file_does_not_widen_a_mask() -> None:
    clean, noisy = torch.zeros(64, 64), torch.zeros(64, 64)
    clean[8:20, 8:20] = noisy[8:20, 8:20] = 1
    noisy[0, 0] = noisy[63, 63] = 1 / 255
    weights = [masked(Weight.of(ColourReward("brightness"), 1.0), m) for m in (clean, noisy)]
    assert box_of(weights[0], 256, 256) == box_of(weights[1], 256, 256)
