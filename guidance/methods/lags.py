"""LAGS: sampling from w(x) p(x) with one gradient of log w and one more forward pass per step.

Source: Kim, Lee, Kim, de Veciana, "Efficient Weighted Sampling via Score-based Generative Models",
CVPR 2026, arXiv 2502.04646. Here is what its modes share: settings, cost, and what a schedule
measures. The algorithm itself stands in ``paper``; ``balanced`` and ``fast`` are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..contracts import ConditionalDenoiser, Denoiser, LogWeight, check_finite_model, checked_value
from ..finite_difference import DifferenceStep, jacobian_vector_product, rms
from ..schedules import (
    Measured,
    Schedule,
    UncertaintySchedule,
    greatest_influence,
    influence,
)
from ..shapes import Latents, PerSample
from ..ve import chosen, per_sample
from .base import Cost, Method, Step, predicted_gain


@dataclass(frozen=True)
class LAGS(Method):
    """What can be set in every mode.

    Attributes:
        schedule: alpha.
        difference: how far apart the two forwards are.
        shift_limit: greatest RMS of the shift relative to the denoised sample's, per sample; None
            for no limit.
        skip_below: share of the greatest influence under which a step stays plain; 0 never skips.
        conditional: whether the second evaluation takes the conditional branch alone where there
            are two, which is half its cost.
        reuse: evaluations that one gradient of log w serves.
    """

    schedule: Schedule = field(default_factory=UncertaintySchedule)
    difference: DifferenceStep = field(default_factory=DifferenceStep)
    shift_limit: float | None = None
    skip_below: float = 0.0
    conditional: bool = False
    reuse: int = 1
    compares = True

    def __post_init__(self) -> None:
        if self.reuse < 1:
            raise ValueError(f"reuse is {self.reuse}; expected 1 or more evaluations.")
        if self.shift_limit is not None and not self.shift_limit > 0:
            raise ValueError(f"shift limit is {self.shift_limit}; expected above 0, or None.")
        if not 0 <= self.skip_below < 1:
            raise ValueError(f"skip threshold is {self.skip_below}; expected 0 to below 1.")
        if self.schedule.needs_shift and not self.compares:
            raise ValueError(
                "This schedule measures <v, J v>, so it needs the Jacobian (the second forward). "
                "Choose a fixed schedule for guidance without it."
            )

    @property
    def compares_values(self) -> bool:  # type: ignore[override]
        """Whether the schedule goes by what really comes of a shift."""
        return self.schedule.needs_gain

    def is_active(self, sigma_ve: PerSample) -> Tensor:
        """Which of these noise levels are guided at all: [B] booleans."""
        return influence(self.schedule, sigma_ve) >= self._least_influence

    @cached_property
    def _least_influence(self) -> float:
        """Under which nothing is evaluated."""
        return self.skip_below * greatest_influence(self.schedule)

    def cost(self, sigma_ve: PerSample) -> Cost:
        """A gradient, a second evaluation where it can be told from rounding, a value of log w."""
        active = self.is_active(sigma_ve)
        second = active & self.compares & ~self.difference.is_below_rounding(sigma_ve)
        return Cost(
            active,
            second,
            gradients=1,
            values=int(self.compares_values),
            second_share=0.5 if self.conditional else 1.0,
        )

    def alpha(self, sigma_ve: PerSample, expected: Measured) -> PerSample:
        """The schedule's."""
        return self.schedule.alpha(sigma_ve, expected)

    def jacobian_product(
        self, denoiser: Denoiser, x: Latents, sigma_ve: PerSample, v: Latents, step: Step
    ) -> Latents:
        """J v = [D(x + h v) - D(x)] / h (eq. 13), float32; v itself without a second evaluation.

        J v stands for J^T v; J is symmetric for an exact score.
        """
        if not step.cost.takes_second:
            return v.float()
        denoised = step.denoise(denoiser, x, sigma_ve)
        if self.conditional and isinstance(denoiser, ConditionalDenoiser):
            denoiser = denoiser.conditional
        h = self.difference.size(v, sigma_ve)
        jv = jacobian_vector_product(denoiser, x, sigma_ve, denoised, v, h)
        jv = chosen(step.cost.second, jv, v.float())
        check_finite_model(jv, sigma_ve)
        return jv

    def measure(
        self,
        log_weight: LogWeight,
        denoised: Latents,
        log_w: PerSample,
        v: Latents,
        full_shift: Latents,
        sigma_ve: PerSample,
        both_sides: bool = False,
    ) -> Measured:
        """What the schedule goes by: the gain that v predicts for the full shift, and its own."""
        predicted = predicted_gain(v, full_shift)
        if not self.compares_values:
            return Measured(predicted)

        def gain(moved: Latents) -> PerSample:
            return checked_value(log_weight, moved, sigma_ve) - log_w

        plain = denoised.float()
        opposite = gain(plain - full_shift) if both_sides else None
        return Measured(predicted, gain(plain + full_shift), opposite)

    def limited(self, shift: Latents, denoised: Latents) -> Latents:
        """The shift, scaled down per sample to the limit where there is one."""
        if self.shift_limit is None:
            return shift
        size, limit = rms(shift), self.shift_limit * rms(denoised)
        scale = torch.where(size > limit, limit / size.clamp(min=1e-30), 1.0)
        return per_sample(scale, shift) * shift
