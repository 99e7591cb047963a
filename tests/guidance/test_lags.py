"""One evaluation of LAGS: limits, modes, calls, skipping, refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from lags_pack import guidance
from lags_pack.guidance import LAGS, MODES, Fast, Paper, UncertaintySchedule, preset
from lags_pack.tests.analytic import (
    Counted,
    Gaussian,
    LinearLogWeight,
    noisy_draws,
    sigmas,
    unit_mixture,
)
from torch import Tensor

SHAPE = (3, 4, 4)
BASE = Gaussian(torch.linspace(-1, 1, 48).reshape(SHAPE), 0.5)


def draw(count: int, level: float) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return BASE.mean + (0.5 + level**2) ** 0.5 * torch.randn(count, *SHAPE, generator=generator)


def slope(*sizes: float) -> Tensor:
    """One direction per sample, of the given RMS."""
    direction = torch.randn(len(sizes), *SHAPE, generator=torch.Generator().manual_seed(2))
    direction = direction / direction.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return direction * torch.tensor(sizes).view(-1, 1, 1, 1)


def shift_of(method: LAGS, weight: LinearLogWeight, level: float, count: int = 1) -> Tensor:
    x, sigma = draw(count, level), sigmas(count, level)
    return method(BASE.denoise, weight, x, sigma)[0] - BASE.denoise(x, sigma)


# ---- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Paper, Fast])
def test_towards_sigma_0_the_score_gains_grad_log_w(kind: type[LAGS]) -> None:
    """The shift tends to sigma^2 v: at the end the guidance is exact (paper)."""
    mixture, level = unit_mixture(8, 5, 0.5, 0), 0.02
    x, sigma = noisy_draws(mixture, 4, level, 1).double(), sigmas(4, level)
    v = torch.linspace(10, 100, 8)
    guided, _ = kind(schedule=UncertaintySchedule())(mixture.denoise, LinearLogWeight(v), x, sigma)
    shift = guided - mixture.denoise(x, sigma)
    assert torch.allclose(shift, level**2 * v.double().expand(4, 8), rtol=5e-3)


def test_fast_shifts_along_v_itself_and_a_large_c_switches_the_guidance_off() -> None:
    weight, level = LinearLogWeight(slope(1.0)), 0.5
    expected = level**2 / (1 + 10 * level**4) * weight.slope
    assert torch.allclose(shift_of(preset("fast"), weight, level), expected, atol=1e-6)
    methods = [Paper(schedule=UncertaintySchedule(c)) for c in (1e-3, 1.0, 1e3, 1e9)]
    shifts = [shift_of(method, weight, 1.0).abs().max().item() for method in methods]
    assert shifts == sorted(shifts, reverse=True)
    assert shifts[0] > 0.1 and shifts[-1] < 1e-6


def test_a_negative_variance_is_as_doubtful_as_a_positive_one() -> None:
    """A learned network's J may give <v, J v> below 0: that J is off, and earns no trust."""
    flipped = Counted(lambda x, sigma: -BASE.denoise(x, sigma))
    x, sigma = draw(1, 1.0), sigmas(1, 1.0)
    _, record = Paper(schedule=guidance.AutoSchedule())(
        flipped, LinearLogWeight(slope(3.0)), x, sigma
    )
    variance = record.predicted_gain.item()
    assert variance < 0 and record.alpha.item() == pytest.approx(1 / (1 - 0.1 * variance))


# ---- calls -------------------------------------------------------------------------------------

LEVELS = torch.logspace(math.log10(0.03), math.log10(15), 25).tolist()


@pytest.mark.parametrize(("mode", "calls"), [("paper", 2), ("fast", 1)])
def test_model_calls_at_every_noise_level(mode: str, calls: int) -> None:
    for level in LEVELS:
        denoiser = Counted(BASE.denoise)
        weight = LinearLogWeight(slope(1.0))
        _, record = preset(mode)(denoiser, weight, draw(1, level), sigmas(1, level))
        assert denoiser.calls == record.model_calls == calls
        assert weight.calls == record.weight_calls == int(record.active)
        assert record.active or mode != "paper"


@pytest.mark.parametrize("mode", ["balanced", "fast"])
def test_a_skipped_step_is_the_plain_one_bit_for_bit(mode: str) -> None:
    method, skipped = preset(mode), 0
    for level in [*LEVELS, 50.0]:
        denoiser, weight = Counted(BASE.denoise), LinearLogWeight(slope(1.0))
        guided, record = method(denoiser, weight, draw(1, level), sigmas(1, level))
        assert record.active == method.is_active(sigmas(1, level))
        if record.active:
            assert not torch.equal(guided, denoiser.answered[0])
            continue
        skipped += 1
        assert torch.equal(guided, denoiser.answered[0])
        assert (denoiser.calls, weight.calls) == (1, 0)
        assert (record.model_calls, record.weight_calls) == (1, 0)
        assert record.alpha is None and record.log_w is None
    assert 2 <= skipped < len(LEVELS)


@pytest.mark.parametrize("mode", MODES)
def test_the_second_forward_only_differs_by_the_step(mode: str) -> None:
    denoiser, level = Counted(BASE.denoise), 1.0
    weight = LinearLogWeight(slope(1e4, 1e-4))
    x, sigma = draw(2, level), sigmas(2, level)
    preset(mode)(denoiser, weight, x, sigma)
    assert torch.equal(denoiser.asked[0], x)
    # balanced takes the full step, sigma^2 v: at most 30 sigma, over 48 numbers here.
    expected = [30 / math.sqrt(48), 1e-4] if mode == "balanced" else [0.01, 0.01]
    for moved in denoiser.asked[1:]:
        step = (moved - x).square().mean(dim=(1, 2, 3)).sqrt()
        assert step.tolist() == pytest.approx(expected, rel=1e-3)


def test_presets_are_what_they_say() -> None:
    assert set(MODES) == {"balanced", "fast", "paper"}
    paper, balanced, fast = preset("paper"), preset("balanced"), preset("fast")
    assert paper == Paper(schedule=UncertaintySchedule(10.0))
    assert paper.skip_below == 0 and paper.shift_limit is None and paper.compares
    assert balanced.schedule == guidance.ChordSchedule(1.0) and balanced.difference.full
    assert balanced.tilts_start and not paper.tilts_start and not fast.tilts_start
    assert balanced.compares and balanced.conditional and balanced.max_deviations == 4
    assert preset("balanced", c=30.0).schedule.damping == pytest.approx(3.0)
    assert preset("fast", c=3.0).schedule == preset("paper", c=3.0).schedule
    assert fast.schedule == UncertaintySchedule(10.0) and not fast.compares
    for mode in MODES:
        half = guidance.DifferenceStep(dtype=torch.float16)
        assert preset(mode, difference=half).difference == replace(half, full=mode == "balanced")


def test_strength_without_end_tilts_by_four_deviations() -> None:
    """Of the data."""
    x, sigma, deviation = draw(2, 2.0), sigmas(2, 2.0), math.sqrt(BASE.variance)
    for strength in (1e3, 1e6, 1e12):
        weight = LinearLogWeight(slope(1.0, 1.0) * strength)
        guided, record = preset("balanced")(BASE.denoise, weight, x, sigma)
        moved = (guided - BASE.denoise(x, sigma)).flatten(1).norm(dim=1)
        assert moved.tolist() == pytest.approx([4 * deviation] * 2, rel=1e-3)
        assert torch.allclose(record.alpha, torch.ones(2), atol=1e-3), "trusted, but held"


# ---- the limit of the shift --------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Paper, Fast])
def test_the_shift_limit_acts_per_sample_and_keeps_the_direction(kind: type[LAGS]) -> None:
    free, limited = (
        kind(schedule=guidance.ConstantSchedule(), shift_limit=limit) for limit in (None, 0.2)
    )
    weight, level = LinearLogWeight(slope(100.0, 0.01, 0.0, 100.0)), 1.0
    x, sigma = draw(4, level), sigmas(4, level)
    x[3] *= 5
    denoised = BASE.denoise(x, sigma)
    full = free(BASE.denoise, weight, x, sigma)[0] - denoised
    guided, record = limited(BASE.denoise, weight, x, sigma)
    shift = guided - denoised

    def rms(values: Tensor) -> Tensor:
        return values.square().mean(dim=(1, 2, 3)).sqrt()

    assert rms(denoised)[3] > 2 * rms(denoised)[0]
    assert torch.allclose(rms(shift)[[0, 3]], 0.2 * rms(denoised)[[0, 3]], rtol=1e-4)
    assert torch.nn.functional.cosine_similarity(shift[0].flatten(), full[0].flatten(), 0) > 0.9999
    assert rms(full)[0] > 10 * rms(shift)[0]
    assert torch.allclose(shift[1:3], full[1:3], atol=1e-6)
    assert torch.allclose(record.shift_rms, rms(shift), atol=1e-6)
    assert torch.allclose(record.denoised_rms, rms(denoised))


# ---- odd gradients -----------------------------------------------------------------------------

ODD: dict[str, LAGS] = {
    **{mode: preset(mode) for mode in MODES},
    "hard gate": Paper(schedule=guidance.HardGateSchedule(2.0)),
    "absolute step": Paper(difference=guidance.DifferenceStep(absolute=0.1)),
    "limited": Paper(shift_limit=0.1),
}


@pytest.mark.parametrize("name", ODD)
def test_a_zero_gradient_shifts_nothing(name: str) -> None:
    x, sigma = draw(2, 1.0), sigmas(2, 1.0)
    guided, record = ODD[name](BASE.denoise, LinearLogWeight(slope(0.0, 1.0)), x, sigma)
    assert record.active
    assert torch.equal(guided[0], BASE.denoise(x, sigma)[0])
    assert not torch.equal(guided[1], BASE.denoise(x, sigma)[1])
    assert record.shift_rms[0] == 0 and torch.isfinite(record.alpha).all()


@pytest.mark.parametrize("power", [-45, -38, -20, 20, 30])
@pytest.mark.parametrize("name", ODD)
def test_gradients_of_any_size_make_no_nan(name: str, power: int) -> None:
    """Also through a J that is far from symmetric, where terms of <v, J v> have both signs."""
    turn = torch.linalg.qr(torch.randn(48, 48, generator=torch.Generator().manual_seed(3)))[0]

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return (BASE.denoise(x, sigma).flatten(1) @ turn).reshape(x.shape)

    weight = LinearLogWeight(slope(1.0, 1.0) * 10.0**power)
    guided, record = ODD[name](denoiser, weight, draw(2, 1.0), sigmas(2, 1.0))
    assert torch.isfinite(guided).all()
    assert torch.isfinite(record.alpha).all() and torch.isfinite(record.predicted_gain).all()


def test_the_record_says_what_was_measured_and_nothing_is_changed_in_place() -> None:
    weight, sigma = LinearLogWeight(slope(1.0, 2.0)), torch.tensor([0.5, 1.0])
    x = draw(2, 1.0)
    guided, record = preset("paper")(BASE.denoise, weight, x, sigma)
    denoised = BASE.denoise(x, sigma)
    assert torch.equal(record.log_w, weight(denoised))  # before the shift
    assert torch.equal(record.sigma_ve, sigma)
    assert torch.allclose(record.alpha, 1 / (1 + 10 * sigma**4))
    variance = (weight.slope**2).sum(dim=(1, 2, 3)) * 0.5 * sigma**2 / (0.5 + sigma**2)
    assert torch.allclose(record.predicted_gain, variance, rtol=1e-3)
    moved = (guided - denoised).square().mean(dim=(1, 2, 3)).sqrt()
    assert torch.allclose(record.shift_rms, moved, rtol=1e-4)
    assert record.seconds > 0
    denoiser, before, level = Counted(BASE.denoise), x.clone(), sigmas(2, 1.0)
    Paper(shift_limit=0.1)(denoiser, LinearLogWeight(slope(9.0, 9.0)), x, level)
    assert torch.equal(x, before) and torch.equal(level, sigmas(2, 1.0))
    assert torch.equal(denoiser.answered[0], BASE.denoise(before, level))


# ---- refusals ----------------------------------------------------------------------------------


class BrokenWeight:
    """A weight that answers what it is told to."""

    name = "my weight"

    def __init__(self, log_w: Tensor, grad: Tensor) -> None:
        self.log_w, self.grad = log_w, grad

    def __call__(self, denoised: Tensor) -> Tensor:
        return self.log_w

    def value_and_grad(self, denoised: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_w, self.grad


def good() -> tuple[Tensor, Tensor]:
    return torch.zeros(2), torch.ones(2, *SHAPE)


def with_value(value: float, of: int) -> tuple[Tensor, Tensor]:
    answer = good()
    answer[of].view(-1)[-1] = value
    return answer


LOG_W, GRADIENT = good()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (with_value(math.nan, 0), r"'my weight' has a value that is not finite.*sigma = 1"),
        (with_value(-math.inf, 0), "value that is not finite.*Lower its strength"),
        (with_value(math.nan, 1), "gradient that is not finite.*sigma = 1"),
        (with_value(math.inf, 1), "gradient that is not finite.*float32"),
        ((LOG_W[0], GRADIENT), r"'my weight' returned shape \(\) for 2 samples; expected \(2,\)"),
        ((LOG_W[:, None], GRADIENT), r"returned shape \(2, 1\) for 2 samples"),
        ((LOG_W, GRADIENT[:1]), r"gradient of shape \(1, 3, 4, 4\); expected \(2, 3, 4, 4\)"),
    ],
)
def test_a_weight_that_breaks_its_contract_is_named(
    answer: tuple[Tensor, Tensor], message: str
) -> None:
    for mode in MODES:
        with pytest.raises(guidance.WeightError, match=message):
            preset(mode)(BASE.denoise, BrokenWeight(*answer), draw(2, 1.0), sigmas(2, 1.0))


def test_refuses_numbers_out_of_range() -> None:
    for value in (0.0, -1.0, math.nan, math.inf):
        said = rf"uncertainty coefficient c is {value}; expected .* above 0 \(the paper"
        for mode in MODES:
            with pytest.raises(ValueError, match=said):
                preset(mode, c=value)
    for value in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"max_deviations is {value}; expected above 0"):
            guidance.Balanced(max_deviations=value)
        with pytest.raises(ValueError, match=f"shift limit is {value}; expected above 0"):
            Paper(shift_limit=value)
    for value in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=f"skip threshold is {value}; expected 0 to below 1"):
            Paper(skip_below=value)


def test_refuses_an_unknown_mode_and_a_measuring_schedule_without_the_jacobian() -> None:
    with pytest.raises(ValueError, match="mode is 'slow'; expected one of.*'balanced'"):
        preset("slow")
    with pytest.raises(ValueError, match="needs the Jacobian.*Choose a fixed schedule"):
        Fast(schedule=guidance.AutoSchedule())


@pytest.mark.parametrize("bad_call", [1, 2])
def test_a_model_that_overflows_is_told_not_drawn(bad_call: int) -> None:
    calls = 0

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x * torch.nan if calls == bad_call else 0.5 * x

    weight = guidance.AutogradLogWeight(lambda z: z.flatten(1).sum(dim=1), "sum")
    with pytest.raises(
        guidance.ModelError, match=r"own output is not finite at noise level sigma = 2"
    ):
        preset("paper")(denoiser, weight, torch.randn(2, 3), torch.full((2,), 2.0))
