"""LAGS against closed forms: Gaussian and mixture bases, the paper's VP formula, DPS, batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from lags_pack import guidance
from lags_pack.guidance import DifferenceStep, Paper
from lags_pack.tests import analytic
from lags_pack.tests.analytic import PixelMixture, noisy_draws, sigmas, unit_mixture
from torch import Tensor
from torch.nn.functional import cosine_similarity

SHAPE = (3, 8, 8)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The worst sample's."""
    error = (found.double() - expected.double()).flatten(1).norm(dim=1)
    return (error / expected.double().flatten(1).norm(dim=1)).max().item()


# ---- Gaussian base, linear log-weight: every form of ComfyUI's models --------------------------


@dataclass(frozen=True)
class Form:
    """A model form as in comfy/model_sampling.py: forward process, and output <-> denoised."""

    signal: Callable[[float], float]
    output: Callable[[Tensor, Tensor, float], Tensor]
    denoised: Callable[[Tensor, Tensor, float], Tensor]

    def noise(self, sigma: float) -> float:
        return sigma

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
        level = float(sigma[0])
        return noise * self.noise(level) + latent * self.signal(level)


DATA = 0.5  # EDM's sigma_data


def root(sigma: float) -> float:
    return math.sqrt(sigma**2 + 1)


def edm_root(sigma: float) -> float:
    return math.sqrt(sigma**2 + DATA**2)


FORMS = {
    "EPS": Form(lambda s: 1.0, lambda x, d, s: (x - d) / s, lambda x, out, s: x - out * s),
    "v": Form(
        lambda s: 1.0,
        lambda x, d, s: (x / root(s) - d * root(s)) / s,
        lambda x, out, s: x / root(s) ** 2 - out * s / root(s),
    ),
    "EDM": Form(
        lambda s: 1.0,
        lambda x, d, s: (d - x * DATA**2 / edm_root(s) ** 2) * edm_root(s) / (s * DATA),
        lambda x, out, s: x * DATA**2 / edm_root(s) ** 2 + out * s * DATA / edm_root(s),
    ),
    "X0": Form(lambda s: 1.0, lambda x, d, s: d, lambda x, out, s: out),
    "flow": Form(lambda s: 1.0 - s, lambda x, d, s: (x - d) / s, lambda x, out, s: x - out * s),
}


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9, 3.0, 10.0])
@pytest.mark.parametrize("name", FORMS)
def test_gaussian_base_gives_the_exact_tilted_mean_in_every_form(name: str, level: float) -> None:
    """alpha = 1, p = N(mu, s^2), w = exp(b x0): q = N(mu + s^2 b, s^2), as the form itself has it.

    The network rounds once, at its output: in float32 throughout, x - sigma * eps at high sigma
    loses digits of its own.
    """
    form, variance, generator = FORMS[name], 0.7, torch.Generator().manual_seed(1)
    level = level / (1 + level) if name == "flow" else level
    mean = 0.3 * torch.randn(1, *SHAPE, generator=generator, dtype=torch.float64)
    slope = 0.5 * torch.randn(1, *SHAPE, generator=generator, dtype=torch.float64)
    signal, noise = form.signal(level), form.noise(level)

    def posterior_mean(x: Tensor, prior_mean: Tensor) -> Tensor:
        gain = signal * variance / (signal**2 * variance + noise**2)
        return prior_mean + gain * (x - signal * prior_mean)

    sigma = sigmas(4, level)
    x = signal * torch.randn(4, *SHAPE, generator=generator)
    x = x + noise * torch.randn(4, *SHAPE, generator=generator)
    view = guidance.ve_view(form.noise_scaling, sigma)
    assert view.is_usable

    def denoiser(x_ve: Tensor, sigma_ve: Tensor) -> Tensor:
        own = view.from_ve(x_ve).double()
        output = form.output(own, posterior_mean(own, mean), level)
        return form.denoised(own, output, level).float()

    method, weight = Paper(schedule=guidance.ConstantSchedule()), analytic.LinearLogWeight(slope)
    guided, record = method(denoiser, weight, view.to_ve(x), view.sigma_ve)
    expected = posterior_mean(x.double(), mean + variance * slope)
    assert (guided.double() - expected).abs().max() < 1e-4
    assert (expected - posterior_mean(x.double(), mean)).abs().max() > 1e-2  # the tilt is there
    assert record.model_calls == 2


def test_auto_schedule_measures_the_exact_variance_of_log_w() -> None:
    base = analytic.Gaussian(torch.zeros(16), 0.7)
    slope = torch.linspace(0.1, 1.0, 4)[:, None] * torch.ones(16)
    method = Paper(schedule=guidance.AutoSchedule(0.2))
    for level in (0.3, 1.0, 5.0):
        x = torch.randn(4, 16, generator=torch.Generator().manual_seed(2)) * level
        _, record = method(base.denoise, analytic.LinearLogWeight(slope), x, sigmas(4, level))
        # log w = b x0 under the posterior N(., s^2 sigma^2 / (s^2 + sigma^2)).
        exact = slope.square().sum(1) * 0.7 * level**2 / (0.7 + level**2)
        assert torch.allclose(record.predicted_gain, exact, rtol=1e-3)
        assert torch.allclose(record.alpha, 1 / (1 + 0.2 * exact), rtol=1e-3)


# ---- Gaussian mixtures: the finite difference is the Jacobian ----------------------------------


def finite_difference(
    denoiser: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigma: Tensor,
    v: Tensor,
    step: DifferenceStep,
) -> Tensor:
    return guidance.jacobian_vector_product(
        denoiser, x, sigma, denoiser(x, sigma), v, step.size(v, sigma)
    )


def at_levels(levels: tuple[float, ...], each: int) -> Tensor:
    """Noise levels of a batch with so many samples at each."""
    return torch.tensor(levels).repeat_interleave(each)


def noisy(pixels: PixelMixture, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """[B, 256] draws under their noise."""
    x0 = pixels.sample(len(sigma), 256, generator)
    return x0 + sigma[:, None] * torch.randn(len(sigma), 256, generator=generator)


# How far the default step leaves the linear regime depends on the data: 1e-3 holds where modes
# overlap; on separate ones the step itself must be smaller (truncation is of first order).
FLOAT32_CASES = [
    pytest.param(2, 0.8, None, id="2-d"),
    pytest.param(8, 0.9, None, id="8-d"),
    pytest.param(32, 0.8, 2e-3, id="32-d, smaller step"),
]


@pytest.mark.parametrize(("dim", "variance", "relative"), FLOAT32_CASES)
def test_finite_difference_equals_the_jacobian_in_float32(
    dim: int, variance: float, relative: float | None
) -> None:
    levels, step = (0.3, 1.0, 3.0, 10.0), DifferenceStep(relative=relative)
    for seed in range(4):
        mixture, sigma = unit_mixture(dim, 5, variance, seed), at_levels(levels, 16)
        x = torch.cat([noisy_draws(mixture, 16, level, seed) for level in levels])
        v = 5 * torch.randn(16, dim, generator=torch.Generator().manual_seed(seed)).repeat(4, 1)
        found = finite_difference(mixture.denoise, x, sigma, v, step)
        assert found.dtype == torch.float32
        assert relative_error(found, analytic.mixture_jacobian_product(mixture, x, sigma, v)) < 1e-3


def test_finite_difference_equals_the_jacobian_on_pictures_in_float32() -> None:
    mixture, generator = PixelMixture(0.8), torch.Generator().manual_seed(3)
    sigma = at_levels((0.03, 0.1, 0.3, 1.0, 3.0, 10.0), 8)
    x = noisy(mixture, sigma, generator)
    v = 1e4 * torch.randn(x.shape, generator=generator)
    found = finite_difference(mixture.denoise, x, sigma, v, DifferenceStep())
    assert relative_error(found, mixture.jacobian_product(x, sigma, v)) < 1e-3


@pytest.mark.parametrize(
    ("dtype", "least"), [(torch.float16, 0.98), (torch.bfloat16, 0.90)], ids=str
)
def test_direction_survives_half_precision(dtype: torch.dtype, least: float) -> None:
    """The denoiser takes x in half, computes in half and answers in half."""
    levels, step = (0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0), DifferenceStep(dtype=dtype)
    sigma, pixels = at_levels(levels, 4), PixelMixture(0.1)
    assert not step.is_below_rounding(sigma).any()
    for seed in range(6):
        generator, modes = torch.Generator().manual_seed(seed), unit_mixture(256, 8, 0.5, seed)
        drawn = torch.cat([noisy_draws(modes, 4, level, seed) for level in levels])
        cases = [
            (modes.denoise, analytic.mixture_jacobian_product, modes, drawn),
            (
                pixels.denoise,
                PixelMixture.jacobian_product,
                pixels,
                noisy(pixels, sigma, generator),
            ),
        ]
        for denoise, jacobian_product, mixture, x in cases:

            def halved(x: Tensor, sigma: Tensor, denoise=denoise) -> Tensor:
                return denoise(x.to(dtype), sigma.to(dtype))

            assert halved(x, sigma).dtype == dtype
            v = 7 * torch.randn(x.shape, generator=generator)
            found = finite_difference(halved, x, sigma, v, step)
            exact = jacobian_product(mixture, x, sigma, v)
            assert cosine_similarity(found.double(), exact).min().item() >= least


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_below_the_half_precision_floor_v_itself_is_used(dtype: torch.dtype) -> None:
    """Rounding would drown the difference: one call, and the shift is that of J = 1."""
    base, slope = PixelMixture(0.5), torch.linspace(-2, 2, 64)
    x = base.sample(2, 64, torch.Generator().manual_seed(4))
    for mode in ("paper", "balanced"):
        method = replace(
            guidance.preset(mode, difference=DifferenceStep(dtype=dtype)), skip_below=0.0
        )
        for level, calls in ((0.29, 1), (0.31, 2)):
            denoiser = analytic.Counted(lambda x, s: base.denoise(x.to(dtype), s.to(dtype)).float())
            guided, record = method(denoiser, analytic.LinearLogWeight(slope), x, sigmas(2, level))
            assert record.model_calls == denoiser.calls == calls
            shift = level**2 * record.alpha[:, None] * slope
            along_v = torch.allclose(guided, denoiser.answered[0] + shift, atol=1e-6)
            assert along_v == (calls == 1)
    # Where the output is multiplied by sigma, as for noise prediction, its rounding falls with it.
    noise = DifferenceStep(dtype=dtype, output_gain=(0.1, 10.0))
    assert not noise.is_below_rounding(sigmas(1, 0.01))
    # A step that the user gave is the user's to judge.
    assert not DifferenceStep(dtype=dtype, absolute=0.1).is_below_rounding(sigmas(1, 0.01))
    assert not DifferenceStep().is_below_rounding(sigmas(1, 0.01))


@pytest.mark.parametrize(
    ("dtype", "least"), [(torch.float16, (0.98, 0.88)), (torch.bfloat16, (0.90, 0.55))]
)
def test_noise_prediction_in_half_precision(dtype: torch.dtype, least: tuple[float, float]) -> None:
    """D = x - sigma * output with the output in half: its rounding grows with sigma.

    The step grows too; without that the worst cosine at sigma 14.6 is about 0.6 and 0.1.
    """
    base = PixelMixture(0.1)
    step = DifferenceStep(dtype=dtype, output_gain=(0.1, 10.0))

    def halved(x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma[:, None]
        return x - s * ((x - base.denoise(x, sigma)) / s).to(dtype).to(x.dtype)

    sigma = at_levels((0.03, 1.0, 3.0, 14.6), 4)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        x = noisy(base, sigma, generator)
        v = torch.randn(x.shape, generator=generator)
        found = finite_difference(halved, x, sigma, v, step)
        exact = base.jacobian_product(x, sigma, v)
        cosine = cosine_similarity(found.double(), exact.double()).reshape(4, 4)
        assert cosine[:3].min() >= least[0] and cosine[3].min() >= least[1], cosine


def test_agrees_with_dps_where_the_jacobian_is_symmetric() -> None:
    """J v by the finite difference is J^T v by backpropagation through an exact denoiser."""
    mixture, levels = unit_mixture(8, 5, 0.9, 0), (0.3, 1.0, 3.0)
    sigma = at_levels(levels, 8)
    x = torch.cat([noisy_draws(mixture, 8, level, 5) for level in levels])
    weight = guidance.AutogradLogWeight(lambda d: -(d - 1).square().sum(1) + d[:, 0].sin(), "bowl")

    leaf = x.double().requires_grad_()
    log_w = weight.function(mixture.denoise(leaf, sigma))
    (backpropagated,) = torch.autograd.grad(log_w.sum(), leaf)

    guided, _ = Paper(schedule=guidance.ConstantSchedule())(mixture.denoise, weight, x, sigma)
    shift = guided.double() - mixture.denoise(x.double(), sigma)
    assert relative_error(shift / sigma[:, None] ** 2, backpropagated) < 2e-3


# ---- the paper's own form ----------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.2, 0.56, 1.0, 3.0])
@pytest.mark.parametrize("c", [10.0, 0.3])
def test_agrees_with_the_vp_formula_of_the_paper(c: float, level: float) -> None:
    """Eq. 13 and 17 in VP variables: the score of an Ornstein-Uhlenbeck process, written anew.

    A step far outside the linear regime, so that the two agree as formulas, not in the limit. The
    VP step is sqrt(abar) times the VE one, because x_VP = sqrt(abar) x_VE.
    """
    mixture, dim = unit_mixture(6, 4, 0.3, 7), 6
    abar = 1 / (1 + level**2)
    slope = 0.7 * torch.randn(dim, generator=torch.Generator().manual_seed(8)).double()
    x_ve = noisy_draws(mixture, 16, level, 9)

    def score(x: Tensor) -> Tensor:
        """grad log p_t by autograd on the density of sqrt(abar) x0 + sqrt(1 - abar) eps."""
        leaf = x.detach().requires_grad_()
        spread = abar * mixture.variance + 1 - abar
        distance = (leaf[:, None] - math.sqrt(abar) * mixture.means).square().sum(-1)
        log_p = (mixture.log_weights - distance / (2 * spread)).logsumexp(1)
        return torch.autograd.grad(log_p.sum(), leaf)[0]

    x, epsilon = math.sqrt(abar) * x_ve.double(), 0.5 * math.sqrt(abar)
    v = slope.expand(x.shape)
    g1 = v / math.sqrt(abar)
    g1 = g1 + (1 - abar) / (epsilon * math.sqrt(abar)) * (score(x + epsilon * v) - score(x))
    alpha = 1 / (1 + c * (1 - abar) ** 2 / abar**2)
    tweedie = (x + (1 - abar) * (score(x) + alpha * g1)) / math.sqrt(abar)

    step = DifferenceStep(absolute=0.5)
    method = Paper(schedule=guidance.UncertaintySchedule(c), difference=step)
    found, _ = method(mixture.denoise, analytic.LinearLogWeight(slope), x_ve, sigmas(16, level))
    assert relative_error(found, tweedie) < 1e-6
    plain = mixture.denoise(x_ve.double(), sigmas(16, level))
    assert relative_error(plain, tweedie) > 3e-4  # the guidance is there


# ---- batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["balanced", "paper", "fast"])
def test_a_batch_of_four_equals_four_single_runs(mode: str) -> None:
    """Up to rounding: matrix products of another shape round D differently, by a few eps |D|.

    The difference divides that by h: the bound is alpha sigma^2 * 2 rounding(D) / h + rounding(D).
    """
    mixture, method = unit_mixture(32, 5, 0.5, 10), guidance.preset(mode)
    weight = guidance.AutogradLogWeight(
        lambda d: (3 * d).sin().sum(1) * torch.ones(len(d)), "waves"
    )
    x = torch.cat([noisy_draws(mixture, 1, level, 11) for level in (0.3, 0.6, 1.0, 1.8)])
    sigma = torch.tensor([0.3, 0.6, 1.0, 1.8])
    together, record = method(mixture.denoise, weight, x, sigma)
    for i in range(4):
        x_i, sigma_i = x[i : i + 1], sigma[i : i + 1]
        alone, single = method(mixture.denoise, weight, x_i, sigma_i)
        denoised = mixture.denoise(x_i, sigma_i)
        _, v = weight.value_and_grad(denoised)
        rounding = 8 * torch.finfo(torch.float32).eps * float(x_i.abs().max())
        h = float(method.difference.size(v, sigma_i))
        gain = float(sigma_i**2 * record.alpha[i])
        bound = rounding * (1 + gain * (2 / h if method.compares else 10))
        assert bound < 2e-3 * float(denoised.abs().max())
        assert (together[i] - alone[0]).abs().max() <= bound
        if not single.active:  # alone it is skipped; beside others its shift is zero
            assert record.alpha[i] == 0
            continue
        assert torch.allclose(record.log_w[i], single.log_w[0], rtol=1e-5, atol=1e-5)
        assert torch.allclose(record.alpha[i], single.alpha[0], rtol=1e-3)
