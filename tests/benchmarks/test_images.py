"""Images of a known law: its denoiser is exact, and energies get their shift."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from lags_pack.benchmarks import images
from lags_pack.benchmarks.exact import Solver
from lags_pack.guidance import preset


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0, 8.0])
def test_the_denoiser_is_the_posterior_mean_of_the_draws(sigma: float) -> None:
    """What it misses has mean 0 and nothing to do with what it says."""
    data, count = images.mixture(), 4000
    generator = torch.Generator().manual_seed(2)
    x0 = data.sample(count, generator)
    x = x0 + sigma * torch.randn(x0.shape, generator=generator)
    said = data.denoise(x, torch.full((count,), sigma))
    missed = (x0 - said).double()
    together = (missed * said).sum(dim=1)
    assert abs(float(together.mean())) < 4 * float(together.std()) / math.sqrt(count)
    mean = missed.mean(dim=0) / (missed.std(dim=0) / math.sqrt(count))
    assert float(mean.square().mean()) < 2
    # Nor with the brightness of single pixels, before and after.
    for pixel in (0, 300, 700):
        one = missed[:, pixel] * x[:, pixel]
        assert abs(float(one.mean())) < 4 * float(one.std()) / math.sqrt(count)


def test_draws_look_like_the_images_they_are_fitted_to() -> None:
    data = images.mixture()
    drawn = data.images(data.sample(3000, torch.Generator().manual_seed(1)))
    real = images.drawn_images(3000, torch.Generator().manual_seed(8))
    for of in (torch.mean, torch.std):
        assert torch.allclose(of(drawn, dim=0), of(real, dim=0), atol=0.03)
    assert float(images.edges(drawn).mean() / images.edges(real).mean()) == pytest.approx(
        1, abs=0.2
    )


def test_a_quadratic_weight_gets_its_shift() -> None:
    """80 and 70 % when a shift was the full one at most."""
    solver, methods = Solver("euler_ancestral", 30), {"balanced": preset("balanced")}
    found = images.rows(solver, ["contrast"], [0.2, 0.05], methods, plain=4000, guided=256)
    assert [row["shift %"] for row in found] == pytest.approx([100, 97], abs=8)
    assert all(row["weight calls"] <= 12 for row in found)


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choice = ["--steps", "8", "--plain", "200", "--guided", "8", "--effective", "60"]
    images.main([*choice, "--modes", "paper", images.TEXTBOOK, "--json", str(tmp_path / "rows")])
    found = json.loads((tmp_path / "rows").read_text())
    assert [row["weight"] for row in found[::2]] == list(images.SCORES)
    assert all(math.isfinite(row["shift %"]) for row in found)
    assert "of 9 within 85 to 115 %" in capsys.readouterr().out
