"""The paper's experiment on networks of random weights: what it draws, counts and keeps."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lags_pack.benchmarks._judge import Judge, Real
from lags_pack.benchmarks._paper_plot import draw
from lags_pack.benchmarks._scenes import (
    Scenes,
    deviation,
    frechet_distance,
    look,
    pairwise_distance,
    prompts,
)
from lags_pack.benchmarks.paper import (
    NO_STRENGTH,
    RULER,
    RUNS,
    WITHOUT_STRENGTH,
    Bench,
    gains,
    main,
    rows_of,
    settings,
)
from lags_pack.demo.scenes.captions import read_labels
from lags_pack.demo.scenes.compose import allowed_combinations
from lags_pack.demo.scenes.diffusion import SceneDenoiser
from lags_pack.demo.scenes.text import split_words
from lags_pack.guidance.contracts import (
    ConditionalDenoiser,
    CorrectedDenoiser,
    DifferentiableDenoiser,
)
from lags_pack.rewards import PickScore, Weight
from lags_pack.tests.scene_files import random_judge, random_scenes
from torch import Tensor

STEPS = 4


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    return random_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def judge() -> tuple[Judge, Real]:
    return random_judge()


@pytest.fixture(scope="module")
def bench(scenes: Scenes, judge: tuple[Judge, Real]) -> Bench:
    return Bench(scenes, *judge, seeds=2, steps=STEPS, cfg=5.0)


def test_every_third_prompt_is_of_two_subjects_that_training_never_drew_together() -> None:
    on, beside = allowed_combinations()
    for number, prompt in enumerate(prompts(12)):
        first, second, colour = (int(column) for column in prompt.labels)
        seen = bool(on[first, colour])
        if second >= 0:
            seen &= bool(on[second, colour] & beside[first, second])
        assert prompt.is_hard == (number % 3 == 2) == (not seen)
        assert not prompt.is_hard or (second >= 0 and not bool(beside[first, second]))
        assert not split_words(prompt.text)[1]
        assert read_labels(prompt.text) == prompt.labels, "the judge looks for what is asked for"
    assert [one.text for one in prompts(5)] == [one.text for one in prompts(12)[:5]]


def test_the_denoiser_can_do_what_methods_ask_for(scenes: Scenes) -> None:
    denoiser = scenes.denoiser("a cat on red", cfg=5.0)
    assert isinstance(denoiser, ConditionalDenoiser)
    assert isinstance(denoiser, CorrectedDenoiser)
    assert isinstance(denoiser, DifferentiableDenoiser)
    x = 3 * torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([3.0, 3.0])
    combined = denoiser(x, sigma)
    alone = SceneDenoiser(denoiser.unet, denoiser.context, denoiser.negative, 1.0)
    nothing = SceneDenoiser(denoiser.unet, denoiser.negative, denoiser.negative, 1.0)
    cond, uncond = alone(x, sigma), nothing(x, sigma)
    correction = denoiser.correction()
    assert correction is not None and alone.correction() is None
    assert torch.allclose(correction, 5 * (cond - uncond), atol=1e-4)
    assert torch.allclose(combined, uncond + correction, atol=1e-4)
    moved = x + 0.1
    expected = combined + alone(moved, sigma) - cond
    assert torch.allclose(denoiser.conditional(moved, sigma), expected, atol=1e-4)
    assert denoiser.branches == 2 * 2 + 2  # two images, two branches; then one branch


def test_a_strength_is_a_number_of_nats_per_standard_deviation(scenes: Scenes) -> None:
    prompt = prompts(1)[0]
    reward = scenes.scorer(PickScore, prompt.text)

    def nats(strength: float) -> float:
        task = scenes.task(prompt.text, Weight.of(reward, strength), 5.0, STEPS)
        return deviation(task)

    unit = nats(1.0)
    assert unit > 0 and nats(2.0 / unit) == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("name", RUNS)
def test_what_each_method_costs(bench: Bench, name: str) -> None:
    """Counted by hand for four steps at cfg 5: a step is two branches, a way back two more each."""
    setting = next(s for s in settings([name], [2.0], sweeps=False) if s.label != "paper's own")
    kept = bench.drawn(setting, 0, prompts(1)[0])
    assert kept.latents.shape == (2, 4, 16, 16) and kept.latents.isfinite().all()
    plain = 2 * STEPS  # branches
    by_gradient = 3 * plain, STEPS, 0
    # Particles are weighed at each step; the last is without noise, so without drift, and what it
    # ends at is weighed once.
    drifted = 3 * plain - 4, STEPS - 1, 1
    known = {
        "plain": (plain, 0, 0),
        RULER: (2 * plain, STEPS, 0),
        "DPS": by_gradient,
        "DAS, 4 particles": tuple(4 * number for number in drifted),
        "DAS, 1 particle": drifted,
        "LiDAR": (plain + 2 * 16 * 8, 0, 16),
        "FK-steering, 4 particles": (4 * plain, 0, 4 * STEPS),
        "best of 4": (4 * plain, 0, 4),
    }
    if name in known:
        assert kept.calls == known[name]
    else:
        assert plain <= kept.calls.branches and 0 < kept.calls.gradients <= 3 * STEPS


def test_rows(bench: Bench, tmp_path: Path) -> None:
    chosen = settings(["plain", RULER, "DPS"], [2.0], sweeps=False)
    rows = rows_of(bench, prompts(3), chosen, swept=0)
    assert [(row["method"], row["strength"]) for row in rows] == [
        ("plain", NO_STRENGTH),
        (RULER, "paper's own"),
        (RULER, "2 nats"),
        ("DPS", "paper's own"),
        ("DPS", "2 nats"),
    ]
    for row in rows:
        numbers = {key: value for key, value in row.items() if not isinstance(value, str)}
        assert all(math.isfinite(value) for value in numbers.values()), row
        assert 0 <= row["fulfilled %"] <= 100 and row["images"] == 6
        for column, gain in (("judge", "judge gain"), ("fulfilled %", "fulfilled gain, %")):
            assert row[gain] == pytest.approx(row[column] - rows[0][column], abs=1e-4)
    assert rows[2]["time"] == 1.0
    assert rows[1]["nats"] == rows[3]["nats"] == 100, "a unit of score is one logit of preference"
    assert len(gains(rows)) == 2
    draw(rows, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 10_000


def test_without_the_ruler_there_is_no_time(bench: Bench) -> None:
    chosen = settings(["plain", "LAGS, fast"], [2.0], sweeps=False)
    rows = rows_of(bench, prompts(1), chosen, swept=0)
    assert [found["time"] for found in rows] == [None] * 3
    assert all("time" not in line and "LAGS, fast" in line for line in gains(rows))
    with pytest.raises(SystemExit):
        main(["--methods", "plain", "--plot", "plot.png"])


def test_other_prompts_have_their_own_numbers_and_seeds(bench: Bench, tmp_path: Path) -> None:
    keeping = replace(bench, folder=tmp_path)
    rows_of(keeping, prompts(3)[2:], settings(["plain"], [], sweeps=False), swept=0, first=2)
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["002.safetensors"]
    kept = keeping.kept(settings(["plain"], [], sweeps=False)[0], 2, prompts(3)[2])
    assert not torch.equal(
        kept.latents, bench.drawn(settings(["plain"], [], False)[0], 0, prompts(3)[2]).latents
    )


def test_what_was_drawn_is_drawn_no_more(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping = Bench(bench.scenes, bench.judge, bench.real, 2, STEPS, 5.0, tmp_path)
    setting, prompt = settings(["plain"], [], sweeps=False)[0], prompts(1)[0]
    first = keeping.kept(setting, 0, prompt)
    monkeypatch.setattr(Bench, "drawn", lambda *_: pytest.fail("drawn again"))
    again = keeping.kept(setting, 0, prompt)
    assert torch.equal(first.latents, again.latents) and first[1:] == again[1:]


def test_methods_drawn_at_once_are_those_drawn_in_turn(bench: Bench) -> None:
    chosen = settings(["plain", RULER, "DAS, 1 particle"], [], sweeps=False)
    at_once = replace(bench, workers=2)
    alone, together = (rows_of(b, prompts(2), chosen, swept=0) for b in (bench, at_once))
    for one, other in zip(alone, together, strict=True):
        assert {**one, "time": 0} == pytest.approx({**other, "time": 0}, nan_ok=True)


def test_sweeps_take_every_strength_of_every_method_that_has_one() -> None:
    chosen = settings(list(RUNS), [2.0], sweeps=True)
    for name in RUNS:
        found = {s.strength for s in chosen if s.method == name}
        assert found >= ({0.0} if name in WITHOUT_STRENGTH else {math.inf, 1.0, 2.0, 3.0})
    assert {s.strength for s in chosen if s.method == RULER} == {math.inf, 1, 2, 3, 10, 30, 100}


def test_settings_have_folders_of_their_own() -> None:
    chosen = settings(list(RUNS), [1.0, 2.0, 3.0], sweeps=True)
    assert len({setting.slug for setting in chosen}) == len(chosen)
    once = [s for s in chosen if s.table == "main" and s.method in WITHOUT_STRENGTH]
    assert len(once) == len(WITHOUT_STRENGTH)


def test_the_judge_looks(bench: Bench) -> None:
    images = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    seen = look(bench.judge, bench.real, images, prompts(1)[0].labels)
    assert all(part.shape[0] == 3 for part in seen)
    assert set(seen.fulfilled.tolist()) | set(seen.broken.tolist()) <= {0.0, 1.0}


def gaussian(count: int, mean: Tensor, root: Tensor) -> Tensor:
    noise = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(1))
    return mean + noise @ root.T


def test_frechet_distance_of_normal_laws() -> None:
    """|m|^2 + (s - 1)^2 in each direction, for diagonal covariances."""
    mean, scale = torch.tensor([1.0, 0.0, -2.0]), torch.tensor([2.0, 1.0, 0.5])
    found = frechet_distance(gaussian(200_000, mean, scale.diag()), torch.zeros(3), torch.eye(3))
    assert found == pytest.approx(5 + 1 + 0.25, rel=0.01)
    same = gaussian(50_000, mean, scale.diag())
    assert frechet_distance(same, mean, scale.square().diag()) < 0.01


def test_pairwise_distance() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]])
    assert pairwise_distance(points) == pytest.approx((5 + 8 + 5) / 3)


def test_a_prompt_without_subject_or_colour_is_refused() -> None:
    for text in ("on a blue background", "a cat", "a cat, a dog and a fox on red", "blue and red"):
        with pytest.raises(ValueError, match="expected one or two subjects and the colour"):
            read_labels(text)
