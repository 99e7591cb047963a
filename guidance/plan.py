"""What a method will do over a run, before anything is sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .methods.base import Method, StartCost
from .schedules import Measured, Schedule
from .shapes import Levels, PerSample, PerStep
from .ve import NoiseScaling, ve_view

# A backward pass in forwards: the blocks again while autograd goes back through them, and the
# gradients of the inputs, which are as many products as a forward. The step's own evaluation is the
# one that is gone back through.
BACKWARD = 2.0
LEAST_ALPHA = 0.01  # a hundredth of the full shift is not seen


@dataclass(frozen=True)
class Plan:
    """One entry per noise level of a run, the final 0 left out; all are [N].

    Attributes:
        sigma: the sampler's own noise level.
        sigma_ve: variance-exploding noise level.
        alpha: factor of the guidance, 0..1, where log w is a line; 0 where the step stays plain.
        unskipped_alpha: alpha as if no step were skipped.
        active: whether the step is guided.
        model_calls: forwards of the denoiser, at one evaluation per step.
        second_calls: of these, second evaluations.
        model_backwards: backward passes through the denoiser.
        start_calls: forwards before the first step, over the run.
        start_second_calls: of these, second evaluations.
        weight_calls: gradients of the weight, over the run.
        value_calls: values of the weight without a gradient, over the run.
        second_share: of a second evaluation in plain ones.
        branches: of the model in one evaluation.
        gradient_cost: of a gradient of the weight through its decoder, likewise; 0 is not known.
        value_cost: of a value of it, likewise.
    """

    sigma: PerStep
    sigma_ve: PerStep
    alpha: PerStep
    unskipped_alpha: PerStep
    active: Tensor
    model_calls: Tensor
    second_calls: Tensor
    model_backwards: Tensor
    start_calls: int
    start_second_calls: int
    weight_calls: int
    value_calls: int
    second_share: float
    branches: int = 2
    gradient_cost: float = 0.0
    value_cost: float = 0.0

    @property
    def total_calls(self) -> int:
        """Forwards of the denoiser over the run."""
        return int(self.model_calls.sum()) + self.start_calls

    @property
    def total_second_calls(self) -> int:
        """Second evaluations over the run, among ``total_calls``."""
        return int(self.second_calls.sum()) + self.start_second_calls

    @property
    def total_backwards(self) -> int:
        """Backward passes through the denoiser over the run."""
        return int(self.model_backwards.sum())

    @property
    def is_idle(self) -> bool:
        """Whether next to nothing of the weight arrives: alpha is tiny wherever it acts."""
        return not self.start_calls and float(self.alpha.max()) < LEAST_ALPHA

    @property
    def model_cost(self) -> float:
        """Arithmetic of the model over that of plain sampling."""
        second = self.total_second_calls
        forwards = self.total_calls - second + self.second_share * second
        return (forwards + BACKWARD * self.total_backwards) / len(self.sigma)

    @property
    def weight_cost(self) -> float:
        """That of the weight and its decoder, as far as it is known."""
        calls = self.weight_calls * self.gradient_cost + self.value_calls * self.value_cost
        return calls / len(self.sigma)

    @property
    def relative_cost(self) -> float:
        """All that is known of a run, over plain sampling."""
        return self.model_cost + self.weight_cost

    @property
    def is_priced(self) -> bool:
        """Whether nothing comes on top of that."""
        return self.gradient_cost > 0 or not (self.weight_calls or self.value_calls)


def plan(
    method: Method,
    sigmas: Levels,
    noise_scaling: NoiseScaling,
    score_std: float = 3.0,
    branches: int = 2,
    adds_noise: bool = True,
) -> Plan:
    """What a method does at each noise level, by the same rules as in a run.

    Args:
        method: guidance, bound to the run where it needs that.
        sigmas: the noise levels that the sampler's steps start at, falling; a 0 is left out.
        noise_scaling: the model's forward process.
        score_std: standard deviation of log w over what the model draws, from which a schedule that
            measures what it goes by has to guess it beforehand.
        branches: of the model under classifier-free guidance, 2; 1 at cfg 1.
        adds_noise: whether the run draws its initial noise; else it goes on with another's.

    Raises:
        ValueError: no noise level above 0, or one that is not finite.
    """
    if not bool(torch.isfinite(sigmas).all()):
        raise ValueError(f"A noise level is not finite: {sigmas.tolist()}.")
    sigma = sigmas[sigmas > 0].float().cpu()
    if not len(sigma):
        raise ValueError("There is no noise level above 0: the list of sigmas is empty.")
    views = [ve_view(noise_scaling, level[None]) for level in sigma]
    sigma_ve = torch.cat([view.sigma_ve for view in views])
    usable = torch.tensor([view.is_usable for view in views])
    method = method.in_steps(len(sigma), branches)
    cost = method.cost(sigma_ve)
    start = method.start_cost(sigma_ve[:1]) if adds_noise and bool(usable[0]) else StartCost()
    active, repeats = cost.active & usable, method.repeats(sigma_ve)
    evaluated = active & method.measures(sigma_ve, start.weight_calls > 0)
    second, guided = (cost.second & evaluated).int() * repeats, int((evaluated * repeats).sum())
    alpha = method.alpha(sigma_ve, expected(sigma_ve, score_std))
    gradients = math.ceil(cost.gradients * guided / method.reuse)
    anew = guided - gradients if method.compares_values else 0
    last = torch.where(evaluated, torch.arange(len(sigma)), 0).cummax(dim=0).values
    return Plan(
        sigma=sigma,
        sigma_ve=sigma_ve,
        alpha=alpha[last] * active,
        unskipped_alpha=alpha,
        active=active,
        model_calls=repeats + second,
        second_calls=second,
        model_backwards=cost.backwards * evaluated.int() * repeats,
        start_calls=start.model_calls,
        start_second_calls=start.second_calls,
        weight_calls=gradients + start.weight_calls,
        value_calls=cost.values * guided + anew + start.value_calls,
        second_share=1.0 if branches == 1 else cost.second_share,
        branches=branches,
    )


HEADROOM = 2.0  # standard deviations that a score is taken to rise at most


def expected(sigma_ve: PerSample, score_std: float) -> Measured:
    """What a run would measure of a log w that levels off.

    Its predicted gain is the posterior variance of a linear log w for data of unit variance,
    score_std^2 sigma^2 / (1 + sigma^2); what comes of it approaches ``HEADROOM`` deviations.
    """
    s2 = sigma_ve.float() ** 2
    predicted = score_std**2 * s2 / (1 + s2)
    most = max(HEADROOM * score_std, 1e-6)
    return Measured(predicted, -most * torch.expm1(-predicted / most))


def compared(
    schedules: dict[str, Schedule], sigma_ve: PerStep, score_std: float = 3.0
) -> dict[str, PerStep]:
    """alpha of several schedules at the same noise levels, [N] each, nothing skipped."""
    measured = expected(sigma_ve, score_std)
    return {name: schedule.alpha(sigma_ve, measured) for name, schedule in schedules.items()}
