"""What a particle run will do and take, before anything is sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..methods.lags import LAGS
from ..shapes import Levels, PerStep
from .drift import GradientDrift, MethodDrift
from .engine import ParticleSampler
from .tempering import Adaptive

# A backward pass in forwards: the denoiser once more, its blocks again while autograd goes back
# through them, and the gradients of the inputs, which are as many products as a forward.
BACKWARD = 3.0


@dataclass(frozen=True)
class ParticlePlan:
    """One entry per noise level of a run, the final 0 left out; all are [K].

    Attributes:
        sigma_ve: variance-exploding noise level.
        temperature: lambda, 0 to 1; NaN where the particles decide it.
        weighs: whether the step weighs its particles.
        model_calls: forwards of the denoiser per particle.
        model_backwards: backward passes through it per particle.
        particles: of each picture.
    """

    sigma_ve: PerStep
    temperature: PerStep
    weighs: Tensor
    model_calls: Tensor
    model_backwards: Tensor
    particles: int

    @property
    def total_calls(self) -> int:
        """Forwards of the denoiser for one picture."""
        return self.particles * int(self.model_calls.sum())

    @property
    def total_backwards(self) -> int:
        """Backward passes through it for one picture."""
        return self.particles * int(self.model_backwards.sum())

    @property
    def relative_cost(self) -> float:
        """Arithmetic of the model over that of one plain picture; the weight comes on top."""
        return (self.total_calls + BACKWARD * self.total_backwards) / len(self.sigma_ve)


def particle_plan(engine: ParticleSampler, sigma_ve: Levels, particles: int) -> ParticlePlan:
    """What an engine does at each noise level, by the same rules as in a run.

    Args:
        engine: the method.
        sigma_ve: [K + 1] falling noise levels, variance-exploding, the last 0.
        particles: of each picture.

    Raises:
        ValueError: fewer than two noise levels.
    """
    levels = sigma_ve.double().tolist()
    steps = len(levels) - 1
    if steps < 1:
        raise ValueError(f"There are {len(levels)} noise levels; expected two or more.")
    pairs = zip(levels[:-1], levels[1:], strict=True)
    noisy = torch.tensor([engine.chain.spread(sigma, lower) > 0 for sigma, lower in pairs])
    weighs = torch.tensor([step % engine.interval == 0 for step in range(steps)])
    weighs[-1] &= noisy[-1]  # the result itself is weighed instead
    pushed = noisy & _pushed(engine, sigma_ve[:-1].float())
    backward = isinstance(engine.drift, GradientDrift)
    return ParticlePlan(
        sigma_ve=sigma_ve[:-1],
        temperature=_temperature(engine, steps),
        weighs=weighs,
        model_calls=1 + (pushed & torch.tensor(not backward)).int(),
        model_backwards=(pushed & torch.tensor(backward)).int(),
        particles=particles,
    )


def _pushed(engine: ParticleSampler, sigma_ve: PerStep) -> Tensor:
    """Where the drift takes more than a plain forward: [K] booleans."""
    drift = engine.drift
    if isinstance(drift, GradientDrift):
        return torch.ones_like(sigma_ve, dtype=torch.bool)
    if isinstance(drift, MethodDrift) and isinstance(drift.method, LAGS):
        method = drift.method
        return method.is_active(sigma_ve) & ~method.step.is_drowned(sigma_ve) & method.jacobian
    return torch.zeros_like(sigma_ve, dtype=torch.bool)


def _temperature(engine: ParticleSampler, steps: int) -> PerStep:
    if isinstance(engine.tempering, Adaptive):
        return torch.full((steps,), math.nan)
    zero = torch.zeros(1)
    curve = [engine.tempering.now(step, steps, zero, lambda t: t) for step in range(steps)]
    return torch.cat(curve)
