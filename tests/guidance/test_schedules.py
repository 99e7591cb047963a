from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lags_pack import guidance
from lags_pack.guidance import AutoSchedule, ChordSchedule, Measured, Schedule, UncertaintySchedule
from lags_pack.guidance.schedules import MOST_ALPHA, influence
from torch import Tensor

fixed = settings(deadline=None, max_examples=60, derandomize=True)

LEVELS = st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=8)
POSITIVE = st.floats(1e-4, 1e4)
FALLING = st.one_of(
    st.builds(UncertaintySchedule, POSITIVE),
    st.builds(guidance.HardGateSchedule, POSITIVE),
    st.builds(AutoSchedule, POSITIVE),
    st.builds(ChordSchedule, POSITIVE, st.just(1.0)),
    st.just(guidance.ConstantSchedule()),
)
SCHEDULES = FALLING | st.builds(ChordSchedule, POSITIVE)  # which damps more where noise is little


def measured(sigma: torch.Tensor, predicted: float, *gains: float) -> Measured:
    """The same gains for every sample."""
    return Measured(*(torch.full_like(sigma, gain) for gain in (predicted, *gains)))


GAINS = st.one_of(st.floats(-1e30, 1e30), st.just(-math.inf))


@fixed
@given(SCHEDULES, LEVELS, st.floats(-1e6, 1e30), GAINS, GAINS)
def test_alpha_is_0_or_more_and_most_where_log_w_is_a_line(
    schedule: Schedule, levels: list[float], predicted: float, realised: float, opposite: float
) -> None:
    sigma = torch.tensor(levels)
    alpha = schedule.alpha(sigma, measured(sigma, predicted, realised, opposite))
    assert alpha.shape == sigma.shape and alpha.dtype == torch.float32
    most = MOST_ALPHA if isinstance(schedule, ChordSchedule) else schedule.bound(sigma)
    assert ((alpha >= 0) & (alpha <= most)).all()
    line = schedule.alpha(sigma, measured(sigma, predicted, predicted, -predicted))
    assert (line <= schedule.bound(sigma)).all()


@fixed
@given(FALLING, LEVELS, st.floats(0, 1e6))
def test_alpha_falls_with_the_noise(schedule: Schedule, levels: list[float], gain: float) -> None:
    sigma = torch.tensor(sorted(levels))
    alpha = schedule.alpha(sigma, measured(sigma, gain, gain / 2))
    assert (alpha.diff() <= 0).all()


@fixed
@given(POSITIVE, st.lists(st.floats(0, 1e20), min_size=2, max_size=8))
def test_auto_alpha_falls_with_the_measured_variance(kappa: float, variances: list[float]) -> None:
    variance = torch.tensor(sorted(variances))
    alpha = AutoSchedule(kappa).alpha(torch.ones_like(variance), Measured(variance))
    assert (alpha.diff() <= 0).all()
    other = AutoSchedule(kappa).alpha(torch.ones_like(variance), Measured(-variance))
    assert torch.equal(alpha, other)


def test_chord_trusts_a_line_and_follows_a_parabola() -> None:
    """A parabola that falls short by the share d of its promise: alpha = 1 / (1 + caution d).

    One that bends up gains more than promised, and alpha is above 1: by 2 where it is exact.
    """
    sigma = torch.ones(5)
    promised = torch.full((5,), 10.0)
    realised = torch.tensor([40.0, 12.0, 10.0, 6.0, -30.0])
    for caution, rising in ((0.5, 1.5), (2.0, 2.0), (2.0, 0.0)):
        schedule = ChordSchedule(caution, late=1.0, rising=rising)
        alpha = schedule.alpha(sigma, Measured(promised, realised))
        down = [1 / (1 + caution * 0.4), 1 / (1 + caution * 4)]
        up = [2 if rising else 1, 1 / (1 - rising * 0.2)]
        assert alpha.tolist() == pytest.approx([*up, 1, *down], rel=0.01)
    # The shift that its own chord's slope gives: alpha = (mean slope on the way) / (slope here).
    d = 0.4
    gains = Measured(promised[:1], realised[3:4])
    alpha_chord = float(ChordSchedule(1.0).alpha(1e3 * sigma[:1], gains))
    assert alpha_chord == pytest.approx(1 - d * alpha_chord, abs=0.01)
    # Without noise all is a parabola, and the slope at the end is right.
    end = float(ChordSchedule(1.0).alpha(1e-3 * sigma[:1], gains))
    assert end == pytest.approx(1 - 2 * d * end, abs=0.01)


def test_chord_takes_the_lesser_of_both_sides_and_nothing_where_a_loss_is_promised() -> None:
    """log of a square: up by 2.2 where 4 were promised, and no less far up on the other side."""
    sigma, promised = torch.ones(2), torch.tensor([4.0, 4.0])
    realised, opposite = torch.tensor([2.2, 4.0]), torch.tensor([0.0, -4.0])
    alpha = ChordSchedule(0.5, late=1.0).alpha(sigma, Measured(promised, realised, opposite))
    assert alpha.tolist() == pytest.approx([1.1 / 4, 1.0], rel=0.05)
    gains = Measured(torch.tensor([-1.0, -0.01]), torch.tensor([5.0, 0.0]))
    assert ChordSchedule().alpha(sigma, gains).tolist() == [0.0, 1.0]


@fixed
@given(POSITIVE, st.floats(1e-3, 1e2), st.floats(0.1, 10))
def test_c_is_a_scale_of_the_noise_to_the_fourth(c: float, sigma: float, scale: float) -> None:
    """Data of standard deviation s needs c / s^4: the trap of method.md, 1.5."""
    one = UncertaintySchedule(c).alpha(torch.tensor([sigma]))
    other = UncertaintySchedule(c / scale**4).alpha(torch.tensor([sigma * scale]))
    assert torch.allclose(one, other, rtol=1e-3, atol=1e-7)


def test_uncertainty_has_the_values_of_the_paper_and_the_hard_gate_opens_at_one_half() -> None:
    """1 / (1 + c (1 - abar)^2 / abar^2), c = 10 unless said; one half at c^(-1/4)."""
    abar = torch.tensor([0.99, 0.9, 0.5, 0.1])
    sigma = ((1 - abar) / abar).sqrt()
    expected = 1 / (1 + 10 * (1 - abar) ** 2 / abar**2)
    assert torch.allclose(UncertaintySchedule().alpha(sigma), expected, rtol=1e-5)
    assert UncertaintySchedule(3.0).alpha(torch.tensor([3.0**-0.25])).item() == pytest.approx(0.5)
    gate = 10**-0.25
    sigma = torch.tensor([0.0, gate - 1e-3, gate + 1e-3, 100.0])
    assert guidance.HardGateSchedule().alpha(sigma).tolist() == [1, 1, 0, 0]


POSITIVE_ONES = UncertaintySchedule, guidance.HardGateSchedule, AutoSchedule, ChordSchedule


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_arithmetic_is_float32_for_half_sigma(dtype: torch.dtype) -> None:
    sigma = torch.tensor([20.0], dtype=dtype)  # its fourth power is beyond float16
    gains = Measured(torch.ones(1, dtype=dtype), torch.ones(1, dtype=dtype))
    for make in (*POSITIVE_ONES, guidance.ConstantSchedule):
        assert make().alpha(sigma, gains).dtype == torch.float32
    assert UncertaintySchedule().alpha(sigma).item() == pytest.approx(1 / 1600001, rel=1e-3)


@pytest.mark.parametrize("make", POSITIVE_ONES)
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_refuses_a_constant_that_is_not_positive(make: type, value: float) -> None:
    with pytest.raises(ValueError, match=f"is {value}; expected a finite number above 0"):
        make(value)


def test_measuring_schedules_refuse_to_guess() -> None:
    with pytest.raises(ValueError, match="needs the measured variance"):
        AutoSchedule().alpha(torch.ones(1))
    for gains in (None, Measured(torch.ones(1))):
        with pytest.raises(ValueError, match="needs the predicted and the actual gain"):
            ChordSchedule().alpha(torch.ones(1), gains)


# ---- where a step is worth its cost ------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "active", "skipped"),
    [
        ("paper", [1e-3, 0.03, 1.0, 15.0, 1e3], []),
        ("fast", [0.06, 0.1, 0.56, 1.0, 2.3], [0.01, 0.04, 2.7, 15.0]),
        ("balanced", [0.18, 1.0, 5.0, 1e3], [0.03, 0.17]),
    ],
)
def test_windows_of_the_modes(mode: str, active: list[float], skipped: list[float]) -> None:
    method = guidance.preset(mode)
    assert [s for s in active + skipped if method.is_active(torch.tensor([s]))] == active


def _is_active(schedule: Schedule, sigma_ve: Tensor, skip_below: float) -> Tensor:
    return guidance.Paper(schedule, skip_below=skip_below).is_active(sigma_ve)


@fixed
@given(SCHEDULES, st.floats(1e-3, 1e3), st.floats(0.001, 0.9))
def test_a_step_is_skipped_only_below_the_threshold(
    schedule: Schedule, sigma: float, threshold: float
) -> None:
    levels = torch.logspace(-3, 3, 2000)
    share = float(influence(schedule, torch.tensor([sigma])) / influence(schedule, levels).max())
    if abs(share / threshold - 1) > 0.05:  # the two grids differ a little
        assert _is_active(schedule, torch.tensor([sigma]), threshold) == (share > threshold)
    assert _is_active(schedule, torch.tensor([sigma]), 0.0)


def test_influence_is_what_is_undecided_times_alpha() -> None:
    """For N(0, 1) the posterior variance is sigma^2 / (1 + sigma^2)."""
    sigma, schedule = torch.logspace(-2, 2, 50), UncertaintySchedule(3.0)
    expected = schedule.alpha(sigma) * (1 - 1 / (1 + sigma.double() ** 2))
    assert torch.allclose(influence(schedule, sigma).double(), expected, rtol=1e-3)
    assert (influence(guidance.ConstantSchedule(), sigma).diff() > 0).all(), (
        "high noise is never skipped"
    )
    # Each sample is active by its own noise.
    each = _is_active(UncertaintySchedule(), torch.tensor([100.0, 0.5]), 0.02)
    assert each.tolist() == [False, True]
