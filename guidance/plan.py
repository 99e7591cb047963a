"""What a method will do over a run, before anything is sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .methods.lags import LAGS
from .schedules import Measured, Schedule
from .shapes import Levels, PerSample, PerStep
from .ve import NoiseScaling, ve_view


@dataclass(frozen=True)
class Plan:
    """One entry per noise level of a run, the final 0 left out; all are [N].

    Attributes:
        sigma: the sampler's own noise level.
        sigma_ve: variance-exploding noise level.
        alpha: trust in the guidance, 0..1; 0 where the step stays plain.
        trust: alpha as if no step were skipped.
        active: whether the step is guided.
        model_calls: forwards of the denoiser, at one evaluation per step.
        start_calls: forwards that tilt the first noise.
        weight_calls: gradients of the weight, over the run.
        value_calls: values of the weight without a gradient, over the run.
        second_cost: of a second forward, in plain evaluations.
    """

    sigma: PerStep
    sigma_ve: PerStep
    alpha: PerStep
    trust: PerStep
    active: Tensor
    model_calls: Tensor
    start_calls: int
    weight_calls: int
    value_calls: int
    second_cost: float

    @property
    def shift_factor(self) -> PerStep:
        """sigma_ve^2 alpha: what J v is multiplied by."""
        return self.sigma_ve**2 * self.alpha

    @property
    def total_calls(self) -> int:
        """Forwards of the denoiser over the run."""
        return int(self.model_calls.sum()) + self.start_calls

    @property
    def second_calls(self) -> int:
        """Second forwards over the run, among ``total_calls``."""
        return self.total_calls - len(self.sigma) - self.start_calls // 2

    @property
    def relative_cost(self) -> float:
        """Arithmetic of the model over that of plain sampling; the weight comes on top."""
        first = self.total_calls - self.second_calls
        return (first + self.second_cost * self.second_calls) / len(self.sigma)


def plan(
    method: LAGS,
    sigmas: Levels,
    noise_scaling: NoiseScaling,
    deviation: float = 3.0,
    branches: int = 2,
) -> Plan:
    """What a method does at each noise level, by the same rules as in a run.

    Args:
        method: guidance.
        sigmas: the sampler's noise levels, falling, usually down to 0.
        noise_scaling: the model's forward process.
        deviation: standard deviation of log w over what the model draws, in nats, from which a
            schedule that measures what it goes by has to guess it beforehand.
        branches: of the model under classifier-free guidance, 2; 1 at cfg 1.

    Raises:
        ValueError: no noise level above 0, or one that is not finite.
    """
    if not bool(torch.isfinite(sigmas).all()):
        raise ValueError(f"A noise level is not finite: {sigmas.tolist()}.")
    sigma = sigmas[sigmas > 0].float()
    if not len(sigma):
        raise ValueError("There is no noise level above 0: the list of sigmas is empty.")
    views = [ve_view(noise_scaling, level[None]) for level in sigma]
    sigma_ve = torch.cat([view.sigma_ve for view in views])
    usable = torch.tensor([view.is_usable for view in views])
    trust = method.schedule.alpha(sigma_ve, expected(sigma_ve, deviation))
    active = method.is_active(sigma_ve) & usable
    second = active & ~method.step.is_drowned(sigma_ve) & method.jacobian
    tilts = method.tilt_start and bool(active[0])
    return Plan(
        sigma=sigma,
        sigma_ve=sigma_ve,
        alpha=trust * active,
        trust=trust,
        active=active,
        model_calls=1 + second.int(),
        start_calls=2 if tilts else 0,
        weight_calls=math.ceil(int(active.sum()) / method.reuse) + tilts,
        value_calls=(int(active.sum()) + 2 * tilts) if method.schedule.needs_gain else 0,
        second_cost=1 / branches if method.conditional else 1.0,
    )


HEADROOM = 2.0  # standard deviations that a score is taken to rise at most


def expected(sigma_ve: PerSample, deviation: float) -> Measured:
    """What a run would measure of a log w that levels off.

    Its promised gain is the posterior variance of a linear log w for data of unit variance,
    deviation^2 sigma^2 / (1 + sigma^2); what comes of it approaches ``HEADROOM`` deviations.
    """
    s2 = sigma_ve.float() ** 2
    promised = deviation**2 * s2 / (1 + s2)
    most = max(HEADROOM * deviation, 1e-6)
    return Measured(promised, -most * torch.expm1(-promised / most))


def compared(
    schedules: dict[str, Schedule], sigma_ve: PerStep, deviation: float = 3.0
) -> dict[str, PerStep]:
    """alpha of several schedules at the same noise levels, [N] each, nothing skipped."""
    measured = expected(sigma_ve, deviation)
    return {name: schedule.alpha(sigma_ve, measured) for name, schedule in schedules.items()}
