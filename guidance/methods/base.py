"""The interface of every method: one call per evaluation of the sampler, a record, its cost."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..contracts import Denoiser, LogWeight
from ..finite import read_together
from ..finite_difference import rms
from ..schedules import Measured
from ..shapes import Latents, Levels, PerSample
from ..step_correction import RunState
from ..trace import StepRecord
from ..ve import per_sample
from .lookahead import Lookahead


@runtime_checkable
class Run(Protocol):
    """What a method may ask for once, when a run begins.

    Attributes:
        sigmas: [K + 1] the sampler's noise levels, falling, the last usually 0.
    """

    @property
    def sigmas(self) -> Levels: ...

    def look_ahead(self, count: int, steps: int, seed: int) -> Lookahead:
        """Plain samples in few steps, weighed."""
        ...


@dataclass
class Step:
    """Where in a run an evaluation is, and D(x) there.

    Attributes:
        keep: what the sampler's step keeps of x - D; 1 where the sampler is not known.
        draws_noise: whether that step draws noise.
        state: what the run remembers from earlier evaluations.
        own: the sampler's own evaluation of D(x), made when it is first needed; None asks the
            denoiser.
        denoised: D(x), once it is known.
        is_start: whether the run's initial noise is drawn: then it is x that is moved, not D(x).
        is_watched: whether the sampler looks into its own evaluation, so that it has to be made.
        levels: [B] sigma_ve on the CPU, where what follows from it alone is decided; None copies it
            when it is first needed, for which the device is waited for.
        cost: of the evaluation, which the method notes.
    """

    keep: float = 1.0
    draws_noise: bool = True
    own: Callable[[], Latents] | None = None
    denoised: Latents | None = None
    is_start: bool = False
    is_watched: bool = False
    levels: PerSample | None = None
    cost: Cost = field(init=False)
    state: RunState = field(default_factory=RunState)
    began: float = field(default_factory=time.perf_counter)

    def denoise(self, denoiser: Denoiser, x: Latents, sigma_ve: PerSample) -> Latents:
        """D(x) at this step's own x, evaluated once however often it is asked for."""
        if self.denoised is None:
            self.denoised = denoiser(x, sigma_ve) if self.own is None else self.own()
        return self.denoised

    def on_cpu(self, sigma_ve: PerSample) -> PerSample:
        """The noise levels of this evaluation on the CPU, [B]."""
        if self.levels is None:
            self.levels = sigma_ve.cpu()
        return self.levels

    @property
    def seconds(self) -> float:
        """Wall clock since the step began."""
        return time.perf_counter() - self.began


@dataclass(frozen=True)
class Cost:
    """What evaluations take at some noise levels.

    Attributes:
        active: [N] whether they are guided, on the CPU.
        second: [N] whether they take a second evaluation of the denoiser, likewise.
        backwards: backward passes through the denoiser, in each guided one.
        gradients: of the weight, likewise.
        values: of the weight without a gradient, likewise.
        second_share: of a second evaluation in plain ones; 0.5 where one of two branches does.
    """

    active: Tensor
    second: Tensor
    backwards: int = 0
    gradients: int = 0
    values: int = 0
    second_share: float = 1.0

    @cached_property
    def _any(self) -> tuple[bool, bool]:
        guided, second = torch.stack([self.active.any(), self.second.any()]).tolist()
        return guided, second

    @property
    def is_guided(self) -> bool:
        """Whether any of them is."""
        return self._any[0]

    @property
    def takes_second(self) -> bool:
        """Whether any of them takes a second evaluation."""
        return self._any[1]


@dataclass(frozen=True)
class StartCost:
    """What a method takes before the first step: calls of each kind for one batch."""

    model_calls: int = 0
    second_calls: int = 0  # of these, second evaluations
    weight_calls: int = 0
    value_calls: int = 0


Guided = tuple[Latents, StepRecord]  # the denoised sample that the sampler gets; what was done


class Method(ABC):
    """A shift of the denoised sample, at one noise level; ``guide`` is the method itself.

    Class attributes:
        name: for labels and errors.
        needs_gradient: whether it asks for the gradient of the weight.
        through_model: whether it goes backward through the denoiser: then that is a
            ``DifferentiableDenoiser``.
        compares: whether it compares evaluations of the denoiser, which no cache may answer then.
        own_sampler: whether it samples by itself, on an ancestral chain.
        tilts_start: whether it also draws the run's initial noise from w p.
        reuse: evaluations that one gradient of log w serves; who runs the sampler wraps the weight
            in a ``CachedGradient``.
        compares_values: whether it compares log w with values of it elsewhere; then that is no
            extrapolation where a gradient is reused.
        distilled: [B] whether the model was found to give finished images; None where nobody asked.
    """

    name: str
    needs_gradient: bool = True
    through_model: bool = False
    compares: bool = False
    own_sampler: bool = False
    tilts_start: bool = False
    reuse: int = 1
    compares_values: bool = False
    distilled: Tensor | None = None

    def __call__(
        self,
        denoiser: Denoiser,
        log_weight: LogWeight,
        x: Latents,
        sigma_ve: PerSample,
        step: Step | None = None,
    ) -> Guided:
        """The denoised sample at one noise level, guided where ``cost`` says so.

        Args:
            denoiser: D, the model with everything that the user combined into it.
            log_weight: log w on denoised samples.
            x: [B, ...] noisy sample, variance-exploding.
            sigma_ve: [B].
            step: where in the run this is; None for an evaluation on its own.

        Returns:
            denoised [B, ...] in the dtype of D's output, and what was done.

        Raises:
            WeightError: the weight broke its contract at this noise level.
            ModelError: the model's own output is not finite.
        """
        step = step or Step()
        step.cost = self.cost(step.on_cpu(sigma_ve))
        if not step.cost.is_guided:
            return self.skip(denoiser, x, sigma_ve, step)
        with read_together():
            guided, record = self.guide(denoiser, log_weight, x, sigma_ve, step)
        return guided, replace(record, seconds=step.seconds)

    def guide(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample, step: Step
    ) -> Guided:
        """The guided denoised sample; as above, at noise levels of which some are guided."""
        raise NotImplementedError

    def skip(self, denoiser: Denoiser, x: Latents, sigma_ve: PerSample, step: Step) -> Guided:
        """What is done where nothing is evaluated beside D(x): nothing."""
        denoised = step.denoise(denoiser, x, sigma_ve)
        return denoised, StepRecord.skipped(sigma_ve, step.seconds)

    def in_steps(self, steps: int, branches: int) -> Method:
        """The method for a run of so many steps, with so many branches of guidance."""
        return self

    def bind(self, run: Run) -> Method:
        """The method for one run, with what it needs to know of it."""
        return self

    def is_active(self, sigma_ve: PerSample) -> Tensor:
        """Which noise levels it guides, as in ``cost``: [N] booleans."""
        return torch.ones_like(sigma_ve, dtype=torch.bool)

    @abstractmethod
    def cost(self, sigma_ve: PerSample) -> Cost:
        """What an evaluation takes at each of these noise levels, [N] on the CPU."""

    def repeats(self, sigma_ve: PerSample) -> Tensor:
        """How often a step that starts at each of these noise levels is done, [N]."""
        return torch.ones_like(sigma_ve, dtype=torch.int)

    def measures(self, sigma_ve: PerSample, is_tilted: bool) -> Tensor:
        """In which of a run's guided steps anything is evaluated for it, [N]; others go on with it.

        Args:
            sigma_ve: [N] the run's noise levels, falling.
            is_tilted: whether the initial noise was drawn from w p.
        """
        return torch.ones_like(sigma_ve, dtype=torch.bool)

    def start_cost(self, sigma_ve: PerSample) -> StartCost:
        """What it takes before the first step, which starts at sigma_ve [1]."""
        return StartCost()

    def alpha(self, sigma_ve: PerSample, expected: Measured) -> PerSample:
        """The factor of its shift at noise levels [N], for what a run is expected to measure."""
        return torch.ones_like(sigma_ve, dtype=torch.float32)


def cost_everywhere(sigma_ve: PerSample, backwards: int = 0, gradients: int = 0) -> Cost:
    """Of evaluations that are guided at every noise level, without a second evaluation."""
    nowhere = torch.zeros_like(sigma_ve, dtype=torch.bool)
    return Cost(~nowhere, nowhere, backwards, gradients)


def plain_cost(sigma_ve: PerSample) -> Cost:
    """Of evaluations that are not guided."""
    nowhere = torch.zeros_like(sigma_ve, dtype=torch.bool)
    return Cost(nowhere, nowhere)


def check_not_negative(method: Method, *names: str) -> None:
    """Refuse attributes that are no finite numbers, or below 0.

    Raises:
        ValueError: one of them is; the message names it.
    """
    for name in names:
        value = getattr(method, name)
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value}; expected a finite number, 0 or more.")


def finish(
    denoised: Latents,
    shift: Latents,
    sigma_ve: PerSample,
    step: Step,
    log_w: PerSample | None,
    gain: Measured | None = None,
    alpha: PerSample | None = None,
    onto: Latents | None = None,
) -> Guided:
    """The shifted sample, and the record of how it came about.

    Args:
        denoised: D(x).
        shift: [B, ...] float32.
        sigma_ve: [B].
        step: of the run, its cost noted.
        log_w: [B] at D(x).
        gain: of log w over the full shift.
        alpha: [B] factor of the full shift; None is 1.
        onto: what the shift is added to; D(x) unless something else is given.
    """
    record = StepRecord(
        sigma_ve=sigma_ve,
        active=True,
        alpha=torch.ones_like(sigma_ve, dtype=torch.float32) if alpha is None else alpha,
        log_w=log_w,
        predicted_gain=None if gain is None else gain.predicted,
        shift_rms=rms(shift),
        denoised_rms=rms(denoised),
        model_calls=1 + step.cost.takes_second,
        weight_calls=step.cost.gradients,
        seconds=step.seconds,
        value_calls=step.cost.values,
        actual_gain=None if gain is None else gain.actual,
        model_backwards=step.cost.backwards,
    )
    shifted = denoised if onto is None else onto
    return (shifted.float() + shift).to(shifted.dtype), record


def predicted_gain(v: Latents, full_shift: Latents) -> PerSample:
    """<v, sigma^2 J v>, [B]: the gain in log w that its gradient v predicts for the full shift.

    It is also the posterior variance of the linearised log w, since the posterior's covariance is
    sigma^2 J.

    Args:
        v: [B, ...] gradient of log w at D(x).
        full_shift: [B, ...] sigma^2 J v.
    """
    gain = (v.float() * full_shift).flatten(1).sum(dim=1)
    # Beyond float32 the sum is inf - inf, not a number; the uncertainty is then without bound.
    return gain.nan_to_num(nan=torch.finfo(torch.float32).max)


def times_sigma2(sigma_ve: PerSample, values: Latents) -> Latents:
    """sigma^2 times [B, ...], float32: what turns a guidance of the score into a shift of D."""
    return per_sample(sigma_ve.float() ** 2, values) * values
