"""The particle engine: groups, chunks, chains, tempering, drifts, presets, records, selection."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lags_pack import guidance
from lags_pack.benchmarks._memory import peak_bytes
from lags_pack.benchmarks.exact import gaussian
from lags_pack.demo.sampler import karras_sigmas
from lags_pack.guidance import AutogradDenoiser, AutogradLogWeight, particles
from lags_pack.guidance.particles import PRESETS, Particles, ParticleSampler, diverse, group_seeds
from lags_pack.guidance.particles.engine import State, _mixed, _noise
from lags_pack.tests.analytic import PixelMixture, sigmas
from torch import Tensor

SHAPE, STEPS, GROUPS, COUNT = (2, 3, 3), 12, 3, 5
BASE = PixelMixture(0.3)
LEVELS = karras_sigmas(STEPS, 0.05, 8.0)


@AutogradDenoiser
def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    return BASE.denoise(x.flatten(1), sigma).reshape(x.shape)


class Counting:
    """A denoiser that keeps how many rows it was asked for at a time."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == x.shape[:1]
        self.rows.append(x.shape[0])
        return denoise(x, sigma)


def uneven(strength: float = 3.0) -> AutogradLogWeight:
    """A weight with a gradient that no two particles share."""
    return AutogradLogWeight(lambda x: strength * x.flatten(1)[:, :5].sin().sum(dim=1), "uneven")


def preset_of(name: str) -> ParticleSampler:
    return particles.particle_preset(name, STEPS)


def start(groups: int = GROUPS, count: int = COUNT, seed: int = 7) -> tuple[Tensor, list[int]]:
    seeds = group_seeds(seed, groups)
    return particles.noisy_start(torch.zeros(groups, *SHAPE), count, float(LEVELS[0]), seeds), seeds


def run(sampler: ParticleSampler, **changes: object) -> Particles:
    x, seeds = start()
    arguments = {"x": x, "sigmas": LEVELS, "seeds": seeds, **changes}
    return sampler(denoise, uneven(), **arguments)


@functools.cache
def whole(name: str) -> Particles:
    """What a preset's run leaves; for tests that run it a second time in another way."""
    return run(preset_of(name))


def same(a: Particles, b: Particles) -> bool:
    names = ("x", "log_w", "log_weights", "log_normaliser")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


# ---- groups, chunks, interrupts ----------------------------------------------------------------


FEW = karras_sigmas(4, 0.05, 8.0)  # steps enough for what holds in each of them


@pytest.mark.parametrize("name", PRESETS)
def test_a_batch_equals_its_singles_bit_for_bit_and_chunks_change_nothing(name: str) -> None:
    sampler, (x, seeds) = particles.particle_preset(name, 4), start()
    together = run(sampler, sigmas=FEW)
    for group in range(GROUPS):
        only = slice(group, group + 1)
        alone = run(sampler, sigmas=FEW, x=x[only], seeds=seeds[only])
        assert torch.equal(alone.x, together.x[only])
        assert torch.equal(alone.log_weights, together.log_weights[only])
        assert torch.equal(alone.log_normaliser, together.log_normaliser[only])
    for chunk in (1, 4, 100):
        counting = Counting()
        chunked = sampler(AutogradDenoiser(counting), uneven(), x, FEW, seeds, chunk=chunk)
        assert same(chunked, together)
        assert max(counting.rows) == min(chunk, GROUPS * COUNT)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "das_1p"])
def test_memory_grows_by_the_latents_alone(name: str) -> None:
    """In chunks, what a model takes for itself, here 64 latents, does not grow with them."""
    shape, few, many = (4, 16, 16), 4, 16
    wide = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        inner = torch.einsum("bchw,cd->bdhw", x, wide).tanh()
        return torch.einsum("bdhw,cd->bchw", inner, wide) / 64

    sampler = replace(particles.particle_preset(name, 3), ess_threshold=1.0)

    def peak(count: int, chunk: int) -> float:
        """In latents of one particle."""
        seeds, sigmas = group_seeds(0, 1), karras_sigmas(3, 0.1, 8.0)

        def once() -> None:
            x = particles.noisy_start(torch.zeros(1, *shape), count, 8.0, seeds)
            sampler(AutogradDenoiser(network), uneven(), x, sigmas, seeds, chunk=chunk)

        return peak_bytes(once) / (4 * math.prod(shape))

    # What came in, what is held of it now, D and what pushes; noise is drawn when the model rests.
    latents = 4 if PRESETS[name].needs_vjp or name == "lags" else 3
    assert peak(many, 2) - peak(few, 2) < (latents + 0.05) * (many - few)
    assert peak(many, many) - peak(few, few) > 30 * (many - few), "the counter sees the model"


def test_neither_a_run_nor_an_interrupt_leaves_anything_behind() -> None:
    sampler, (x, seeds), calls = preset_of("lags"), start(), []

    def interrupted(y: Tensor, sigma: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 9:
            raise InterruptedError
        return denoise(y, sigma)

    kept, state = x.clone(), torch.get_rng_state()
    with pytest.raises(InterruptedError):
        sampler(interrupted, uneven(), x, LEVELS, seeds)
    assert torch.equal(x, kept)
    assert same(run(sampler, x=x), whole("lags"))
    assert torch.equal(x, kept) and torch.equal(torch.get_rng_state(), state)


def test_noise_is_fresh_for_every_copy() -> None:
    """All weight on one particle: its copies are one after resampling and differ a step later."""
    groups, count = 1, 6
    x, seeds = start(groups, count)
    seen: list[Tensor] = []

    def keep(progress: particles.Progress) -> None:
        if progress.record.weighing is not None:
            seen.append(progress.denoised.clone())

    sampler = ParticleSampler(tempering=particles.NoTempering())
    steep = AutogradLogWeight(lambda x: 1e4 * x.flatten(1).sum(dim=1), "steep")
    found = sampler(denoise, steep, x, LEVELS, seeds, callback=keep)
    assert found.trace.resampled_steps[0] == 0
    assert seen[0].flatten(1).unique(dim=0).shape[0] == 1
    assert (seen[0][0, 1:] == seen[0][0, :1]).all()  # copies of one
    assert found.x[0].flatten(1).unique(dim=0).shape[0] > 1


def test_copies_take_everything_along() -> None:
    """A push that stays behind is still exact, so no moment would show it."""
    rows = torch.arange(6.0)[:, None]
    each, zeros = rows.reshape(2, 3).double(), torch.zeros(2).double()
    slope = rows[:, 0] + 50
    state = State(rows, rows + 10, rows + 20, slope, each + 30, each + 40, each, zeros, zeros)
    ParticleSampler()._follow(state, torch.tensor([[2, 2, 0], [0, 1, 1]]))
    expected = torch.tensor([2.0, 2.0, 0.0, 3.0, 4.0, 4.0])
    for i, name in enumerate(("x", "denoised", "guidance", "log_w", "potential", "slope")):
        assert torch.equal(getattr(state, name).flatten().float(), expected + 10 * i), name


def test_more_groups_are_not_more_of_the_same() -> None:
    assert len(set(group_seeds(1, 500)) | set(group_seeds(2, 500))) == 1000
    assert group_seeds(5, 8)[:3] == group_seeds(5, 3)
    assert group_seeds(1 << 32, 1) != group_seeds(0, 1)  # torch reads only the low 32 bits
    x, _ = start()
    assert x.flatten(0, 1).flatten(1).unique(dim=0).shape[0] == GROUPS * COUNT


# ---- chains ------------------------------------------------------------------------------------


def test_without_weight_particles_are_the_plain_ancestral_sampler() -> None:
    """One group and one particle; the same noise goes into both."""
    x, seeds = start(1, 1)
    flat = AutogradLogWeight(lambda x: 0 * x.flatten(1).sum(dim=1), "flat")
    found = ParticleSampler()(denoise, flat, x, LEVELS, seeds)
    plain, levels = x[0], LEVELS.tolist()
    for noise, sigma, lower in zip(
        recorded_noise(x, seeds), levels[:-2], levels[1:-1], strict=True
    ):
        # One step of the demo's sampler, as it is written there.
        denoised, keep = denoise(plain, sigmas(1, sigma)), (lower / sigma) ** 2
        plain = denoised + keep * (plain - denoised) + lower * math.sqrt(1 - keep) * noise
    plain = denoise(plain, sigmas(1, levels[-2]))
    assert torch.allclose(found.x[0], plain, atol=1e-5)
    assert found.log_normaliser.abs().max() < 1e-12


@given(sigma=st.floats(0.02, 50), ratio=st.floats(0.01, 0.99), eta=st.floats(0.05, 1.0))
@settings(deadline=None, max_examples=60)
def test_the_chain_is_ddim_in_published_variables(sigma: float, ratio: float, eta: float) -> None:
    """x_VP = x sqrt(abar); DDIM, eq. 12 and 16 of Song et al., arXiv 2010.02502."""
    lower = sigma * ratio
    now, then = 1 / (1 + sigma**2), 1 / (1 + lower**2)
    x, d = torch.tensor([[1.3 * sigma]]).double(), torch.tensor([[-0.4]]).double()
    s = eta * math.sqrt((1 - then) / (1 - now)) * math.sqrt(1 - now / then)
    noise = (x * math.sqrt(now) - d * math.sqrt(now)) / math.sqrt(1 - now)
    mean = math.sqrt(then) * d + math.sqrt(max(0.0, 1 - then - s**2)) * noise
    chain = particles.Ancestral(eta)
    assert chain.noise_std(sigma, lower) == pytest.approx(s / math.sqrt(then), rel=1e-6)
    found = float(chain.mean(x, d, sigma, lower))
    assert found == pytest.approx(float(mean) / math.sqrt(then), rel=1e-5, abs=1e-6)


class Renoise:
    """LCM's chain: fresh noise of the next level on the denoised image."""

    def noise_std(self, sigma: float, lower: float) -> float:
        return lower

    def mean(self, x: Tensor, denoised: Tensor, sigma: float, lower: float) -> Tensor:
        return denoised


def test_any_gaussian_chain_will_do_that_has_noise() -> None:
    found = run(replace(preset_of("lags"), chain=Renoise()))
    assert torch.isfinite(found.x).all() and torch.isfinite(found.log_weights).all()
    for eta in (0.0, -1.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="eta is"):
            particles.Ancestral(eta)


# ---- density ratio, drift ----------------------------------------------------------------------


def recorded_noise(x: Tensor, seeds: list[int]) -> list[Tensor]:
    """The noise that a run without resampling draws for one particle of one group."""
    generators = [torch.Generator().manual_seed(_mixed(seed, "steps")) for seed in seeds]
    return [_noise(x.shape, x, generators)[0] for _ in range(STEPS - 1)]


@pytest.mark.parametrize("limit", [None, 0.05])
def test_the_path_weight_is_the_ratio_of_two_densities(limit: float | None) -> None:
    """log N(x'; m, s^2) - log N(x'; m + shift, s^2), summed along the path that was taken."""
    x, seeds = start(1, 1)
    path: list[Tensor] = []

    def denoiser(y: Tensor, sigma: Tensor) -> Tensor:
        path.append(y.clone())
        return denoise(y, sigma)

    drift = particles.MethodDrift(guidance.Fast(guidance.ConstantSchedule()))
    sampler = ParticleSampler(drift, shift_limit=limit, ess_threshold=0.0)
    weight, levels = uneven(0.7), LEVELS.double().tolist()
    found = sampler(denoiser, weight, x.double(), LEVELS.double(), seeds)
    expected, chain = 0.0, particles.Ancestral()
    for step in range(STEPS - 1):
        sigma, lower = levels[step], levels[step + 1]
        now, after, s = path[step], path[step + 1], chain.noise_std(sigma, lower)
        d = denoise(now, sigmas(1, sigma).double())
        shift = s**2 * weight.value_and_grad(d)[1].double() * (step + 1) / STEPS
        if limit is not None:
            size = float((shift / s).square().sum() / 2)
            shift = shift * min(1.0, math.sqrt(limit / size))
        mean = chain.mean(now, d, sigma, lower)
        plain = torch.distributions.Normal(mean, s).log_prob(after).sum()
        pushed = torch.distributions.Normal(mean + shift, s).log_prob(after).sum()
        expected += float(plain - pushed)
        cost = float((shift / s).square().sum() / 2)
        assert float(found.trace.records[step].cost) == pytest.approx(cost, rel=1e-3)
    assert float(found.log_weights - found.log_w) == pytest.approx(expected, abs=1e-3)


def test_shifts_stay_within_the_limit() -> None:
    for limit in (0.1, 0.5):
        found = run(replace(preset_of("tds"), shift_limit=limit))
        assert max(float(record.cost.max()) for record in found.trace.records) <= limit + 1e-6
    assert max(float(record.cost.max()) for record in whole("tds").trace.records) > 0.5


def test_the_gradient_drift_is_the_gradient_of_log_w_and_lags_agrees_where_j_is_symmetric() -> None:
    x, sigma = start(1, 4)[0][0].double(), sigmas(4, 1.3).double()
    proposal = particles.GradientDrift()(denoise, uneven(), x, sigma)
    leaf = x.clone().requires_grad_()
    log_w = uneven().function(denoise(leaf, sigma))
    (expected,) = torch.autograd.grad(log_w.sum(), leaf)
    assert torch.allclose(proposal.guidance.double(), expected, atol=1e-5)
    assert torch.allclose(proposal.log_w.double(), log_w.detach(), atol=1e-5)
    by_lags = particles.MethodDrift(guidance.Paper(guidance.ConstantSchedule()))(
        denoise, uneven(), x, sigma
    )
    error = (by_lags.guidance - proposal.guidance).norm() / proposal.guidance.norm()
    assert error < 0.02 and torch.equal(by_lags.denoised, proposal.denoised)
    assert (by_lags.model_calls, by_lags.model_backwards, by_lags.weight_calls) == (2, 0, 1)


@pytest.mark.parametrize("name", ["lags", "das"])
def test_runs_inside_inference_mode_as_outside(name: str) -> None:
    with torch.inference_mode():
        inside = run(preset_of(name))
    assert same(inside, whole(name))


# ---- calls are counted, and not spent twice ----------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_calls_are_those_that_were_made(name: str) -> None:
    counting, weight, (x, seeds) = Counting(), uneven(), start()
    seen, inner = [], weight.function
    weight.function = lambda x: seen.append(x) or inner(x)
    found = preset_of(name)(AutogradDenoiser(counting), weight, x, LEVELS, seeds)
    rows = GROUPS * COUNT
    assert found.trace.model_calls * rows == sum(counting.rows)
    assert found.trace.weight_calls * rows == sum(map(len, seen))
    gradients = sum(record.gradient_calls for record in found.trace.records)
    assert gradients * rows == sum(len(x) for x in seen if x.requires_grad)
    expected = {"smc": STEPS, "fk": 7}  # of the weight; one of the model in each step
    if name in expected:
        calls = found.trace.model_calls, found.trace.weight_calls
        assert calls == (STEPS, expected[name])
    if PRESETS[name].needs_vjp:
        assert found.trace.model_backwards == STEPS - 1  # the last step has no noise to shift
        assert (found.trace.model_calls, found.trace.weight_calls) == (STEPS, STEPS)


def test_guidance_goes_on_where_nothing_new_is_evaluated() -> None:
    """It grows as a Gaussian's does, so even weights stay even: there the kernels are exact."""
    data, slope = gaussian(0.3), AutogradLogWeight(lambda x: 1.8 * x.flatten(1).sum(dim=1), "line")
    seeds, levels = group_seeds(2, 1), karras_sigmas(20, 0.03, 15.0).double()
    x = particles.noisy_start(torch.zeros(1, 1).double(), 200, 15.0, seeds)
    found = particles.particle_preset("lags", 20)(data.denoise, slope, x, levels, seeds)
    late = [record for record in found.trace.records[:-1] if record.gradient_calls == 0]
    assert len(late) > 4 and all(float(record.cost.min()) > 0 for record in late)
    assert float(found.log_weights.std()) < 0.05 and found.trace.resampled_steps == []


def test_a_guided_step_that_skips_is_a_plain_one() -> None:
    gate = guidance.Paper(guidance.HardGateSchedule(1.0), skip_below=1e-4)
    found = run(ParticleSampler(particles.MethodDrift(gate)))
    for record in found.trace.records[:-1]:
        assert record.model_calls == (2 if record.sigma_ve <= 1 else 1)
        assert (float(record.cost.max()) > 0) == (record.sigma_ve <= 1)
        assert record.weight_calls == 1


# ---- tempering ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", particles.TEMPERING)
def test_lambda_rises_and_never_leaves_0_to_1(name: str) -> None:
    found = run(ParticleSampler(tempering=particles.TEMPERING[name]))
    weighings = [r.weighing for r in found.trace.records if r.weighing is not None]
    path = torch.stack([weighing.temperature for weighing in weighings])
    assert (path.diff(dim=0) >= 0).all() and path.min() >= 0 and path.max() <= 1
    ahead = particles.TEMPERING[name].drift_temperature(STEPS - 1, STEPS, torch.ones(1))
    assert float(ahead) == pytest.approx(1.0)


def test_the_exponential_is_the_published_one() -> None:
    """gamma = 0.008 in 100 steps."""
    for step in range(100):
        published = min(1.008**step - 1, 1.0)
        assert particles.Exponential().curve(step / 100) == pytest.approx(published, abs=1e-3)
    assert [particles.Polynomial(2.0).curve(x) for x in (0.0, 0.5, 1.0)] == [0.0, 0.25, 1.0]
    assert particles.NoTempering().curve(0.0) == 1.0


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_adaptive_lambda_keeps_its_share_of_the_effective_size(keep: float) -> None:
    log_w = 5 * torch.randn(3, 50, generator=torch.Generator().manual_seed(1)).double()
    log_w[2] *= 1e-3  # hardly uneven: all of the weight at once

    def ess(temperature: Tensor) -> Tensor:
        return particles.effective_sample_size(temperature[:, None] * log_w)

    found = particles.Adaptive(keep).now(3, 10, torch.zeros(3).double(), ess)
    assert torch.allclose(ess(found)[:2], torch.tensor(50 * keep).double(), rtol=1e-6)
    assert found[2] == 1 and (found[:2] < 1).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: particles.Polynomial(0.0),
        lambda: particles.Exponential(0.0),
        lambda: particles.Exponential(1.1),
        lambda: particles.Adaptive(1.0),
        lambda: particles.Adaptive(math.nan),
        lambda: ParticleSampler(ess_threshold=1.5),
        lambda: ParticleSampler(interval=0),
        lambda: ParticleSampler(shift_limit=0.0),
        lambda: run(ParticleSampler(), chunk=0),
        lambda: run(ParticleSampler(), seeds=[1]),
        lambda: run(ParticleSampler(), x=torch.zeros(3, 4), seeds=[1, 2, 3]),
        lambda: run(ParticleSampler(), sigmas=LEVELS[:-1]),
        lambda: run(ParticleSampler(), sigmas=LEVELS.flip(0)),
        lambda: run(ParticleSampler(), sigmas=LEVELS[-1:]),
        lambda: run(ParticleSampler(), sigmas=torch.tensor([math.inf, 1.0, 0.0])),
        lambda: particles.particle_preset("des", 10),
    ],
)
def test_what_cannot_be_run_is_refused_with_what_was_expected(make: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()


# ---- presets -----------------------------------------------------------------------------------


def test_the_drift_of_lags_leads_and_its_weights_are_linear() -> None:
    """Late weights, early drift; both end at 1, so nothing is left to catch up on."""
    leading, last = preset_of("lags").tempering, torch.zeros(2)
    for step in range(STEPS):
        now = leading.now(step, STEPS, last, lambda _: last)
        assert now.tolist() == pytest.approx([step / STEPS] * 2)
        assert leading.drift_temperature(step, STEPS, now).tolist() == [1.0, 1.0]


def test_das_with_one_particle_is_das_1p() -> None:
    x, seeds = start(GROUPS, 1)
    das, das_1p = (run(preset_of(name), x=x, seeds=seeds) for name in ("das", "das_1p"))
    assert same(das, das_1p) and das.trace.resampled_steps == []
    assert torch.equal(das.weights, torch.ones(GROUPS, 1, dtype=torch.float64))


def test_one_das_1p_step_is_the_published_one() -> None:
    """x' = m + s xi + s^2 lambda_(i+1) grad log w, for every step."""
    x, seeds = start(1, 1)
    noises, y = recorded_noise(x.double(), seeds), x[0].double()
    levels, chain = LEVELS.double().tolist(), particles.Ancestral()
    for step in range(STEPS - 1):
        sigma, lower = levels[step], levels[step + 1]
        level, s = sigmas(1, sigma).double(), chain.noise_std(sigma, lower)
        leaf = y.clone().requires_grad_()
        log_w = uneven().function(denoise(leaf, level))
        (gradient,) = torch.autograd.grad(log_w.sum(), leaf)
        temperature = min(2 ** ((step + 1) / STEPS / 0.87) - 1, 1)
        mean = chain.mean(y, denoise(y, level), sigma, lower)
        y = mean + s * noises[step] + s**2 * temperature * gradient
    y = denoise(y, sigmas(1, levels[-2]).double())
    found = run(preset_of("das_1p"), x=x.double(), sigmas=LEVELS.double(), seeds=seeds)
    assert torch.allclose(found.x[0], y, atol=1e-4)


def test_when_presets_weigh_and_resample() -> None:
    steps = {name: whole(name).trace.resampled_steps for name in ("urge", "fk")}
    assert steps["urge"] == list(range(1, STEPS - 1))
    assert steps["fk"] == [2, 4, 6, 8, 10]
    assert [particles.particle_preset("fk", steps).interval for steps in (100, 29, 3)] == [20, 6, 1]
    found = run(replace(preset_of("smc"), interval=5))
    weighed = [step for step, r in enumerate(found.trace.records) if r.weighing is not None]
    assert weighed == [0, 5, 10] and found.trace.weight_calls == 4


@pytest.mark.parametrize("rule", particles.RESAMPLING)
def test_every_resampling_rule_serves(rule: str) -> None:
    found = run(replace(preset_of("smc"), resampling=particles.RESAMPLING[rule], ess_threshold=1.0))
    assert found.trace.resampled_steps and torch.isfinite(found.log_weights).all()


# ---- weights of zero, and what is not finite ---------------------------------------------------


def black_box(x: Tensor) -> Tensor:
    """Weight zero wherever the image is dark."""
    return torch.where(x.flatten(1).mean(dim=1) > 0, 0.0, -math.inf)


def test_a_weight_of_zero_needs_no_gradient_and_is_never_drawn() -> None:
    x, seeds = start(4, 16)
    found = preset_of("smc")(denoise, AutogradLogWeight(black_box, "bright"), x, LEVELS, seeds)
    assert (found.x.flatten(2).mean(dim=2)[found.weights > 0] > 0).all()
    assert torch.isfinite(found.log_normaliser).all()


@pytest.mark.parametrize(
    ("log_w", "said"),
    [
        (lambda x: x[:, 0] * 0 - math.inf, "All 5 particles of group 0 have weight zero"),
        (lambda x: x, "'bad' returned shape"),
    ],
)
def test_no_weight_anywhere_and_a_wrong_shape_are_errors(log_w: object, said: str) -> None:
    x, seeds = start()
    bad = AutogradLogWeight(lambda x: log_w(x.flatten(1)), "bad")
    with pytest.raises(guidance.WeightError, match=said):
        preset_of("smc")(denoise, bad, x, LEVELS, seeds)


@pytest.mark.parametrize("name", PRESETS)
def test_weights_that_are_no_numbers_and_models_that_are_not_finite_are_refused(name: str) -> None:
    x, seeds = start()
    for value in (math.nan, math.inf):
        bad = AutogradLogWeight(lambda x, v=value: x.flatten(1).sum(dim=1) * 0 + v, "bad")
        with pytest.raises(guidance.WeightError, match="Weight 'bad'"):
            preset_of(name)(denoise, bad, x, LEVELS, seeds)

    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        return denoise(x, sigma) + (math.nan if sigma[0] < 1 else 0.0)

    with pytest.raises(guidance.ModelError, match="not finite"):
        preset_of(name)(AutogradDenoiser(broken), uneven(), x, LEVELS, seeds)


# ---- records -----------------------------------------------------------------------------------


def test_the_trace_is_plain_numbers_and_knows_the_ancestors() -> None:
    seen: list[particles.Progress] = []
    found = run(replace(preset_of("smc"), ess_threshold=1.0), callback=seen.append)
    assert [progress.step for progress in seen] == list(range(STEPS))
    assert seen[0].denoised.shape == (GROUPS, COUNT, *SHAPE)
    plain = json.loads(json.dumps(found.trace.to_dict()))
    assert len(plain["records"]) == STEPS and plain["records"][-1]["weighing"] is None
    weighing = plain["records"][3]["weighing"]
    numbers = {"ess", "resampled", "temperature", "log_w_mean", "log_w_quantiles", "ancestors"}
    assert set(weighing) == numbers
    assert len(weighing["log_w_quantiles"][0]) == 3
    for record in found.trace.records[:-1]:
        ess, resampled = record.weighing.ess, record.weighing.resampled
        assert (ess >= 1).all() and (ess <= COUNT + 1e-9).all()
        assert torch.equal(resampled, ess < COUNT)
    # Roots follow the copies.
    line = [list(range(COUNT)) for _ in range(GROUPS)]
    for record in found.trace.records:
        if record.weighing is not None and record.weighing.ancestors is not None:
            chosen = record.weighing.ancestors.tolist()
            line = [[line[g][i] for i in chosen[g]] for g in range(GROUPS)]
    assert found.trace.roots(GROUPS, COUNT).tolist() == line
    assert torch.equal(particles.ParticleTrace().roots(2, 3), torch.arange(3).expand(2, 3))


def test_the_normaliser_without_resampling_is_the_mean_weight() -> None:
    found = run(replace(preset_of("lags"), ess_threshold=0.0))
    expected = found.log_weights.exp().mean(dim=1).log()
    assert torch.allclose(found.log_normaliser, expected)
    assert torch.allclose(found.weights.sum(dim=1), torch.ones(GROUPS).double())
    assert float(found.pooled_weights.sum()) == pytest.approx(1.0)


# ---- selection ---------------------------------------------------------------------------------


def weighted(x: Tensor, log_w: Tensor, log_weights: Tensor | None = None) -> Particles:
    weights = log_w if log_weights is None else log_weights
    return Particles(x, log_w, weights, torch.zeros(x.shape[0]), particles.ParticleTrace())


def test_best_is_the_greatest_weight_function_and_draw_goes_by_particle_weight() -> None:
    x = torch.arange(8.0).reshape(2, 4, 1)
    log_w = torch.tensor([[1.0, 4.0, 2.0, 3.0], [0.0, -1.0, 5.0, 2.0]]).double()
    found = weighted(x, log_w, torch.tensor([0.0, -math.inf, -math.inf, 0.0]).expand(2, 4))
    assert particles.best(found).tolist() == [[1], [2]]
    assert particles.everything(found).tolist() == [[1, 3, 2, 0], [2, 3, 0, 1]]
    assert particles.gather(found, particles.best(found)).tolist() == [[[1.0]], [[6.0]]]
    indices = particles.draw(found, seeds=[1, 2], count=4000)
    assert set(indices.unique().tolist()) == {0, 3}
    assert abs((indices == 3).double().mean() - 0.5) < 0.03
    alone = Particles(x[1:], log_w[1:], found.log_weights[1:], torch.zeros(1), found.trace)
    assert torch.equal(particles.draw(alone, [2], 4000), indices[1:]), "as in any batch"


def test_diverse_starts_with_the_best_goes_far_and_takes_copies_last() -> None:
    """Two clusters and an outlier among the good ones; the bad half is far but not in the pool."""
    points = torch.tensor([0.0, 0.1, 5.0, 5.1, -3.0, 90.0, 91.0, 92.0, 93.0, 94.0])
    log_w = torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0]).double()
    found = weighted(points[None, :, None], log_w[None])
    assert diverse(found, 1).tolist() == [[0]]
    assert diverse(found, 3).tolist() == [[0, 3, 4]]
    assert sorted(diverse(found, 10)[0].tolist()) == list(range(10))
    copies = weighted(torch.tensor([1.0, 1.0, 1.0, 2.0])[None, :, None], torch.zeros(1, 4).double())
    assert diverse(copies, 2)[0].tolist() == [0, 1]  # the pool is the better half: copies
    assert diverse(copies, 4)[0].tolist()[:2] == [0, 3]
    assert sorted(diverse(copies, 4)[0].tolist()) == [0, 1, 2, 3]
    for count in (0, 5):
        with pytest.raises(ValueError, match="expected 1 to 4"):
            diverse(copies, count)
