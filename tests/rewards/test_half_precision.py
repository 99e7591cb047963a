"""Networks in float16 and bfloat16: the score and the gradient of float32, at any strength."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from lags_pack.guidance import AutogradLogWeight
from lags_pack.rewards import Reward, Weight
from lags_pack.tests.reward_table import KINKED, NETWORKS, gradient, pictures
from torch import Tensor
from torch.nn import functional as F

# Of the score's deviation over images of noise, which differ little; measured: 0.009 and 0.1.
SCORE_ERROR = {torch.float16: 0.03, torch.bfloat16: 0.25}
# Measured: 0.99998 and 0.9996; with kinks 0.998 and 0.984.
COSINE = {torch.float16: (0.999, 0.995), torch.bfloat16: (0.99, 0.97)}
IMAGES = pictures(6, 40, 40)


@dataclass
class Pair:
    """The same network twice."""

    half: Reward
    full: Reward
    dtype: torch.dtype


@pytest.fixture(scope="module", params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def full(name: str, tmp_path_factory: pytest.TempPathFactory) -> Reward:
    return NETWORKS[name](tmp_path_factory.mktemp("models"), torch.float32)


@pytest.fixture(scope="module", params=[torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def pair(
    request: pytest.FixtureRequest,
    name: str,
    full: Reward,
    tmp_path_factory: pytest.TempPathFactory,
) -> Pair:
    folder = tmp_path_factory.mktemp("models")
    return Pair(NETWORKS[name](folder, request.param), full, request.param)


def scaled_gradient(reward: Reward, strengths: Tensor) -> Tensor:
    """Of each image's strength * score, divided by the strength again."""
    leaf = IMAGES.clone().requires_grad_()
    (grad,) = torch.autograd.grad((strengths * reward(leaf)).sum(), leaf)
    return grad / strengths.view(-1, 1, 1, 1)


def test_score_and_gradient_are_close_to_those_of_float32(pair: Pair, name: str) -> None:
    dtypes = {p.dtype for module in pair.half.modules for p in module.parameters()}
    assert pair.dtype in dtypes
    scores, expected = pair.half(IMAGES), pair.full(IMAGES)
    assert scores.dtype == torch.float32
    assert (scores - expected).abs().max() < SCORE_ERROR[pair.dtype] * expected.std()
    assert not torch.equal(scores, expected)
    grad, expected = gradient(pair.half, IMAGES), gradient(pair.full, IMAGES)
    cosine = F.cosine_similarity(grad.flatten(1), expected.flatten(1))
    assert grad.dtype == torch.float32 and cosine.min() > COSINE[pair.dtype][name in KINKED]
    assert torch.allclose(grad.norm(), expected.norm(), rtol=0.03)


@pytest.mark.parametrize("strength", [1e4, 1e-6])
def test_gradient_survives_any_strength(pair: Pair, strength: float) -> None:
    """float16 holds 6e-8 to 65504: a network's inner gradients must not leave that."""
    weight = AutogradLogWeight(Weight.of(pair.half, strength), pair.half.name)
    _, grad = weight.value_and_grad(IMAGES)
    expected = gradient(pair.half, IMAGES)
    assert torch.isfinite(grad).all()
    assert (grad / strength - expected).norm() < 1e-2 * expected.norm()


def test_every_picture_of_a_batch_has_its_own_range(pair: Pair) -> None:
    strengths = torch.tensor([1e4, 1e-6] * 3)
    grad, expected = scaled_gradient(pair.half, strengths), gradient(pair.half, IMAGES)
    errors = (grad - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert errors.max() < 1e-2
    # Without a say the gradient is zero; black and white are finite.
    leaf = IMAGES.clone().requires_grad_()
    (grad,) = torch.autograd.grad(pair.half(leaf)[1:].sum() + 0 * pair.half(leaf)[0], leaf)
    assert (grad[0] == 0).all() and (grad[1:].flatten(1).norm(dim=1) > 0).all()
    images = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    assert torch.isfinite(pair.half(images)).all()
    assert torch.isfinite(gradient(pair.half, images)).all()
