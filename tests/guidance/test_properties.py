"""What holds for every method, whatever the shape, the precision, the schedule and the strength."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lags_pack import guidance
from lags_pack.guidance import DPS, AutogradLogWeight, StepRecord
from lags_pack.guidance.particles import (
    PRESETS,
    best,
    everything,
    group_seeds,
    noisy_start,
    particle_preset,
)
from lags_pack.guidance.schedules import MOST_ALPHA
from torch import Tensor

fixed = settings(deadline=None, max_examples=25, derandomize=True)

SHAPES = st.tuples(
    st.integers(1, 5), st.sampled_from([1, 3, 4, 16]), st.integers(1, 9), st.integers(1, 9)
)
LEVELS, SEEDS = st.floats(0.05, 20.0), st.integers(0, 99)
STRENGTHS = st.sampled_from([0.0, 1e-6, 0.3, 1.0, -1.0, 50.0, -1e4, 1e6])
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
FIXED = [guidance.UncertaintySchedule(10.0), guidance.ConstantSchedule()]
SCHEDULES = st.sampled_from(
    [*FIXED, guidance.HardGateSchedule(), guidance.AutoSchedule(0.1), guidance.ChordSchedule()]
)
Method = Callable[..., tuple[Tensor, StepRecord]]


@guidance.AutogradDenoiser
def shrink(x: Tensor, sigma: Tensor) -> Tensor:
    """The denoiser of N(0, 1/2): the posterior mean, sample by sample."""
    noise = sigma.to(x.dtype).reshape(-1, 1, 1, 1) ** 2
    return 0.5 * x / (0.5 + noise)


def waves(strength: float, name: str = "waves") -> AutogradLogWeight:
    """A weight that is neither linear nor the same in two places."""
    return AutogradLogWeight(lambda d: strength * (2 * d).sin().flatten(1).mean(dim=1), name)


class ARun:
    """What a method may ask of a run, for samples of a shape at one noise level."""

    def __init__(self, shape: tuple[int, ...], level: float) -> None:
        self.shape = shape
        self.sigmas = torch.tensor([1.5 * level, level, 0.5 * level, 0.0])

    def look_ahead(self, count: int, steps: int, seed: int) -> guidance.Lookahead:
        samples = torch.randn(count, *self.shape[1:], generator=torch.Generator().manual_seed(seed))
        return guidance.Lookahead(samples, torch.linspace(-1, 1, count))


EVERYWHERE = guidance.Window(first=1.0, last=0.0, travel_until=0.0, repeats=1)
VARIANTS: dict[str, Method] = {
    **{
        name: guidance.preset(name) if name in guidance.MODES else made()
        for name, made in guidance.METHODS.items()
    },
    "FreeDoM": guidance.FreeDoM(window=EVERYWHERE),
    "LiDAR": guidance.LiDAR(sigma_end=0.0),
    "limited": replace(guidance.preset("paper"), shift_limit=0.5),
    "DPS, normalised": DPS(normalised=True),
}
NAMES = list(VARIANTS)


def bound(name: str, shape: tuple[int, ...], level: float) -> Method:
    """A method in a run."""
    return VARIANTS[name].bind(ARun(shape, level))


def noisy(shape: tuple[int, ...], level: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = math.sqrt(0.5 + level**2) * torch.randn(shape, generator=generator)
    return x, torch.full(shape[:1], level)


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to the rounding of two forwards divided by their distance."""
    return torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-4)


# ---- one evaluation ------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@fixed
@given(shape=SHAPES, level=LEVELS, dtype=DTYPES | st.just(torch.float64), seed=SEEDS)
def test_shape_and_dtype_stay_and_nothing_is_nan(name, shape, level, dtype, seed) -> None:
    x, sigma = noisy(shape, level, seed)
    denoised, record = bound(name, shape, level)(shrink, waves(1.0), x.to(dtype), sigma)
    assert denoised.shape == shape and denoised.dtype == dtype
    assert torch.isfinite(denoised).all()
    for value in (record.alpha, record.log_w, record.shift_rms):
        assert value is None or (value.shape == shape[:1] and value.dtype == torch.float32)
        assert value is None or torch.isfinite(value).all()


@pytest.mark.parametrize("name", NAMES)
@fixed
@given(shape=SHAPES, level=LEVELS, seed=SEEDS)
def test_a_batch_equals_its_singles(name, shape, level, seed) -> None:
    x, sigma = noisy(shape, level, seed)
    method = bound(name, shape, level)
    together, _ = method(shrink, waves(2.0), x, sigma)
    for i in range(shape[0]):
        only = slice(i, i + 1)
        alone, _ = method(shrink, waves(2.0), x[only], sigma[only])
        assert close(alone, together[only])


@pytest.mark.parametrize("name", NAMES)
@fixed
@given(shape=SHAPES, data=st.data())
def test_a_batch_of_levels_is_its_singles_in_any_order(name, shape, data) -> None:
    x, _ = noisy(shape, 1.0, 5)
    sigma = torch.tensor([data.draw(LEVELS) for _ in range(shape[0])])
    order = data.draw(st.permutations(range(shape[0])))
    method = bound(name, shape, 1.0)
    straight, _ = method(shrink, waves(2.0), x, sigma)
    permuted, _ = method(shrink, waves(2.0), x[order], sigma[order])
    assert close(permuted, straight[order])
    for i in range(shape[0]):
        alone, _ = method(shrink, waves(2.0), x[i : i + 1], sigma[i : i + 1])
        assert close(alone, straight[i : i + 1])


@pytest.mark.parametrize("name", NAMES)
@settings(fixed, max_examples=6)
@given(shape=SHAPES, data=st.data())
def test_a_run_of_a_batch_of_levels_is_its_singles(name, shape, data) -> None:
    """What one sample reuses, and for how long, is not decided by another."""
    method, x = bound(name, shape, 1.0), noisy(shape, 4.0, 5)[0]
    falls = [data.draw(st.sampled_from([0.5, 0.7, 0.9])) for _ in range(shape[0])]
    levels = 4 * torch.tensor(falls) ** torch.arange(6.0)[:, None]

    def run(only: slice) -> Tensor:
        here, state = x[only], guidance.RunState()
        for sigma in levels[:, only]:
            here, _ = method(shrink, waves(2.0), here, sigma, guidance.Step(0.6, state=state))
        return here

    together = run(slice(None))
    for i in range(shape[0]):
        assert close(run(slice(i, i + 1)), together[i : i + 1])


@pytest.mark.parametrize("name", NAMES)
@fixed
@given(shape=SHAPES, level=LEVELS, strength=STRENGTHS, seed=SEEDS)
def test_twice_the_same_is_the_same_bit_for_bit(name, shape, level, strength, seed) -> None:
    x, sigma = noisy(shape, level, seed)
    before = x.clone()
    method = bound(name, shape, level)
    first, _ = method(shrink, waves(strength), x, sigma)
    again, _ = method(shrink, waves(strength), x, sigma)
    assert torch.equal(first, again) and torch.equal(x, before)
    assert torch.isfinite(first).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "LiDAR"])
@fixed
@given(shape=SHAPES, level=LEVELS, dtype=DTYPES, seed=SEEDS)
def test_strength_0_is_the_plain_sample(name, shape, level, dtype, seed) -> None:
    """LiDAR does not ask the weight: its set has been weighed before."""
    x, sigma = noisy(shape, level, seed)
    x = x.to(dtype)
    denoised, _ = bound(name, shape, level)(shrink, waves(0.0), x, sigma)
    assert torch.equal(denoised, shrink(x, sigma))


@fixed
@given(SHAPES, LEVELS, st.sampled_from(FIXED), st.sampled_from([-2.0, 0.5, 3.0]))
def test_a_fixed_schedule_s_shift_is_linear_in_the_strength(shape, level, schedule, factor) -> None:
    """As published: no limit, and an absolute step's difference of a linear denoiser is exact."""
    x, sigma = noisy(shape, level, 2)
    method = guidance.Paper(schedule, difference=guidance.DifferenceStep(absolute=50.0))
    plain = shrink(x, sigma)
    one = method(shrink, waves(0.5), x, sigma)[0] - plain
    many = method(shrink, waves(0.5 * factor), x, sigma)[0] - plain
    assert torch.allclose(many, factor * one, rtol=1e-3, atol=1e-3 * float(one.abs().max()) + 1e-6)


@fixed
@given(SHAPES, LEVELS, st.sampled_from([0.1, 1.0, -5.0, 1e4, -1e6]))
def test_dps_is_linear_in_the_strength(shape, level, strength) -> None:
    x, sigma = noisy(shape, level, 2)
    plain = shrink(x, sigma)
    one = (DPS()(shrink, waves(1.0), x, sigma)[0] - plain).double()
    many = (DPS()(shrink, waves(strength), x, sigma)[0] - plain).double()
    rounding = 1e-5 * float(1 + plain.abs().max()) * max(1.0, abs(strength))
    assert torch.allclose(many, strength * one, rtol=1e-4, atol=rounding)


@fixed
@given(SHAPES, LEVELS, st.floats(-3, 3), st.floats(-3, 3))
def test_a_sum_of_log_weights_shifts_by_the_sum(shape, level, a, b) -> None:
    """A product of weights under a fixed schedule: their shifts add up."""
    x, sigma = noisy(shape, level, 4)
    plain, method = shrink(x, sigma), DPS()
    brightness = AutogradLogWeight(lambda d: b * d.flatten(1).mean(dim=1), "brightness")
    both = AutogradLogWeight(lambda d: waves(a).function(d) + brightness.function(d), "both")
    weights = waves(a), brightness, both
    shifts = [method(shrink, weight, x, sigma)[0] - plain for weight in weights]
    assert torch.allclose(shifts[0] + shifts[1], shifts[2], rtol=1e-3, atol=1e-5)


@fixed
@given(SHAPES, LEVELS, SCHEDULES, STRENGTHS)
def test_alpha_is_no_less_than_0_and_no_more_than_its_most(
    shape, level, schedule, strength
) -> None:
    x, sigma = noisy(shape, level, 6)
    _, record = guidance.Paper(schedule)(shrink, waves(strength), x, sigma)
    assert record.alpha is None or ((record.alpha >= 0) & (record.alpha <= MOST_ALPHA)).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "LiDAR"])
@fixed
@given(shape=SHAPES, level=LEVELS, seed=SEEDS)
def test_what_the_weight_does_not_see_stays(name, shape, level, seed) -> None:
    """A denoiser that mixes no pixels shifts none outside of a mask, bit for bit.

    LiDAR's set is of whole samples.
    """
    x, sigma = noisy(shape, level, seed)
    mask = torch.rand(shape[-2:], generator=torch.Generator().manual_seed(seed)) > 0.5

    def log_w(denoised: Tensor) -> Tensor:
        return 3 * (denoised * mask).sin().flatten(1).mean(dim=1)

    inside = guidance.AutogradLogWeight(log_w, "inside")
    denoised, _ = bound(name, shape, level)(shrink, inside, x, sigma)
    assert torch.equal(denoised[..., ~mask], shrink(x, sigma)[..., ~mask])


# ---- records -------------------------------------------------------------------------------

NUMBERS = st.one_of(st.floats(), st.just(math.nan), st.just(-math.inf))


@st.composite
def records(draw: Any) -> StepRecord:
    """Any record: every field that may be None is, now and then."""
    count = draw(st.integers(1, 4))

    def values() -> Tensor:
        dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.float64]))
        return torch.tensor([draw(NUMBERS) for _ in range(count)], dtype=dtype)

    def maybe() -> Tensor | None:
        return values() if draw(st.booleans()) else None

    flags = torch.tensor([draw(st.booleans()) for _ in range(count)])
    terms = {draw(st.text(max_size=5)): values()} if draw(st.booleans()) else None
    return StepRecord(
        *(values(), draw(st.booleans()), maybe(), maybe(), maybe(), maybe(), maybe()),
        *(draw(st.integers(0, 9)), draw(st.integers(0, 9)), draw(st.floats(0, 9))),
        terms=terms,
        actual_gain=maybe(),
        ess=maybe(),
        resampled=flags if draw(st.booleans()) else None,
    )


@fixed
@given(label=st.text(max_size=9), made=st.lists(records(), max_size=4), start=st.booleans())
def test_a_trace_of_any_records_is_json(label: str, made: list[StepRecord], start: bool) -> None:
    trace = guidance.Trace(label)
    with torch.inference_mode():
        for record in made:
            trace.add(record)
        if start and made:
            trace.add_start(made[0])
    read = json.loads(json.dumps(trace.to_dict()))
    assert read["label"] == label and len(read["records"]) == len(made)
    assert trace.model_calls == sum(r.model_calls for r in [*made, *(made[:1] if start else [])])
    for record, kept in zip(made, read["records"], strict=True):
        assert kept["active"] == record.active and (kept["alpha"] is None) == (record.alpha is None)


# ---- particles -----------------------------------------------------------------------------

PARTICLE_SHAPES = st.tuples(st.sampled_from([1, 4]), st.integers(1, 4), st.integers(1, 4))


@pytest.mark.parametrize("name", PRESETS)
@settings(fixed, max_examples=6)
@given(
    shape=PARTICLE_SHAPES,
    count=st.integers(1, 4),
    strength=st.sampled_from([0.0, 1.0, -20.0]),
    seed=st.integers(0, 2**63),
)
def test_groups_alone_together_and_permuted(name, shape, count, strength, seed) -> None:
    """Every group's particles hang on its own seed, whichever groups run beside it."""
    levels, seeds = torch.tensor([4.0, 1.0, 0.3, 0.0]), group_seeds(seed, 3)
    x = noisy_start(torch.zeros(3, *shape), count, 4.0, seeds)
    sampler = particle_preset(name, 3)
    together = sampler(shrink, waves(strength), x, levels, seeds)
    assert torch.isfinite(together.x).all() and together.x.shape == x.shape
    assert torch.allclose(together.weights.sum(dim=1), torch.ones(3, dtype=together.weights.dtype))
    json.dumps([str(record) for record in together.trace.records])
    order = [2, 0, 1]
    mixed = sampler(shrink, waves(strength), x[order], levels, [seeds[i] for i in order])
    assert close(mixed.x, together.x[order])
    for choose in (best, everything):
        assert torch.equal(choose(mixed), choose(together)[order])
    alone = sampler(shrink, waves(strength), x[1:2], levels, seeds[1:2])
    assert close(alone.x, together.x[1:2])
    assert close(alone.log_weights, together.log_weights[1:2])
