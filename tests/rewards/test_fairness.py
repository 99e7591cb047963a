"""Balance on a trained model: classes come as often as they should."""

from __future__ import annotations

import pytest
import torch
from lags_pack.demo.model import load_network
from lags_pack.demo.pictures import draw_pictures
from lags_pack.guidance import preset
from lags_pack.rewards import BalanceReward, ClassReward, Reward, Weight
from lags_pack.rewards.classifier import Classifier
from lags_pack.rewards.preprocessing import Preprocessing
from torch import Tensor, nn


class Blueness(nn.Module):
    """Logits of two classes, bluer than a bias or not."""

    def __init__(self, bias: float, gain: float = 60.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias), requires_grad=False)
        self.gain = gain

    def forward(self, pixels: Tensor) -> Tensor:
        difference = (pixels[:, 2] - pixels[:, 0]).mean(dim=(1, 2)) - self.bias
        return torch.stack([difference, -difference], dim=1) * self.gain / 2


@pytest.fixture(scope="module")
def plain() -> Tensor:
    return draw_pictures(load_network(), 64, 5, steps=20)[0]


@pytest.fixture(scope="module")
def model(plain: Tensor) -> Classifier:
    """Calls about a fifth of the plain images blue."""
    net = Blueness(float((plain[:, 2] - plain[:, 0]).mean(dim=(1, 2)).quantile(0.8)))
    look = Preprocessing(32, mean=(0,) * 3, std=(1,) * 3)
    model = Classifier(net, lambda net, pixels: net(pixels), look, 2)
    model.names = ("blue", "other")
    return model


def shares(model: Classifier, pictures: Tensor) -> Tensor:
    with torch.no_grad():
        return model(pictures).softmax(dim=1).mean(dim=0)


def test_balance_draws_a_rare_class_more_often(model: Classifier, plain: Tensor) -> None:
    rates = shares(model, plain)
    assert rates[0] < 0.3
    drawn = guided_by(BalanceReward(model, [0, 1], rates.tolist()), 64)
    assert rates[0] + 0.1 < shares(model, drawn)[0] < 0.7


def test_away_makes_the_common_class_rarer(model: Classifier, plain: Tensor) -> None:
    drawn = guided_by(ClassReward(model, [1], away=True), 32)
    assert shares(model, drawn)[1] < shares(model, plain)[1] - 0.2


def guided_by(reward: Reward, count: int) -> Tensor:
    options = {"method": preset("balanced"), "weight": Weight.of(reward, 1.0)}
    return draw_pictures(load_network(), count, 5, steps=20, **options)[0]


def test_balance_weighs_plain_pictures_to_the_targets(model: Classifier, plain: Tensor) -> None:
    """For a classifier that is sure, weighted plain images have exactly the wanted shares."""
    sure = Classifier(Blueness(float(model.net.bias), 1e5), model.features, model.preprocessing, 2)
    sure.names = model.names
    rates = shares(sure, plain)
    for targets in ([0.5, 0.5], [0.9, 0.1]):
        w = Weight.of(BalanceReward(sure, [0, 1], rates.tolist(), targets), 1.0)(plain).exp()
        with torch.no_grad():
            weighted = (w[:, None] * sure(plain).softmax(dim=1)).sum(dim=0) / w.sum()
        assert torch.allclose(weighted, torch.tensor(targets), atol=0.02)
