"""alpha(sigma): how certain the guidance is, and where it is not worth its cost.

All are functions of the noise level and of the current evaluation, never of the step index:
samplers with several stages call between the steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from .shapes import PerSample


@dataclass(frozen=True)
class Measured:
    """What one evaluation found out about log w around the denoised sample.

    Attributes:
        predicted: [B] gain of log w that its gradient predicts for the full shift sigma_ve^2 J v,
            which is <v, sigma_ve^2 J v>: the posterior variance of the linearised log w as well.
        actual: [B] gain of log w at the shifted sample; None where it was not looked at.
        opposite: [B] gain of log w with the shift turned around; None likewise.
    """

    predicted: PerSample
    actual: PerSample | None = None
    opposite: PerSample | None = None


@runtime_checkable
class Schedule(Protocol):
    """``alpha(sigma_ve, measured) -> [B]``; ``bound(sigma_ve)`` is its value where log w is a line.

    ``needs_shift`` says whether alpha reads the predicted gain, which costs the second evaluation;
    ``needs_gain`` whether it also reads the actual one, which costs one value of the weight.
    """

    needs_shift: bool
    needs_gain: bool

    def alpha(self, sigma_ve: PerSample, measured: Measured | None = None) -> PerSample: ...

    def bound(self, sigma_ve: PerSample) -> PerSample: ...


@dataclass(frozen=True)
class UncertaintySchedule:
    """alpha = 1 / (1 + c sigma^4): LAGS, Prop. 1, where (1 - abar)^2 / abar^2 = sigma^4.

    c presumes data of unit variance; for data of standard deviation s the same schedule is c / s^4.

    Attributes:
        c: how fast alpha falls with noise, > 0. The paper uses 10 and calls 0.1 to 20 stable.
    """

    c: float = 10.0
    needs_shift = needs_gain = False

    def __post_init__(self) -> None:
        _check_positive("uncertainty coefficient c", self.c)

    def alpha(self, sigma_ve: PerSample, measured: Measured | None = None) -> PerSample:
        """[B] in 0..1, falling with sigma_ve."""
        return 1 / (1 + self.c * sigma_ve.float() ** 4)

    bound = alpha


@dataclass(frozen=True)
class HardGateSchedule:
    """alpha = 1 below a noise level and 0 above: the 0/1 gate of LAGS, appendix B.2.

    The paper gives no threshold; c^(-1/4), where the soft schedule crosses one half, is ours.

    Attributes:
        sigma_gate: variance-exploding noise level, > 0.
    """

    sigma_gate: float = 10.0**-0.25
    needs_shift = needs_gain = False

    def __post_init__(self) -> None:
        _check_positive("gate sigma", self.sigma_gate)

    def alpha(self, sigma_ve: PerSample, measured: Measured | None = None) -> PerSample:
        """[B], 0 or 1."""
        return (sigma_ve.float() <= self.sigma_gate).float()

    bound = alpha


@dataclass(frozen=True)
class ConstantSchedule:
    """alpha = 1 everywhere: plain first-order guidance, as in DPS."""

    needs_shift = needs_gain = False

    def alpha(self, sigma_ve: PerSample, measured: Measured | None = None) -> PerSample:
        """[B], all ones."""
        return torch.ones_like(sigma_ve, dtype=torch.float32)

    bound = alpha


@dataclass(frozen=True)
class AutoSchedule:
    """alpha = 1 / (1 + damping * e), e the posterior variance of log w, measured per sample.

    e = sigma^2 <v, J v>, because the posterior covariance is sigma^2 J; it costs nothing beyond the
    finite difference. Not in the paper.

    Attributes:
        damping: how much one squared nat of variance lowers alpha, > 0. Working range 0.03..0.3.
    """

    damping: float = 0.1
    needs_shift, needs_gain = True, False

    def __post_init__(self) -> None:
        _check_positive("damping", self.damping)

    def alpha(self, sigma_ve: PerSample, measured: Measured | None = None) -> PerSample:
        """[B] in 0..1, falling with the size of the measured variance.

        A negative measurement says that J is off (rounding, or a network whose J is no covariance),
        so it lowers alpha as well.
        """
        if measured is None:
            raise ValueError("AutoSchedule needs the measured variance sigma^2 <v, J v>.")
        return 1 / (1 + self.damping * measured.predicted.float().abs())

    def bound(self, sigma_ve: PerSample) -> PerSample:
        """[B], 1: how uncertain log w is cannot be known before it is measured."""
        return torch.ones_like(sigma_ve, dtype=torch.float32)


@dataclass(frozen=True)
class ChordSchedule:
    """alpha = 1 / (1 + damping * d), d the share of the predicted gain in log w that fails to come.

    The gradient v predicts a gain of <v, shift>; log w at the shifted sample tells the actual one,
    and d = 1 - actual / predicted. Where log w is a line, d = 0 and the full shift is right. Where
    it bends down, a shorter one is. For a parabola the slope at the end of a shift alpha times as
    long is 1 - 2 alpha d, and the mean slope on the way (that of the chord) 1 - alpha d; the shift
    that its own slope gives has damping 2 by the first, which is right for a parabola and
    Gaussian data, and 1 by the second, which serves weights of all kinds best
    (docs/benchmarks.md). Where there is little noise, the posterior is so narrow that all of them
    are parabolas: hence ``late``. Where log w bends up, as energies and contrasts do, d is below 0
    and the right shift is a longer one: ``rising``. Where log w was looked at on both sides, alpha
    is at most the mean slope over both, as a share of the gradient. Not in the paper.

    Attributes:
        damping: > 0. Working range 0.25 to 2.
        late: how many times as much it is without noise, by 1 / (1 + sigma^2) on the way there.
        rising: the damping where log w bends up, at least 0; 0 for the full shift at most. Between
            the chord's and a parabola's.
    """

    damping: float = 1.0
    late: float = 2.0
    rising: float = 1.5
    needs_shift = needs_gain = True

    def __post_init__(self) -> None:
        _check_positive("damping", self.damping)
        _check_positive("late damping", self.late)
        if not 0 <= self.rising < math.inf:
            raise ValueError(f"rising is {self.rising}; expected a finite number, 0 or above.")

    def alpha(self, sigma_ve: PerSample, measured: Measured | None = None) -> PerSample:
        """[B] in 0..MOST_ALPHA; 0 where the gradient itself says that the shift lowers log w.

        For an exact score <v, J v> is never negative, so there the network's J is wrong.
        """
        if measured is None or measured.actual is None:
            raise ValueError("ChordSchedule needs the predicted and the actual gain in log w.")
        predicted = measured.predicted.float()
        missing = predicted - measured.actual.float()
        missing = torch.where(predicted > 0, missing, missing.clamp(min=0))
        possible = predicted.clamp(min=0) + NEGLIGIBLE_GAIN
        damping = self.damping * (1 + (self.late - 1) / (1 + sigma_ve.float() ** 2))
        damping = torch.where(missing < 0, self.rising, damping)
        alpha = 1 / (1 + damping * missing / possible).clamp(min=1 / MOST_ALPHA)
        if measured.opposite is not None:
            rise = (measured.actual - measured.opposite).float().nan_to_num(nan=0.0) / 2
            alpha = torch.minimum(alpha, ((rise + NEGLIGIBLE_GAIN) / possible).clamp(0, MOST_ALPHA))
        return torch.where(predicted > -NEGLIGIBLE_GAIN, alpha, 0.0)

    def bound(self, sigma_ve: PerSample) -> PerSample:
        """[B], 1: reached wherever log w is a line."""
        return torch.ones_like(sigma_ve, dtype=torch.float32)


MOST_ALPHA = 2.0  # no value of log w is known further out
# Gains below this are lost in the rounding of a weight in half precision, and too small to matter.
NEGLIGIBLE_GAIN = 0.05  # nats


def influence(schedule: Schedule, sigma_ve: PerSample) -> PerSample:
    """What is still undecided at a noise level, times the schedule's bound there: 0..1.

    sigma^2 / (1 + sigma^2) is the posterior variance of a coefficient of unit variance. Nothing
    falls off at high noise: brightness and colour of a whole image have far more than unit
    variance and are decided there. A measure for skipping work, not part of the guidance.

    Args:
        schedule: its ``bound`` stands for alpha.
        sigma_ve: [B].
    """
    s2 = sigma_ve.float() ** 2
    return schedule.bound(sigma_ve) * s2 / (1 + s2)


def greatest_influence(schedule: Schedule) -> float:
    """The greatest ``influence`` that a schedule has at any noise level."""
    return float(influence(schedule, torch.logspace(-3, 3, 601)).max())


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}; expected a finite number above 0. Try the default.")
