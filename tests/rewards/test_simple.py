"""Sharpness, symmetry and JPEG size: the scores without a network or a setting."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lags_pack.rewards import JpegSizeReward, SharpnessReward, SymmetryReward
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


def pictures(count: int = 2, height: int = 24, width: int = 32, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def grey(rows: Tensor) -> Tensor:
    """[H, W] -> [1, 3, H, W]."""
    return rows.expand(1, 3, -1, -1)


def checkerboard(size: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    steps = torch.arange(size)
    return low + (high - low) * ((steps[:, None] + steps) % 2).float()


# ---- sharpness --------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "low", "high"), [(8, 0.0, 1.0), (5, 0.25, 0.75)])
def test_the_sharpness_of_a_checkerboard(size: int, low: float, high: float) -> None:
    """Four neighbours differ from each pixel; at edges three, in corners two."""
    inner = size - 2
    squares = 16 * inner**2 + 4 * inner * 9 + 4 * 4
    expected = math.log(squares / size**2 * (high - low) ** 2)
    score = SharpnessReward()(grey(checkerboard(size, low, high))).item()
    assert score == pytest.approx(expected, abs=1e-5)


def test_the_sharpness_of_a_slope_is_that_of_its_ends() -> None:
    slope = (0.02 * torch.arange(20)).expand(10, 20)
    expected = math.log(2 * 0.02**2 / 20 + 1e-8)
    assert SharpnessReward()(grey(slope)).item() == pytest.approx(expected, abs=1e-3)
    assert SharpnessReward()(grey(slope.T)).item() == pytest.approx(expected, abs=1e-3)


def test_the_sharpness_is_of_the_brightness() -> None:
    board, channels = checkerboard(8), torch.zeros(3, 3, 8, 8)
    whole = SharpnessReward()(grey(board)).item()
    channels[range(3), range(3)] = board
    for score, share in zip(SharpnessReward()(channels), (0.2126, 0.7152, 0.0722), strict=True):
        assert score.item() == pytest.approx(whole + 2 * math.log(share), abs=1e-4)


def test_a_blur_lowers_the_sharpness_and_contrast_counts_squared() -> None:
    reward, images, scores = SharpnessReward(), pictures(), []
    for width in (1, 3, 5, 9):
        padded = F.pad(images, [width // 2] * 4, mode="replicate")
        scores.append(reward(F.avg_pool2d(padded, width, stride=1)))
    assert all((later < earlier).all() for earlier, later in zip(scores, scores[1:], strict=False))
    halved = reward(0.5 + 0.5 * (images - 0.5))
    torch.testing.assert_close(halved, reward(images) - 2 * math.log(2), atol=1e-4, rtol=0)
    assert reward(grey(torch.full((8, 8), 0.3))).item() == pytest.approx(math.log(1e-8), abs=1e-3)


# ---- symmetry ---------------------------------------------------------------------------------

MIRRORS = {"left-right": 3, "top-bottom": 2}


@pytest.mark.parametrize("axis", MIRRORS)
def test_symmetry_is_minus_the_root_mean_square_difference(axis: str) -> None:
    images = pictures()
    reward, mirrored = SymmetryReward(axis), images.flip(MIRRORS[axis])
    expected = -(images - mirrored).flatten(1).square().mean(dim=1).sqrt()
    torch.testing.assert_close(reward(images), expected)
    symmetric, (other,) = (images + mirrored) / 2, MIRRORS.keys() - {axis}
    torch.testing.assert_close(reward(symmetric), torch.zeros(2), atol=2e-4, rtol=0)
    assert (SymmetryReward(other)(symmetric) < -0.1).all() and (reward(images) < -0.1).all()
    assert reward.name == f"symmetry ({axis})"
    halves = torch.zeros(1, 3, 8, 8)
    halves[:, :, :, 4:] = 1  # black beside white
    worst = {"left-right": -1.0, "top-bottom": 0.0}[axis]
    assert reward(halves).item() == pytest.approx(worst, abs=2e-4 if worst == 0 else None)


@pytest.mark.parametrize("axis", MIRRORS)
def test_its_gradient_leads_to_symmetry(axis: str) -> None:
    reward, images = SymmetryReward(axis), pictures()
    start = reward(images)
    for _ in range(60):
        leaf = images.requires_grad_()
        (grad,) = torch.autograd.grad(reward(leaf).sum(), leaf)
        images = (leaf + 20 * grad).detach()
    assert (reward(images) > start / 10).all()
    assert (images - pictures()).abs().mean() < 0.3  # the nearest symmetric image, not any
    torch.testing.assert_close(images, images.flip(MIRRORS[axis]), atol=0.1, rtol=0)


@pytest.mark.parametrize("axis", ["diagonal", "", "Left-right"])
def test_an_unknown_axis_is_refused(axis: str) -> None:
    said = rf"^symmetry axis is {axis!r}; expected one of \('left-right', 'top-bottom'\)\.$"
    with pytest.raises(ValueError, match=said):
        SymmetryReward(axis)


# ---- JPEG size --------------------------------------------------------------------------------


def test_the_jpeg_size_is_that_of_the_file(tmp_path: Path) -> None:
    images = pictures(3, 40, 56)
    images[1] = F.interpolate(images[1:2, :, :4, :4], (40, 56), mode="bilinear")[0]
    scores = JpegSizeReward()(images)
    for number, image in enumerate(images):
        path = tmp_path / f"{number}.jpg"
        levels = np.uint8(np.round(image.permute(1, 2, 0).numpy() * 255))
        Image.fromarray(levels).save(path, quality=95)
        assert scores[number].item() == pytest.approx(path.stat().st_size / 1000, abs=1e-6)
    assert scores.dtype == torch.float32 and scores.shape == (3,)


def test_noise_is_larger_than_a_slope_and_what_lies_beyond_0_to_1_is_cut_as_in_a_file() -> None:
    slope, flat = torch.linspace(0, 1, 64).expand(3, 64, 64), torch.full((3, 64, 64), 0.5)
    sizes = JpegSizeReward()(torch.stack([pictures(1, 64, 64)[0], slope, flat]))
    assert sizes[0] > 3 * sizes[1] > 3 * sizes[2] > 0
    images = 3 * pictures() - 1
    assert torch.equal(JpegSizeReward()(images), JpegSizeReward()(images.clamp(0, 1)))
