"""What a particle run will take, said before it runs: the same as its trace says afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from lags_pack.demo.sampler import karras_sigmas
from lags_pack.guidance import AutogradDenoiser, AutogradLogWeight
from lags_pack.guidance.particles import (
    PRESETS,
    TEMPERING,
    Ancestral,
    ParticleSampler,
    group_seeds,
    noisy_start,
    particle_plan,
    particle_preset,
)
from lags_pack.tests.analytic import PixelMixture
from torch import Tensor

SHAPE, STEPS, GROUPS = (2, 3, 3), 12, 2
BASE = PixelMixture(0.3)
LEVELS = karras_sigmas(STEPS, 0.05, 8.0)


@AutogradDenoiser
def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    return BASE.denoise(x.flatten(1), sigma).reshape(x.shape)


def made(name: str, **changes: Any) -> ParticleSampler:
    return replace(particle_preset(name, STEPS), **changes)


def trace_of(engine: ParticleSampler, particles: int) -> Any:
    seeds = group_seeds(1, GROUPS)
    x = noisy_start(torch.zeros(GROUPS, *SHAPE), particles, float(LEVELS[0]), seeds)
    weight = AutogradLogWeight(lambda pictures: pictures.flatten(1).sum(dim=1), "sum")
    return engine(denoise, weight, x, LEVELS, seeds).trace


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("tempering", ["linear", "none", "exponential"])
def test_a_plan_is_what_the_run_does(name: str, tempering: str) -> None:
    engine = made(name, tempering=TEMPERING[tempering])
    particles = 1 if name == "das_1p" else 3
    planned, trace = particle_plan(engine, LEVELS, particles), trace_of(engine, particles)
    records = trace.records
    assert planned.weighs.tolist() == [record.weighing is not None for record in records]
    assert planned.model_calls.tolist() == [record.model_calls for record in records]
    assert planned.model_backwards.tolist() == [record.model_backwards for record in records]
    assert planned.total_calls == particles * trace.model_calls
    assert planned.total_backwards == particles * trace.model_backwards
    assert planned.sigma_ve.tolist() == pytest.approx([record.sigma_ve for record in records])
    weighed = [record.weighing.temperature for record in records if record.weighing]
    assert planned.temperature[planned.weighs].tolist() == pytest.approx(
        [float(temperature[0]) for temperature in weighed]
    )


def test_seldom_weighing_and_a_chain_that_ends_with_noise() -> None:
    engine = made("smc", interval=5, chain=Ancestral(0.5))
    planned, trace = particle_plan(engine, LEVELS, 2), trace_of(engine, 2)
    assert planned.weighs.tolist() == [step % 5 == 0 for step in range(STEPS)]
    assert planned.weighs.tolist() == [record.weighing is not None for record in trace.records]
    # Adaptive tempering is not known beforehand.
    planned = particle_plan(made("smc", tempering=TEMPERING["adaptive"]), LEVELS, 4)
    assert bool(planned.temperature.isnan().all())


def test_costs() -> None:
    plain = particle_plan(made("smc"), LEVELS, 4)
    assert plain.relative_cost == 4.0 and plain.total_calls == 4 * STEPS
    back = particle_plan(made("tds"), LEVELS, 4)
    assert back.total_backwards == 4 * (STEPS - 1)  # the last step has no noise to weigh a push by
    assert back.relative_cost == pytest.approx(4 * (1 + 3 * (STEPS - 1) / STEPS))
    with pytest.raises(ValueError, match="1 noise levels"):
        particle_plan(made("smc"), LEVELS[-1:], 4)
