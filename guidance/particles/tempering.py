"""How fast the weight is switched on: lambda from its first value to 1 along a run.

Step k of K weighs particles with lambda_k log w of their denoised samples. Whatever lambda does,
the last weight is log w itself, so the target is w p; a good lambda spreads the weighing over the
run. ``now`` is lambda at a step, ``drift_temperature`` the one that the step's drift works towards;
both [G], one per group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from ..shapes import PerGroup

BISECTIONS = 40


@runtime_checkable
class Tempering(Protocol):
    """lambda at a step, and of its drift.

    ``last`` [G] is lambda at the evaluation before. ``ess`` maps lambda [G] to the ESS [G]
    that the weights would have with it.
    """

    def now(
        self, step: int, steps: int, last: PerGroup, ess: Callable[[PerGroup], PerGroup]
    ) -> PerGroup: ...

    def drift_temperature(self, step: int, steps: int, now: PerGroup) -> PerGroup: ...


class _Fixed:
    """lambda as a function of the share of the run that is done."""

    def curve(self, done: float) -> float:
        raise NotImplementedError

    def now(
        self, step: int, steps: int, last: PerGroup, ess: Callable[[PerGroup], PerGroup]
    ) -> PerGroup:
        """The curve here."""
        return torch.full_like(last, self.curve(step / steps))

    def drift_temperature(self, step: int, steps: int, now: PerGroup) -> PerGroup:
        """The curve one step on: the drift leads to where that lambda will weigh (as DAS does)."""
        return torch.full_like(now, self.curve((step + 1) / steps))


@dataclass(frozen=True)
class NoTempering(_Fixed):
    """lambda = 1 from the start: TDS and FK-steering."""

    def curve(self, done: float) -> float:
        """1."""
        return 1.0


@dataclass(frozen=True)
class Polynomial(_Fixed):
    """lambda = (k / K)^power; power 1 is linear (SURGE).

    Attributes:
        power: > 0; above 1 is slower at first.
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ValueError(f"tempering power is {self.power}; expected above 0. 1 is linear.")

    def curve(self, done: float) -> float:
        """0 at the start, 1 at the end."""
        return float(done**self.power)


@dataclass(frozen=True)
class Exponential(_Fixed):
    """lambda = min((1 + gamma)^k - 1, 1), as DAS has it, for any number of steps.

    Attributes:
        full_at: share of the run at which lambda is 1. Published: gamma 0.008 in 100 steps, which
            is 0.87, and 0.1 in 8 steps, which is 0.91.
    """

    full_at: float = 0.87

    def __post_init__(self) -> None:
        if not 0 < self.full_at <= 1:
            raise ValueError(f"tempering full_at is {self.full_at}; expected above 0, at most 1.")

    def curve(self, done: float) -> float:
        """0 at the start, 1 from ``full_at`` on."""
        return float(min(2 ** (done / self.full_at) - 1, 1.0))


@dataclass(frozen=True)
class Adaptive:
    """The largest lambda that keeps a share of the ESS, found by bisection.

    Each group has its own. What the particles say then decides lambda: exact as their number
    grows, not for a few. The jump from the last lambda to 1 is whatever is left.

    Attributes:
        keep: share of the ESS that one evaluation may leave, between 0 and 1.
    """

    keep: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise ValueError(f"tempering keep is {self.keep}; expected between 0 and 1. Try 0.9.")

    def now(
        self, step: int, steps: int, last: PerGroup, ess: Callable[[PerGroup], PerGroup]
    ) -> PerGroup:
        """Between the last lambda and 1."""
        target = self.keep * ess(last)
        low, high = last, torch.ones_like(last)
        whole = ess(high) >= target
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            kept = ess(middle) >= target
            low, high = torch.where(kept, middle, low), torch.where(kept, high, middle)
        return torch.where(whole, 1.0, low)

    def drift_temperature(self, step: int, steps: int, now: PerGroup) -> PerGroup:
        """The present one: the next is not known yet."""
        return now


TEMPERING: dict[str, Tempering] = {
    "none": NoTempering(),
    "linear": Polynomial(),
    "quadratic": Polynomial(2.0),
    "exponential": Exponential(),
    "adaptive": Adaptive(),
}
