"""The measures of the digits table by cases whose answer is known, and the table itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lags_pack.benchmarks import digits
from torch import Tensor


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_inside_asks_in_one_direction() -> None:
    """A narrow cloud lies in a wide one of the same middle, and not the reverse."""
    wide, narrow = normal(400, 3), 0.1 * normal(400, 3, seed=1)
    assert digits.inside(narrow, wide) > 95 and digits.inside(wide, narrow) < 10
    assert digits.inside(normal(400, 3, seed=2), wide) > 80
    assert digits.inside(wide, wide) == 100 and digits.inside(wide + 50, wide) == 0


def test_kernel_distance_by_hand_and_without_bias() -> None:
    one, other = torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    apart = digits.kernel_distance(one.repeat(5, 1), other.repeat(7, 1))
    assert apart == pytest.approx(2**3 + 3**3 - 2 * 2**3)
    pairs = [(normal(40, 4, seed=2 * i), normal(40, 4, seed=2 * i + 1)) for i in range(200)]
    drawn = torch.tensor([digits.kernel_distance(a, b) for a, b in pairs])
    assert abs(float(drawn.mean())) < 4 * float(drawn.std()) / 200**0.5
    assert digits.kernel_distance(pairs[0][0], pairs[0][1] + 1) > 0.5


def test_real_images_are_copies_as_often_as_said() -> None:
    images, labels = digits.digits()
    split = digits.Split.of(images, 0)
    assert len(split.learnt) == 899 and len(split.held) == len(split.reference) == 449
    measure = digits.metrics(split, digits.trained_classifier(images, labels, 0, steps=200))
    held = measure(split.held)
    assert held["copies %"] == pytest.approx(5, abs=2.5)
    assert min(held["recall %"], held["precision %"], held["sure %"]) > 80 and held["KID"] < 1
    assert measure(split.learnt)["copies %"] == 100
    mixed = measure((split.held + split.held.roll(1, 0)) / 2)
    assert mixed["copies %"] < 1 and mixed["precision %"] < held["precision %"] - 20


def test_the_denoiser_keeps_clean_images_and_learns() -> None:
    network = digits.SmallDenoiser(0.5)
    x = normal(3, 64)
    torch.testing.assert_close(network(x, torch.full((3,), 1e-4)), x, rtol=0, atol=1e-3)
    images, _ = digits.digits()
    split = digits.Split.of(images, 0)
    untrained, trained = (digits.by_diffusion(steps, split) for steps in (1, 200))
    real = split.learnt.mean(dim=0)
    assert (trained.mean(dim=0) - real).norm() < 0.5 * (untrained.mean(dim=0) - real).norm()


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choice = ["--digits", "8", "--splits", "2", "--training", "20"]
    digits.main([*choice, "--json", str(tmp_path / "rows")])
    rows = {row["images"]: row for row in json.loads((tmp_path / "rows").read_text())}
    assert list(rows) == list(digits.methods(1))
    assert all(row[f"{key} +-"] >= 0 for row in rows.values() for key in ("copies %", "KID"))
    assert rows["real, held out"]["KID"] < rows["diffusion model"]["KID"], "hardly trained"
    assert "| MM-SOLD " in capsys.readouterr().out
