"""Any function of images is a reward."""

from __future__ import annotations

import pytest
import torch
from lags_pack.rewards import FunctionReward, Weight
from torch import Tensor, nn


def redness(images: Tensor) -> Tensor:
    return images[:, 0].mean(dim=(1, 2))


def test_what_a_function_says_of_itself_is_read_and_a_bare_one_has_every_default() -> None:
    class Score:
        name, scale, differentiable, input_size = "taste", "0 to 1", False, 224
        modules = (nn.Linear(1, 1),)

        def __call__(self, images: Tensor) -> Tensor:
            return redness(images)

    reward, bare = FunctionReward(Score()), FunctionReward(redness)
    assert (reward.name, reward.scale, reward.differentiable) == ("taste", "0 to 1", False)
    assert reward.needed_side == 448 and reward.modules == Score.modules
    assert not Weight.of(reward, 2.0).differentiable
    assert (bare.name, bare.differentiable, bare.input_size) == ("redness", True, None)
    assert bare.modules == () and bare.needed_side is None and bare.scale


def test_scores_are_the_functions_own_in_float32_and_a_network_is_moved_with_its_weights() -> None:
    class Redness(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return redness(images)

    images, network = torch.rand(3, 3, 5, 4), Redness()
    halves = FunctionReward(lambda pictures: redness(pictures).half())(images)
    assert halves.dtype == torch.float32
    assert torch.equal(FunctionReward(redness)(images), redness(images))
    reward = FunctionReward(network)
    assert reward.modules == (network,) and torch.equal(reward(images), redness(images))


@pytest.mark.parametrize(
    ("returned", "said"),
    [(torch.zeros(2), r"\(2,\)"), (torch.zeros(3, 1), r"\(3, 1\)"), (0.5, "float"), ([1], "list")],
)
def test_anything_but_one_number_for_each_picture_is_refused(returned: object, said: str) -> None:
    with pytest.raises(ValueError, match=rf"returned {said} for 3 images; expected .*\(3,\)"):
        FunctionReward(lambda images: returned)(torch.rand(3, 3, 4, 4))


def test_a_function_gets_images_in_0_to_1() -> None:
    """Decoded ones go a little beyond, where a root is no number."""
    root = FunctionReward(lambda x: x.sqrt().mean((1, 2, 3)))
    assert root(torch.full((1, 3, 4, 4), -0.02)).isfinite().all()
    assert torch.equal(root(torch.full((1, 3, 4, 4), 1.3)), root(torch.ones(1, 3, 4, 4)))
