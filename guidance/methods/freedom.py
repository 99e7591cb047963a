"""FreeDoM: steps along the gradient of log w, of a size set by the sampler, with time travel.

Source: Yu et al., "FreeDoM: Training-Free Energy-Guided Conditional Diffusion Model", ICCV 2023,
arXiv 2303.09833, with the energy -log w.

    for each noise level sigma and the next, lower:
        repeat 1 or 3 times:
            x' = an ancestral step from x towards D(x), plus rho grad_x log w(D(x))
            x = x' + sqrt(sigma^2 - lower^2) noise       (back up, if there is another repeat)
        x = x'
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..ancestral import ancestral_keep, euler_ancestral
from ..contracts import CorrectedDenoiser, Denoiser, LogWeight
from ..finite_difference import rms
from ..schedules import Measured
from ..shapes import Latents, Levels, PerSample
from ..ve import chosen, per_sample
from .base import (
    Cost,
    Guided,
    Method,
    Run,
    Step,
    check_not_negative,
    cost_everywhere,
    finish,
    predicted_gain,
    times_sigma2,
)
from .dps import gradient_through

# Of the published settings: style transfer with classifier-free guidance, 100 steps, of which those
# from index 70 down to 30 are guided (100 is pure noise), and those above 40 done three times.
FIRST, LAST, TRAVEL_UNTIL, REPEATS = 0.7, 0.3, 0.4, 3
STEP = 0.2  # share of the correction by classifier-free guidance
PLAIN_STEP = 0.02  # share of x - D, where there is no such correction (text prompts for faces)

Drawn = Callable[[Latents], Latents]  # like its argument, unit noise
Look = Callable[[int, Latents, Tensor, Latents], None]  # (step, x, sigma, denoised)


@dataclass(frozen=True)
class Window:
    """Which steps of a run are guided, and which repeated, as shares of the run.

    A step's share is how many steps are left, itself not counted, of all: (K - 1) / K at the first,
    0 at the last. A step is guided where last <= share < first.

    Attributes:
        first: 1 guides from the first step on.
        last: 0 guides to the last step.
        travel_until: guided steps at or above this share are repeated.
        repeats: how often they are done in all; 1 is no time travel.
    """

    first: float = FIRST
    last: float = LAST
    travel_until: float = TRAVEL_UNTIL
    repeats: int = REPEATS

    def __post_init__(self) -> None:
        for name in ("first", "last", "travel_until"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; expected 0 to 1, a share of the run.")
        if self.last > self.first:
            raise ValueError(
                f"The window goes from {self.first} to {self.last}; it falls with the noise, so "
                "the first share has to be the larger."
            )
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats}; expected 1 or more.")

    def guided(self, steps: int) -> list[bool]:
        """For each step of a run, whether it is guided."""
        # In whole steps, and rounded up, so that 70 of 100 is 70 whatever 0.7 * 100 is.
        first, last = _index(self.first, steps), _index(self.last, steps)
        return [last <= left < first for left in reversed(range(steps))]

    def rounds(self, steps: int) -> list[int]:
        """For each step of a run, how often it is done."""
        until = _index(self.travel_until, steps)
        left = reversed(range(steps))
        return [
            self.repeats if guided and index >= until else 1
            for guided, index in zip(self.guided(steps), left, strict=True)
        ]


def _index(share: float, steps: int) -> int:
    return math.ceil(share * steps - 1e-9)


@dataclass(frozen=True)
class FreeDoM(Method):
    """The guided part of a step, as a shift of the denoised sample along grad_x log w(D(x)).

    The gradient's own length is divided out, per sample: a strength of the weight has no effect but
    for its sign. The length of the step comes from the sampler:

    - With two branches, x' moves by step * RMS(cfg (eps_c - eps_u)) in units of the variance-
      preserving process, so by sqrt(1 + lower^2) times that in ours.
    - With one branch, D moves by plain_step * RMS(x - D): the paper's rule for models without
      classifier-free guidance.

    Attributes:
        step: as above.
        plain_step: as above.
        window: which steps.
        sigmas: of the run, variance-exploding, falling; the last may be 0. ``bind`` fills them in.
    """

    step: float = STEP
    plain_step: float = PLAIN_STEP
    window: Window = Window()
    sigmas: Levels | None = None
    name = "FreeDoM"
    through_model = compares = own_sampler = True

    def __post_init__(self) -> None:
        check_not_negative(self, "step", "plain_step")

    def bind(self, run: Run) -> FreeDoM:
        """With the noise levels of the run, on the CPU."""
        return replace(self, sigmas=run.sigmas.cpu())

    @property
    def levels(self) -> Levels:
        """The run's noise levels.

        Raises:
            ValueError: there is no run yet.
        """
        if self.sigmas is None:
            raise ValueError(
                "FreeDoM was not bound to a run: its steps depend on the noise levels."
            )
        return self.sigmas

    @property
    def rounds(self) -> list[int]:
        """For each step of the run, how often it is done."""
        return self.window.rounds(len(self.levels) - 1)

    def is_active(self, sigma_ve: PerSample) -> Tensor:
        """Whether the steps that start at these noise levels are in the window: [B] booleans."""
        if self.step == 0 and self.plain_step == 0:
            return torch.zeros_like(sigma_ve, dtype=torch.bool)
        guided = torch.tensor(self.window.guided(len(self.levels) - 1))
        return guided[self._nearest(sigma_ve)]

    def cost(self, sigma_ve: PerSample) -> Cost:
        """One pass back through the denoiser and one gradient, in the steps of the window."""
        return replace(cost_everywhere(sigma_ve, 1, 1), active=self.is_active(sigma_ve))

    def repeats(self, sigma_ve: PerSample) -> Tensor:
        """The rounds of the steps that start there."""
        return torch.tensor(self.rounds, dtype=torch.int)[self._nearest(sigma_ve)]

    def guide(
        self, denoiser: Denoiser, log_weight: LogWeight, x: Latents, sigma_ve: PerSample, step: Step
    ) -> Guided:
        """One evaluation; a ``CorrectedDenoiser`` sets the step as published."""
        denoised, log_w, v, gradient = gradient_through(denoiser, log_weight, x, sigma_ve, step)
        active, levels = step.cost.active, step.on_cpu(sigma_ve)
        length = self._length(denoiser, x, denoised, levels, step.keep, active)
        size = rms(gradient)
        shift = per_sample(torch.where(size > 0, length / size.clamp(min=1e-30), 0.0), x) * gradient
        shift = chosen(active, shift, torch.zeros_like(shift))
        gain = Measured(predicted_gain(v, times_sigma2(sigma_ve, gradient)))
        return finish(denoised, shift, sigma_ve, step, log_w, gain)

    def _nearest(self, sigma_ve: PerSample) -> Tensor:
        """Number of the step that starts nearest to each of these noise levels."""
        starts = self.levels[:-1].double()
        # One at a time: a plan of 10,000 steps would otherwise hold 10,000^2 distances.
        nearest = [(starts - sigma).abs().argmin() for sigma in sigma_ve.double()]
        return torch.stack(nearest)

    def _length(
        self,
        denoiser: Denoiser,
        x: Latents,
        denoised: Latents,
        levels: PerSample,
        keep: float,
        active: Tensor,
    ) -> PerSample:
        """RMS of the shift of the denoised sample, [B]; levels and active are on the CPU."""
        correction = denoiser.correction() if isinstance(denoiser, CorrectedDenoiser) else None
        if correction is None:
            return self.plain_step * rms(x.float() - denoised.float())
        sizes = [
            self._step_size(level, keep) if guided else 0.0
            for level, guided in zip(levels.tolist(), active.tolist(), strict=True)
        ]
        return rms(correction) * torch.tensor(sizes).to(correction.device)

    def _step_size(self, level: float, keep: float) -> float:
        """By what the RMS of cfg (D_c - D_u) is multiplied at one noise level."""
        kept = keep if keep < 1 else ancestral_keep(self.levels, level)
        if kept >= 1:
            raise ValueError(
                f"Noise level {level:.4g} is not one of FreeDoM's run, so the length of its step "
                "is not known: sample with FreeDoM's own sampler."
            )
        lower = level * math.sqrt(kept)
        # eps_c - eps_u = (D_u - D_c) / sigma; a shift of D moves x' by 1 - keep of it.
        return self.step / level * math.sqrt(1 + lower**2) / (1 - kept)


@torch.no_grad()
def time_travel(
    denoiser: Denoiser,
    x: Latents,
    sigmas: Levels,
    rounds: list[int],
    noise: Drawn,
    look: Look | None = None,
) -> Latents:
    """Ancestral sampling that goes back up and down again; with rounds of 1, ancestral sampling.

    Args:
        denoiser: D, guided where it is to be.
        x: [B, ...] at noise level ``sigmas[0]``, variance-exploding.
        sigmas: [K + 1] falling, the last may be 0.
        rounds: for each step, how often it is done.
        noise: unit noise like its argument, fresh at each call.
        look: called after each evaluation.

    Returns:
        [B, ...] at noise level ``sigmas[-1]``.

    Raises:
        ValueError: not one number of rounds per step.
    """
    if len(rounds) != len(sigmas) - 1:
        raise ValueError(f"{len(rounds)} numbers of rounds for {len(sigmas) - 1} steps.")
    ones = x.new_ones(x.shape[0])
    for step, repeats in enumerate(rounds):
        sigma, lower = sigmas[step], sigmas[step + 1]
        for repeat in range(repeats):
            denoised = denoiser(x, sigma * ones)
            if look is not None:
                look(step, x, sigma, denoised)
            below = euler_ancestral(x, denoised, sigma, lower, noise)
            if repeat < repeats - 1:
                x = below + noise(x) * (sigma**2 - lower**2) ** 0.5
        x = below
    return x
