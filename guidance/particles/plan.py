"""What a particle run will do and take, before anything is sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..plan import BACKWARD as BLOCKS_AND_GRADIENT
from ..shapes import Levels, PerStep
from .engine import ParticleSampler
from .tempering import Adaptive

# In forwards: before it the denoiser is evaluated once more, of a few particles at a time.
BACKWARD = 1 + BLOCKS_AND_GRADIENT


@dataclass(frozen=True)
class ParticlePlan:
    """One entry per noise level of a run, the final 0 left out; all are [K].

    Attributes:
        sigma_ve: variance-exploding noise level.
        temperature: lambda, 0 to 1; NaN where the particles decide it.
        weighs: whether the step weighs its particles.
        model_calls: forwards of the denoiser per particle.
        model_backwards: backward passes through it per particle.
        particles: of each sample.
    """

    sigma_ve: PerStep
    temperature: PerStep
    weighs: Tensor
    model_calls: Tensor
    model_backwards: Tensor
    particles: int

    @property
    def total_calls(self) -> int:
        """Forwards of the denoiser for one sample."""
        return self.particles * int(self.model_calls.sum())

    @property
    def total_backwards(self) -> int:
        """Backward passes through it for one sample."""
        return self.particles * int(self.model_backwards.sum())

    @property
    def relative_cost(self) -> float:
        """Arithmetic of the model over that of one plain sample; the weight comes on top."""
        return (self.total_calls + BACKWARD * self.total_backwards) / len(self.sigma_ve)


def particle_plan(engine: ParticleSampler, sigma_ve: Levels, particles: int) -> ParticlePlan:
    """What an engine does at each noise level, by the same rules as in a run.

    Args:
        engine: the method.
        sigma_ve: [K + 1] falling noise levels, variance-exploding, the last 0.
        particles: of each sample.

    Raises:
        ValueError: fewer than two noise levels.
    """
    levels = sigma_ve.double().tolist()
    steps = len(levels) - 1
    if steps < 1:
        raise ValueError(f"There are {len(levels)} noise levels; expected two or more.")
    pairs = zip(levels[:-1], levels[1:], strict=True)
    noisy = torch.tensor([engine.chain.noise_std(sigma, lower) > 0 for sigma, lower in pairs])
    weighs = torch.tensor([step % engine.interval == 0 for step in range(steps)])
    weighs[-1] &= noisy[-1]  # the result itself is weighed instead
    cost = engine.drift.cost(sigma_ve[:-1].float())
    second = (noisy & cost.second).int()
    return ParticlePlan(
        sigma_ve=sigma_ve[:-1],
        temperature=_temperature(engine, steps),
        weighs=weighs,
        model_calls=1 + second,
        model_backwards=cost.backwards * (noisy & cost.active).int(),
        particles=particles,
    )


def _temperature(engine: ParticleSampler, steps: int) -> PerStep:
    if isinstance(engine.tempering, Adaptive):
        return torch.full((steps,), math.nan)
    zero = torch.zeros(1)
    curve = [engine.tempering.now(step, steps, zero, lambda t: t) for step in range(steps)]
    return torch.cat(curve)
