"""The bundled classifier of green pictures: what it knows, and that it can be trained again."""

from __future__ import annotations

from pathlib import Path

import torch
from lags_pack.demo import classifier as bundled
from lags_pack.demo.shapes import COLOURS, random_batch
from lags_pack.rewards import BalanceReward
from lags_pack.rewards.classifier import Classifier, among, classifier


def loaded(folder: Path = bundled.FOLDER) -> Classifier:
    return classifier(folder / "model.safetensors", torch.float32)


def test_it_knows_green_pictures_and_how_much_of_a_mixture_is_green() -> None:
    images, _, colour = random_batch(512, torch.Generator().manual_seed(11))
    mixed, share = bundled.mixtures(512, torch.Generator().manual_seed(12))
    model, is_green = loaded(), colour == COLOURS.index("green")
    assert model.names == ("green", "not green")
    with torch.no_grad():
        shares, found = (among(model, one, (0, 1)).exp()[:, 0] for one in (images, mixed))
    assert ((shares > 0.5) == is_green).float().mean() > 0.98
    assert float(shares[is_green].mean()) > 0.85 and float(shares[~is_green].mean()) < 0.03
    assert float((found - share).abs().mean()) < 0.1


def test_balance_has_a_gradient_where_nothing_is_decided_yet() -> None:
    """The mean of many pictures, of which every eighth is green: more green is asked for."""
    images, _, colour = random_batch(256, torch.Generator().manual_seed(13))
    mean = images.mean(dim=0, keepdim=True).requires_grad_()
    score = BalanceReward(loaded(), (0, 1), (0.12, 0.88))(mean)
    (slope,) = torch.autograd.grad(score.sum(), mean)
    towards = images[colour == COLOURS.index("green")].mean(dim=0) - mean[0].detach()
    assert float((slope[0] * towards).sum()) > 0.05


def test_training_writes_what_the_weight_node_reads(tmp_path: Path) -> None:
    before = bundled.train(steps=5, folder=tmp_path / "five")
    after = bundled.train(steps=60, folder=tmp_path / "sixty")
    assert after < before
    assert bundled.train(steps=5, folder=tmp_path / "again") == before
    net = loaded(tmp_path / "sixty")
    assert net.preprocessing.size == loaded().preprocessing.size == 32
    files = sorted(path.name for path in (tmp_path / "sixty").iterdir())
    assert files == ["config.json", "model.safetensors", "preprocessor_config.json"]
