"""Problems in closed form: the samplers' laws, the exact answer, and what the modes reach."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from lags_pack.benchmarks import exact
from lags_pack.benchmarks._samplers import LEVELS, SAMPLERS
from lags_pack.guidance import preset


@pytest.mark.parametrize("steps", [8, 30])
def test_samplers_draw_the_variance_that_their_formulas_say(steps: int) -> None:
    """Gaussian data: a step multiplies x by j + (1 - j) r, with noise r^2 in place of r."""
    sigmas = LEVELS["karras"](steps)
    for name, power, drawn in (("euler", 1, 0.0), ("euler_ancestral", 2, 1.0)):
        variance = float(sigmas[0]) ** 2
        for sigma, lower in pairwise(sigmas.double().tolist()):
            j, ratio = 1 / (1 + sigma**2), lower / sigma
            noise = drawn * lower**2 * (1 - ratio**2)
            variance = (j + (1 - j) * ratio**power) ** 2 * variance + noise
        x = exact.Solver(name, steps).plain(exact.on_line(exact.gaussian(1.0)), 40_000)
        assert float(x.var()) == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde"])
def test_multistep_samplers_approach_the_data(name: str) -> None:
    problem = exact.on_line(exact.evenly())
    x = exact.Solver(name, 60).plain(problem, 20_000)
    assert float(x.var()) == pytest.approx(1, abs=0.03)
    assert float(x.abs().max()) < 2.1, "the data end at 1.73"


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("steps", [8, 30])
def test_noise_levels_fall_to_zero(name: str, steps: int) -> None:
    sigmas = LEVELS[name](steps)
    assert (sigmas.diff() < 0).all() and float(sigmas[-1]) == 0 and sigmas.isfinite().all()


@pytest.mark.parametrize("name", exact.PROBLEMS)
def test_denoisers_are_the_posterior_means_of_their_data(name: str) -> None:
    """E[D] = E[x0], and x0 - D is uncorrelated with x."""
    problem, count = exact.PROBLEMS[name](), 40_000
    generator = torch.Generator().manual_seed(3)
    x0 = problem.draw(count, generator)
    for level in (0.3, 1.0, 4.0):
        x = x0 + level * torch.randn(x0.shape, generator=generator)
        error = x0 - problem.denoise(x, torch.full((count,), level))
        bound = 5 * float(error.std()) / math.sqrt(count)
        assert float(error.mean(dim=0).abs().max()) < bound
        correlation = (error * (x - x.mean(dim=0))).mean(dim=0) / x.std(dim=0)
        assert float(correlation.abs().max()) < 1.5 * bound


def test_the_exact_answer_of_a_gaussian_is_known() -> None:
    log_w = torch.randn(200_000, generator=torch.Generator().manual_seed(4))
    truth = exact.Truth.of(log_w)
    assert truth.shift == pytest.approx(1, abs=0.02) and truth.std == pytest.approx(1, abs=0.03)


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choice = ["--problems", "variance 1", "heart 5x5", "--samplers", *SAMPLERS, "--steps", "8"]
    choice += ["--plain", "400", "--guided", "200", "--particles", "2"]
    exact.main([*choice, "--json", str(tmp_path / "rows")])
    rows = json.loads((tmp_path / "rows").read_text())
    particles = [row for row in rows if row["mode"] == "2 particles"]
    assert {row["sampler"] for row in particles} == {"euler_ancestral"} and len(particles) == 2
    rows = [row for row in rows if row not in particles]
    assert len(rows) == 2 * len(SAMPLERS) * len(exact.MODES)
    assert all(row["mode"] == "fast" or row["model calls"] > 8 for row in rows)
    assert all(("sliced W2" in row) == ("heart" in row["problem"]) for row in rows)
    assert float(torch.tensor(1e-40) * 1) > 0, "the rest of the process computes as before"
    printed = capsys.readouterr().out
    assert "balanced: " in printed and "of 8 within 95 to 105 %" in printed


LINEAR = [*(f"variance {v:g}" for v in (0.05, 0.25, 1, 10)), "two points", "uniform", "skewed"]
WITHIN = {  # percent of the exact shift that ``balanced`` may miss, by sampler and steps
    **{("euler_ancestral", 30): 5, ("euler_ancestral", 20): 6, ("euler_ancestral", 10): 12},
    **{("euler", 30): 10, ("dpmpp_2m", 30): 5, ("dpmpp_2m", 20): 10, ("dpmpp_2m_sde", 30): 6},
}


# Where J falls faster, or slower, than a Gaussian's; 15, 8 and 7 (uniform) without its trend.
HELD = {"two points": 12, "skewed": 6}


@pytest.mark.parametrize(("sampler", "steps"), WITHIN)
@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_weight_gets_its_shift(name: str, sampler: str, steps: int) -> None:
    """30 to 99 % with 30 ancestral steps, where late steps were skipped."""
    balanced = preset("balanced")
    solver, methods = exact.Solver(sampler, steps), {"every": replace(balanced, serves=1.0)}
    every, held = exact.rows(
        name, solver, {**methods, "balanced": balanced}, plain=30_000, guided=3000
    )
    most = WITHIN[sampler, steps]
    assert every["shift %"] == pytest.approx(100, abs=most)
    assert held["shift %"] == pytest.approx(100, abs=max(most, HELD.get(name, most)))
    assert every["model calls"] <= 2 * steps and held["weight calls"] <= 12


@pytest.mark.parametrize("name", ["convex, variance 1", "convex, uniform"])
def test_between_measurements_a_convex_weight_gets_what_it_gets_in_every_step(name: str) -> None:
    """Shifts outgrow what is foreseen of a straight weight: 83 and 90 % if that is not followed."""
    solver, balanced = exact.Solver("euler_ancestral", 30), preset("balanced")
    methods = {"every": replace(balanced, serves=1.0), "balanced": balanced}
    every, held = exact.rows(name, solver, methods, plain=20_000, guided=4000)
    assert held["shift %"] > max(89, every["shift %"] - 3)


@pytest.mark.parametrize("mode", ["paper", "balanced"])
def test_by_their_path_weights_samples_have_the_shift_that_guidance_misses(mode: str) -> None:
    """``paper`` alone has 38 % of it; what is off is said in standard deviations."""
    solver = exact.Solver("euler_ancestral", 30)
    (row,) = exact.rows("variance 1", solver, {mode: preset(mode)}, plain=20_000, guided=4000)
    assert row["by weight %"] == pytest.approx(100, abs=5)
    assert (abs(row["shift %"] - 100) < 5) == (row["off"] < 0.1) == (mode == "balanced")


@pytest.mark.parametrize("name", [name for name in exact.PROBLEMS if name != "convex, variance 1"])
def test_four_particles_have_most_of_the_shift(name: str) -> None:
    """71 to 97 % before their guidance went on to the end; groups weigh by themselves alone.

    Left out is a weight whose mean over plain samples is too uncertain here: a few far ones count.
    """
    solver = exact.Solver("euler_ancestral", 30)
    (row,) = exact.rows(name, solver, {}, plain=40_000, guided=4000, particles=[4])
    assert row["shift %"] == pytest.approx(97, abs=9)
