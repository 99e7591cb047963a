"""The family's table: equal budgets, every method runs, and the numbers are what they say."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from lags_pack.benchmarks import _tilt_family as table
from lags_pack.benchmarks import heart, tilt
from lags_pack.benchmarks._classifier import ShapeClassifier, trained
from lags_pack.benchmarks._family import SEVERAL, Drawn, Task, at_least, budget, family, rehearsal
from lags_pack.demo import heart as plane
from lags_pack.guidance.particles import PRESETS
from lags_pack.rewards import ColourReward
from torch import Tensor

STEPS = 8
COLUMNS = ("feature distance", "noise removed", "score distance")


class Watched:
    """A denoiser that counts the rows it is shown forward and backward."""

    def __init__(self) -> None:
        self.inner, self.rows = heart.heart_problem().base, Counter[str]()

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.rows["forward"] += x.shape[0]
        denoised = self.inner(x, sigma)
        if denoised.requires_grad:
            denoised.register_hook(lambda gradient: self.rows.update(backward=x.shape[0]))
        return denoised


def watched_task() -> tuple[Task, Watched]:
    watched = Watched()
    weight = heart.heart_problem().weight
    return Task(watched, weight, (2,), plane.SIGMA_MIN, plane.SIGMA_MAX, STEPS), watched


@pytest.mark.parametrize("particles", [2, 5])
@pytest.mark.parametrize("name", family())
def test_every_method_costs_what_it_says_and_as_much_as_ours(name: str, particles: int) -> None:
    """Counted at the model itself, a backward pass as two; the next smaller would cost less."""
    task, watched = watched_task()
    wanted = budget(task, particles)
    drawn = family()[name](task, wanted, 3, 0)
    groups, count = drawn.weights.shape
    assert groups == 3 and drawn.x.shape == (3, count, 2) and torch.isfinite(drawn.x).all()
    assert torch.allclose(drawn.weights.sum(dim=1), torch.ones(3, dtype=torch.float64))
    spent = watched.rows["forward"] + 2 * watched.rows["backward"]
    assert spent == groups * drawn.calls
    assert drawn.calls >= wanted
    # One more particle, lookahead picture, plain picture, round of the search or step at most
    most = {"zero-order search": 2 * STEPS, "FreeDoM": 9, "LiDAR": 8}
    assert drawn.calls - wanted < most.get(name, 3 * STEPS)


def test_the_budget_is_that_of_ours() -> None:
    task, _ = watched_task()
    ours = PRESETS["lags"].title
    for particles in (1, 4):
        wanted = budget(task, particles)
        drawn = family()[ours](task, wanted, 2, 0)
        assert (drawn.calls, drawn.weights.shape[1]) == (wanted, particles)
    assert budget(task, 4) == 4 * budget(task, 1) >= 4 * STEPS
    plain = family()["best of N"](task, 5 * STEPS, 2, 0)
    assert (plain.calls, plain.spent) == (5 * STEPS, "best of 5")
    assert [at_least(wanted, 30) for wanted in (0, 1, 30, 31, 184)] == [1, 1, 1, 2, 7]


def test_all_methods_are_there_and_a_rehearsal_calls_as_often() -> None:
    names, (task, _) = set(family()), watched_task()
    assert {known.title for known in PRESETS.values()} <= names
    assert {"DPS", "FreeDoM", "LiDAR", "best of N", "zero-order search"} <= names
    assert len(SEVERAL) == len(PRESETS) - 1 and "das_1p" not in SEVERAL
    for name in ("DPS", "LAGS, no weights"):
        wanted = budget(task, 3)
        real, small = (family()[name](which, wanted, 1, 0) for which in (task, rehearsal(task)))
        assert (real.calls, real.spent) == (small.calls, small.spent)


def test_more_particles_come_closer_in_the_plane() -> None:
    sizes = ((8, 1), (600, 1))
    rows = heart.family_table("heart", 1, sizes, single_runs=50, steps=STEPS)
    of = {(row["method"], row["spent on"]): row["sliced W2"] for row in rows}
    ours = PRESETS["lags"].title
    assert of[ours, "600 particles"] < of[ours, "8 particles"]
    assert {row["method"] for row in rows} == set(family())
    assert all(row["calls per particle of ours"] >= budget_of_one() for row in rows)


def budget_of_one() -> int:
    return budget(watched_task()[0], 1)


# ---- the tilt table ----------------------------------------------------------------------------


def cell_of_noise() -> tilt.Cell:
    pictures = torch.rand(400, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    classifier = ShapeClassifier().eval().requires_grad_(False)
    plain = tilt.Plain.of(pictures, classifier)
    return tilt.Cell.of("brightness", ColourReward("brightness"), 0.5, plain)


def test_noise_is_what_an_exact_method_shows() -> None:
    """Fresh groups drawn by importance weight: the distance is the noise, without it nothing."""
    cell, excess = cell_of_noise(), []
    weights = torch.ones(60, 1, dtype=torch.float64)
    for seed in range(8):
        index = torch.multinomial(cell.shares, 60, True, generator=torch.manual_seed(seed))
        found = table.measured(Drawn(cell.plain.pictures[index][:, None], weights, 1, ""), cell)
        # Drawn from the very pictures that make the target, so the target adds no noise here.
        excess.append(found["feature distance"] ** 2 / found["noise"] ** 2)
        assert found["distance +-"] < found["feature distance"]
    assert 0.6 < sum(excess) / len(excess) < 1.2


def test_weighted_groups_count_by_their_weights() -> None:
    """All plain pictures as one group with the importance weights, twice: the exact answer."""
    cell = cell_of_noise()
    shares = (cell.scores.double() * cell.strength).softmax(dim=0)
    twice = Drawn(cell.plain.pictures.expand(2, -1, -1, -1, -1), shares.expand(2, -1), 1, "")
    found = table.measured(twice, cell)
    assert found["share of shift %"] == pytest.approx(100, abs=0.1)
    assert found["feature distance"] == pytest.approx(0, abs=1e-3)
    assert found["std error %"] == pytest.approx(0, abs=0.1)
    assert found["score distance"] == pytest.approx(0, abs=2e-3)


def test_best_of_plain_takes_the_best_of_each_group() -> None:
    cell = cell_of_noise()
    drawn = table.best_of_plain(cell, 7)
    assert drawn.x.shape[:2] == (57, 1) and drawn.calls == 7 * 30
    best = cell.scores[: 57 * 7].reshape(57, 7).amax(dim=1)
    assert torch.allclose(cell.reward(drawn.x[:, 0]), best)


def test_wins_are_counted_cell_by_cell() -> None:
    def rows(cell: float, ours: float, others: float) -> list[dict[str, object]]:
        same = {"particles of ours": 4, "weight": "a", "effective %": cell, "calls per picture": 1}
        names = [table.OURS, *table.RIVALS]
        distances = [ours, others, others + 1, others + 2]
        return [
            {**same, "method": name, **dict(zip(COLUMNS, (value, -value, value), strict=True))}
            for name, value in zip(names, distances, strict=True)
        ]

    lines = table.wins([*rows(60, 0.1, 0.2), *rows(20, 1.5, 0.7), {"method": "plain"}])
    assert lines[0] == (
        f"N = 4, feature distance: {table.OURS} nearer than DAS 1 of 2, FK-steering 2 of 2, "
        "best of N 2 of 2, all three in 1"
    )
    assert lines[1].endswith("DAS 1 of 2, FK-steering 0 of 2, best of N 0 of 2, all three in 0")


def test_the_family_from_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tilt, "trained", lambda: trained(steps=5))
    monkeypatch.setattr(table, "STEPS", 3)
    names = [table.OURS, *table.RIVALS]
    arguments = ["--plain", "24", "--family", "1", "--guided", "2", "--effective", "60"]
    json_file = tmp_path / "rows.json"
    tilt.main([*arguments, "--weights", "colour", "--methods", *names, "--json", str(json_file)])
    assert "N = 1, feature distance" in capsys.readouterr().out
    rows = json.loads(json_file.read_text())[2:]
    assert [row["method"] for row in rows] == names
    assert all(row["calls per picture"] >= rows[0]["calls per picture"] for row in rows)
    assert all(math.isfinite(row["feature distance"]) for row in rows)
