"""Rates of an attribute: the strength that is asked for, and the table from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lags_pack.benchmarks import attributes
from lags_pack.benchmarks._classifier import ShapeClassifier
from lags_pack.benchmarks._tilting import strength_for_rate, tilted_mean
from lags_pack.demo.shapes import COLOURS
from lags_pack.rewards.classifier import Classifier, among
from lags_pack.rewards.preprocessing import Preprocessing
from torch import Tensor, nn


def test_strength_makes_the_attribute_come_at_the_asked_rate() -> None:
    """Normal scores tilted by s are normal around s: half of them are above s."""
    scores = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    for edge in (0.5, 1.2):
        strength = strength_for_rate(scores, scores > edge, 0.5)
        assert strength == pytest.approx(edge, rel=0.03)
        assert tilted_mean(scores > edge, scores, strength) == pytest.approx(0.5)


def test_two_classes_hold_the_probability_of_the_eight_colours() -> None:
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    classifier = ShapeClassifier().eval().requires_grad_(False)
    model = attributes.one_colour(classifier, "green")
    expected = classifier(images)[1].softmax(dim=1)[:, COLOURS.index("green")]
    assert torch.allclose(model(images).exp().sum(dim=1), torch.ones(5), atol=1e-5)
    assert torch.allclose(among(model, images, (0, 1)).exp()[:, 0], expected, atol=1e-5)
    assert model.names == ("green", "not green")


class Greenness(nn.Module):
    """Logits of greener than the edge or not, which needs no training."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(60.0), requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        green = (pixels[:, 1] - (pixels[:, 0] + pixels[:, 2]) / 2).mean(dim=(1, 2)) - 0.03
        return torch.stack([green, -green], dim=1) * self.gain / 2


def test_the_table_from_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Preprocessing(32, mean=(0.0,) * 3, std=(1.0,) * 3)
    model = Classifier(Greenness(), lambda net, pixels: net(pixels), look, 2)
    model.names = ("green", "not green")
    monkeypatch.setattr(attributes, "trained", lambda: None)
    monkeypatch.setattr(attributes, "one_colour", lambda classifier, colour: model)
    sizes = ["--plain", "64", "--guided", "32", "--steps", "8"]
    attributes.main([*sizes, "--json", str(tmp_path / "rows.json")])
    assert "frequency band" in capsys.readouterr().out
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["method"] for row in rows] == ["plain", "exact", "balanced"] * 4
    assert [row["strength"] for row in rows[6::3]] == [3.0, -3.0]
    plain, exact, _ = (row["green %"] for row in rows[3:6])
    assert plain < 45 and exact == pytest.approx(50, abs=0.1)
    for first in (0, 3):  # both weights make it more frequent
        assert rows[first + 2]["green %"] > plain + 5
    detail = [row["mean score"] for row in rows[6:]]
    assert detail[2] > detail[0] + 0.3 and detail[5] < detail[3] - 0.5
    assert detail[0] == detail[3]  # the same plain pictures


def test_counts_below_one_and_a_rate_out_of_reach_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        attributes.main(["--guided", "0"])
    assert "must be 1 or more" in capsys.readouterr().err
    scores = torch.linspace(-1, 1, 9)
    with pytest.raises(ValueError, match=r"rate of 0\.5.*higher where the attribute is"):
        strength_for_rate(scores, scores < 0, 0.5)
