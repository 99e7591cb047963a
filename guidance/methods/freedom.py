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
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..contracts import Denoiser, LogWeight
from ..finite_difference import rms
from ..particles.drift import autograd_vjp
from ..shapes import Latents, Levels, PerSample
from ..step_correction import ancestral_keep
from ..trace import StepRecord
from ..ve import per_sample
from .dps import Differentiable, gradient_through, shifted

# Of the published settings: style transfer with classifier-free guidance, 100 steps, of which those
# from index 70 down to 30 are guided (100 is pure noise), and those above 40 done three times.
FIRST, LAST, TRAVEL_UNTIL, REPEATS = 0.7, 0.3, 0.4, 3
STEP = 0.2  # share of the correction by classifier-free guidance
PLAIN_STEP = 0.02  # share of x - D, where there is no such correction (text prompts for faces)

Drawn = Callable[[Latents], Latents]  # like its argument, unit noise
Look = Callable[[int, Latents, Tensor, Latents], None]  # (step, x, sigma, denoised)


@runtime_checkable
class CorrectedDenoiser(Protocol):
    """A denoiser that knows what classifier-free guidance did in its last call."""

    def __call__(self, x: Latents, sigma_ve: PerSample, /) -> Latents: ...

    def correction(self) -> Latents | None:
        """cfg (D_conditional - D_unconditional), [B, ...]; None where there is one branch."""
        ...


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
class FreeDoM:
    """The guided part of a step, as a shift of the denoised picture along grad_x log w(D(x)).

    The gradient's own length is divided out, per sample: a strength of the weight has no effect but
    for its sign. The length of the step comes from the sampler:

    - With two branches, x' moves by step * RMS(cfg (eps_c - eps_u)) in units of the variance-
      preserving process, so by sqrt(1 + lower^2) times that in ours.
    - With one branch, D moves by plain_step * RMS(x - D): the paper's rule for models without
      classifier-free guidance.

    Attributes:
        sigmas: of the run, variance-exploding, falling; the last may be 0.
        step: as above.
        plain_step: as above.
        window: which steps.
        vjp: makes a denoiser differentiable; by autograd unless something else is given.
    """

    sigmas: Levels
    step: float = STEP
    plain_step: float = PLAIN_STEP
    window: Window = Window()
    vjp: Differentiable = autograd_vjp

    def __post_init__(self) -> None:
        for name in ("step", "plain_step"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; expected a finite number, 0 or more.")

    @property
    def rounds(self) -> list[int]:
        """For each step of the run, how often it is done."""
        return self.window.rounds(len(self.sigmas) - 1)

    def __call__(
        self,
        denoiser: Denoiser,
        log_weight: LogWeight,
        x: Latents,
        sigma_ve: PerSample,
        keep: float | None = None,
    ) -> tuple[Latents, StepRecord]:
        """The guided denoised picture at one noise level.

        Args:
            denoiser: D, called once; a ``CorrectedDenoiser`` sets the step as published.
            log_weight: log w on denoised pictures.
            x: [B, ...] noisy sample, variance-exploding.
            sigma_ve: [B], one level of ``sigmas``.
            keep: what the ancestral step keeps of x - D; None finds it in ``sigmas``.

        Returns:
            denoised [B, ...] in the dtype of D's output, and what was done.

        Raises:
            WeightError: the weight has no gradient, or broke its contract at this noise level.
            ModelError: the model's output or its gradient is not finite.
        """
        start = time.perf_counter()
        level = float(sigma_ve.flatten()[0])
        if not self._is_guided(level):
            denoised = denoiser(x, sigma_ve)
            return denoised, StepRecord.skipped(sigma_ve, time.perf_counter() - start)
        denoised, log_w, v, gradient = gradient_through(self.vjp(denoiser), log_weight, x, sigma_ve)
        length = self._length(denoiser, x, denoised, level, keep)
        size = rms(gradient)
        shift = per_sample(torch.where(size > 0, length / size.clamp(min=1e-30), 0.0), x) * gradient
        whole = per_sample(sigma_ve.float() ** 2, x) * gradient
        variance = (v.float() * whole).flatten(1).sum(dim=1)
        record = shifted(sigma_ve, log_w, variance, shift, denoised, start)
        return (denoised.float() + shift).to(denoised.dtype), record

    def _is_guided(self, level: float) -> bool:
        """Whether the step that starts at this noise level is in the window."""
        if self.step == 0 and self.plain_step == 0:
            return False
        starts = self.sigmas[:-1].tolist()
        nearest = min(range(len(starts)), key=lambda i: abs(starts[i] - level))
        return self.window.guided(len(starts))[nearest]

    def _length(
        self, denoiser: Denoiser, x: Latents, denoised: Latents, level: float, keep: float | None
    ) -> PerSample:
        """RMS of the shift of the denoised picture, [B]."""
        correction = denoiser.correction() if isinstance(denoiser, CorrectedDenoiser) else None
        if correction is None:
            return self.plain_step * rms(x.float() - denoised.float())
        kept = ancestral_keep(self.sigmas, level) if keep is None else keep
        if kept >= 1:
            raise ValueError(
                f"Noise level {level:.4g} is not one of FreeDoM's run, so the length of its step "
                "is not known: sample with FreeDoM's own sampler."
            )
        lower = level * math.sqrt(kept)
        # eps_c - eps_u = (D_u - D_c) / sigma; a shift of D moves x' by 1 - keep of it.
        return self.step * rms(correction) / level * math.sqrt(1 + lower**2) / (1 - kept)


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
        # The same operations in the same order as a plain ancestral sampler's, down to the last bit
        up = torch.minimum(lower, (lower**2 * (sigma**2 - lower**2) / sigma**2) ** 0.5)
        down = (lower**2 - up**2) ** 0.5
        for repeat in range(repeats):
            denoised = denoiser(x, sigma * ones)
            if look is not None:
                look(step, x, sigma, denoised)
            if down == 0:
                below = denoised
            else:
                below = x + (x - denoised) / sigma * (down - sigma) + noise(x) * up
            if repeat < repeats - 1:
                x = below + noise(x) * (sigma**2 - lower**2) ** 0.5
        x = below
    return x
