"""What every reward promises, whatever the image."""

from __future__ import annotations

import copy
import inspect
import math

import pytest
import torch
from lags_pack import rewards
from lags_pack.guidance import AutogradLogWeight, WeightError
from lags_pack.rewards import REWARDS, Reward, Weight
from lags_pack.tests.reward_table import (
    BLACK_BOXES,
    DIFFERENTIABLE,
    EVERY,
    KINKED,
    NETWORKS,
    every_reward,
    gradient,
    mild,
    pictures,
)
from torch import Tensor, nn

SIZES = [(8, 8), (64, 64), (512, 512), (96, 32), (32, 96), (9, 27), (37, 53)]
Built = dict[str, Reward]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, Built]:
    """All rewards, twice: what one set keeps of its calls the other does not know."""
    rewards = every_reward(tmp_path_factory.mktemp("models"))
    return rewards, copy.deepcopy(rewards)


@pytest.fixture(scope="module")
def built(twins: tuple[Built, Built]) -> Built:
    return twins[0]


@pytest.fixture(params=EVERY)
def reward(request: pytest.FixtureRequest, built: Built) -> Reward:
    return built[request.param]


def test_every_exported_reward_is_registered_and_tested_here(built: Built) -> None:
    public = list(vars(rewards).values())
    kinds = {item for item in public if inspect.isclass(item) and issubclass(item, Reward)}
    assert kinds - {Reward} == set(REWARDS) == {type(reward) for reward in built.values()}
    assert len(REWARDS) == len(set(REWARDS))


def test_states_what_it_is_whether_it_has_a_gradient_and_which_size_it_sees(built: Built) -> None:
    for name, reward in built.items():
        assert reward.name and reward.scale and reward.strength_source, name
        low, high = reward.working_range
        assert 0 < low <= reward.default_strength <= high < math.inf, name
    assert {name for name in built if not built[name].differentiable} == set(BLACK_BOXES)
    assert {name for name in built if built[name].input_size} == set(NETWORKS)


# ---- scores and gradients -------------------------------------------------------------------


def scores_and_gradient(reward: Reward, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Checked for what is promised of any image; no gradient for a black box."""
    leaf = images.clone().requires_grad_(reward.differentiable)
    scores = reward(leaf)
    assert scores.shape == images.shape[:1] and scores.dtype == torch.float32
    assert torch.isfinite(scores).all()
    if not reward.differentiable:
        return scores, None
    (grad,) = torch.autograd.grad(scores.sum(), leaf)
    assert torch.isfinite(grad).all()
    return scores.detach(), grad


def test_pictures_of_any_size_have_a_score_and_a_gradient(reward: Reward) -> None:
    """Of flat ones finite: black, white, grey and what a decoder gives beyond 0..1, all kinks."""
    for height, width in SIZES:
        scores, grad = scores_and_gradient(reward, pictures(2, height, width))
        if grad is not None:
            assert (grad.flatten(1).norm(dim=1) > 0).all(), (height, width)
            assert scores[0] != scores[1], (height, width)
    values = torch.tensor([0.0, 1.0, 0.5, -0.3, 1.7])
    scores_and_gradient(reward, values.view(-1, 1, 1, 1).expand(-1, 3, 16, 16))


def test_a_picture_does_not_depend_on_the_rest_of_the_batch(reward: Reward) -> None:
    images = pictures(4, 24, 20)
    singles = torch.cat([reward(image[None]) for image in images])
    assert torch.allclose(reward(images), singles, rtol=1e-5, atol=1e-5)
    if not reward.differentiable:
        return
    leaf = images.requires_grad_()
    (grad,) = torch.autograd.grad(reward(leaf)[1], leaf)
    assert (grad[[0, 2, 3]] == 0).all() and (grad[1] != 0).any()
    single = gradient(reward, leaf.detach()[1:2])
    assert (grad[1:2] - single).norm() < 1e-4 * single.norm()


def test_twice_the_same_picture_twice_the_same_number(reward: Reward) -> None:
    """Beyond the range too, where there is a gradient; and the image is left as it was."""
    images = 2 * pictures(2, 40, 24) - 0.5
    before = images.clone()
    _, grad = scores_and_gradient(reward, images)
    assert torch.equal(reward(images), reward(images))
    assert torch.equal(images, before)
    assert grad is None or (grad.flatten(1).norm(dim=1) > 0).all()


def test_half_precision_pictures_are_scored_in_float32(reward: Reward) -> None:
    """The gradient has the rounding of the image's precision, which it takes."""
    for dtype in (torch.float16, torch.bfloat16):
        images = pictures(2, 64, 64).to(dtype)
        scores, grad = scores_and_gradient(reward, images)
        expected, exact = scores_and_gradient(reward, images.float())
        assert torch.allclose(scores, expected, rtol=1e-5)
        assert grad is None or (grad.float() - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_is_that_of_central_differences(built: Built, name: str) -> None:
    """Along random directions; float32, so the step is long and the tolerance 5 %.

    A short one where a long one crosses kinks: their error falls with it, to 0.5 to 2 % here.
    """
    reward, step = built[name], 2e-4 if name in KINKED else 5e-3
    for height, width in ((16, 16), (48, 64)):
        images, generator = mild(1, height, width), torch.Generator().manual_seed(2)
        directions = torch.randn(32, *images.shape[1:], generator=generator)
        with torch.no_grad():
            ahead, behind = (reward(images + h * directions) for h in (step, -step))
        expected = (gradient(reward, images) * directions).sum(dim=(1, 2, 3))
        assert ((ahead - behind) / (2 * step) - expected).norm() < 0.05 * expected.norm(), height


def test_all_networks_are_handed_over_ready_for_use(built: Built) -> None:
    """Else whoever manages memory would leave one behind on another device."""
    for name, reward in built.items():
        assert isinstance(reward.modules, tuple), name
        assert all(isinstance(module, nn.Module) for module in reward.modules), name
        listed = [part for module in reward.modules for part in module.modules()]
        for part in listed:
            assert not part.training, name
            assert not any(parameter.requires_grad for parameter in part.parameters()), name
        own = [value for value in vars(reward).values() if isinstance(value, nn.Module)]
        assert {id(network) for network in own} <= {id(part) for part in listed}, name
        assert bool(listed) == (name in NETWORKS), name


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_runs_in_inference_mode(twins: tuple[Built, Built], name: str) -> None:
    """Where ComfyUI runs its nodes, its very first call; and afterwards, outside of it, as before.

    The first call of the second set: nothing that it keeps comes from before.
    """
    weight, images = Weight.of(twins[1][name], 1.0), pictures(2, 40, 24)
    log_weight = AutogradLogWeight(weight, weight.name)
    with torch.inference_mode():
        score = weight(images.clone())
        value, grad = log_weight.value_and_grad(images.clone())
        assert torch.allclose(score, value, rtol=1e-5, atol=1e-5)
    outside, expected = log_weight.value_and_grad(images)
    assert torch.equal(value, outside) and torch.equal(grad, expected)
    assert not grad.is_inference()


@pytest.mark.parametrize("name", BLACK_BOXES)
def test_a_black_box_scores_in_inference_mode_and_is_refused_by_guidance(
    built: Built, name: str
) -> None:
    images, weight = pictures(2, 40, 24), Weight.of(built[name], 1.0)
    with torch.inference_mode():
        inside = built[name](images.clone())
    assert torch.equal(inside, built[name](images))
    assert not built[name](images.requires_grad_()).requires_grad
    with pytest.raises(WeightError, match=rf"'{weight.name}' gives no gradient"):
        AutogradLogWeight(weight, weight.name).value_and_grad(images)
