"""What every closed-form reward promises, whatever the picture."""

from __future__ import annotations

import pytest
import torch
from lags_pack.rewards import ColourReward, FrequencyReward, Reward
from lags_pack.rewards.colour import ATTRIBUTES
from torch import Tensor

REWARDS = {
    **{name: ColourReward(name, hue=40.0, colour="#2060ff") for name in ATTRIBUTES},
    "low band": FrequencyReward(0.1, 0.25),
    "high band": FrequencyReward(0.25, 0.71),
}
SIZES = [(8, 8), (64, 64), (1024, 1024), (96, 32), (9, 27)]


def pictures(count: int, height: int = 16, width: int = 16, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def gradient(reward: Reward, images: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_()
    (grad,) = torch.autograd.grad(reward(leaf).sum(), leaf)
    return grad


@pytest.fixture(params=REWARDS)
def reward(request: pytest.FixtureRequest) -> Reward:
    return REWARDS[request.param]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_scores_pictures_of_any_size(reward: Reward, height: int, width: int) -> None:
    images = pictures(2, height, width)
    scores, grad = reward(images), gradient(reward, images)
    assert scores.shape == (2,) and scores.dtype == torch.float32
    assert torch.isfinite(scores).all() and torch.isfinite(grad).all()
    assert (grad.flatten(1).norm(dim=1) > 0).all()
    assert scores[0] != scores[1]


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5, -0.3, 1.7])
def test_flat_pictures_have_finite_scores_and_gradients(reward: Reward, value: float) -> None:
    """Black, white and grey, and what a decoder gives beyond 0..1: the kinks of all the norms."""
    images = torch.full((2, 3, 16, 16), value)
    assert torch.isfinite(reward(images)).all()
    assert torch.isfinite(gradient(reward, images)).all()


def test_gradient_is_that_of_central_differences(reward: Reward) -> None:
    """Along random directions; float32, so the step is long and the tolerance 5 %."""
    images, generator = 0.2 + 0.6 * pictures(1), torch.Generator().manual_seed(2)
    directions = torch.randn(32, *images.shape[1:], generator=generator)
    slopes = (reward(images + 5e-3 * directions) - reward(images - 5e-3 * directions)) / 1e-2
    expected = (gradient(reward, images) * directions).sum(dim=(1, 2, 3))
    assert (slopes - expected).norm() < 0.05 * expected.norm()


def test_samples_of_a_batch_do_not_touch(reward: Reward) -> None:
    images = pictures(4)
    singles = torch.cat([reward(image[None]) for image in images])
    assert torch.allclose(reward(images), singles, rtol=1e-5, atol=1e-6)
    leaf = images.clone().requires_grad_()
    (grad,) = torch.autograd.grad(reward(leaf)[1], leaf)
    assert (grad[[0, 2, 3]] == 0).all() and (grad[1] != 0).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_pictures_are_scored_in_float32(reward: Reward, dtype: torch.dtype) -> None:
    images = pictures(2, 64, 64).to(dtype)
    assert reward(images).dtype == torch.float32
    assert torch.allclose(reward(images), reward(images.float()), rtol=1e-6)
    assert torch.isfinite(gradient(reward, images)).all()


def test_the_score_does_not_depend_on_what_else_is_drawn(reward: Reward) -> None:
    """Twice the same picture, the same number; and the picture is not changed."""
    images = pictures(2)
    before = images.clone()
    assert torch.equal(reward(images), reward(images))
    assert torch.equal(images, before)


def test_states_its_name_and_its_scale(reward: Reward) -> None:
    assert reward.name and reward.scale and reward.differentiable is True
