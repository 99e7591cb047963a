"""Every method of the family at one budget.

The budget is the number of model evaluations that one drawn image costs. A backward pass through
the model counts as two forwards; a second forward of LAGS counts as one, also where it takes the
conditional branch alone (the demo draws without a prompt, so there is one branch only).

LAGS with path weights at N particles sets the budget. Every other method gets the least that costs
as much or more, so the comparison is generous to the rivals: particle methods get more particles
or fewer, best of N and search more images, LiDAR more lookahead images, and methods that follow
a single run (DPS, FreeDoM, DAS with one particle, LAGS without weights) more steps.

What a method draws is a group of weighted images. One of them, taken by its weight, is the
method's sample; means over the group by weight are what such samples have on average, with less
noise. Best of N and search have a single image of weight 1: the best one, which is what they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..demo.sampler import guided, karras_sigmas, sample_ancestral, tilted
from ..guidance import (
    DPS,
    AutogradDenoiser,
    AutogradLogWeight,
    CachedGradient,
    Denoiser,
    DifferentiableDenoiser,
    FreeDoM,
    LiDAR,
    LogWeight,
    Lookahead,
    Method,
    PathWeights,
    RunState,
    Trace,
    look_ahead,
    preset,
    time_travel,
)
from ..guidance.methods.lidar import STEPS as LOOKAHEAD_STEPS
from ..guidance.particles import (
    PRESETS,
    Particles,
    ParticleTrace,
    group_seeds,
    noisy_start,
    particle_preset,
)
from ..guidance.search import Found, best_of, zero_order_search

BACKWARD = 2  # forwards that a backward pass counts as
NEIGHBOURS, RADIUS = 2, 0.5  # of the search; a finished image has no cheaper neighbour
RULER = "lags"  # the method that sets the budget


@dataclass(frozen=True)
class Task:
    """What is to be drawn from.

    Attributes:
        denoiser: E[x0 | x] under p; autograd can follow it.
        log_weight: log w.
        shape: of one image.
        low: least noise level.
        high: greatest noise level.
        steps: of a plain run.
        chunk: most particles at once; None is all.
    """

    denoiser: Denoiser
    log_weight: LogWeight
    shape: tuple[int, ...]
    low: float
    high: float
    steps: int
    chunk: int | None = None

    @property
    def differentiable(self) -> DifferentiableDenoiser:
        """The denoiser with a way back through it."""
        known = isinstance(self.denoiser, DifferentiableDenoiser)
        return self.denoiser if known else AutogradDenoiser(self.denoiser)

    def sigmas(self, steps: int) -> Tensor:
        """The noise levels of a run of so many steps."""
        return karras_sigmas(steps, self.low, self.high)


@dataclass(frozen=True)
class Drawn:
    """Groups of weighted images, and the budget of one group.

    Attributes:
        x: [G, N, ...].
        weights: [G, N], summing to 1 in each group.
        calls: model evaluations per group.
        spent: what the budget was spent on, in words.
    """

    x: Tensor
    weights: Tensor
    calls: int
    spent: str


Way = Callable[[Task, int, int, int], Drawn]  # (task, budget, groups, seed)


SEVERAL = {name: known.title for name, known in PRESETS.items() if known.particles > 1}


def family() -> dict[str, Way]:
    """Every method by its name: (task, budget, groups, seed) -> what it draws at that budget."""
    return {
        **{title: _with_particles(name) for name, title in SEVERAL.items()},
        PRESETS["das_1p"].title: _das_1p,
        "LAGS, no weights": _with_steps(lambda task, sigmas: preset("balanced")),
        "DPS": _with_steps(lambda task, sigmas: DPS()),
        "FreeDoM": _with_steps(lambda task, sigmas: FreeDoM(sigmas=sigmas)),
        "LiDAR": _lidar,
        "best of N": _best_of,
        "zero-order search": _search,
    }


def budget(task: Task, particles: int) -> int:
    """What LAGS with path weights costs at so many particles."""
    return particles * _particle_cost(RULER, task.steps, task)


def cost(trace: Trace | ParticleTrace) -> int:
    """Model evaluations of a run: forwards, and backward passes as two each."""
    return trace.model_calls + BACKWARD * trace.model_backwards


def rehearsal(task: Task) -> Task:
    """The same run on single numbers, to count what it calls."""
    return replace(
        task,
        denoiser=lambda x, sigma: x / (1 + sigma[:, None] ** 2),
        log_weight=AutogradLogWeight(lambda x: -x.square().sum(dim=1), "rehearsal"),
        shape=(1,),
    )


def at_least(wanted: int, each: int) -> int:
    """The least number of things of one budget that cost as much as is wanted, and one at least."""
    return max(1, math.ceil(wanted / each))


def _with_particles(name: str) -> Way:
    """A particle method, with as many particles as the budget asks for."""

    def way(task: Task, wanted: int, groups: int, seed: int) -> Drawn:
        each = _particle_cost(name, task.steps, task)
        count = at_least(wanted, each)
        found = run_particles(name, task, task.steps, count, groups, seed)
        return Drawn(found.x, found.weights, count * each, f"{count} particles")

    return way


def _das_1p(task: Task, wanted: int, groups: int, seed: int) -> Drawn:
    steps = _least_steps(task, wanted, lambda small, steps: _particle_cost("das_1p", steps, small))
    found = run_particles("das_1p", task, steps, 1, groups, seed)
    return Drawn(found.x, found.weights, cost(found.trace), f"{steps} steps")


def _with_steps(make: Callable[[Task, Tensor], Method]) -> Way:
    """A method that follows a single run, with as many steps as the budget asks for."""

    def counted(small: Task, steps: int) -> int:
        sigmas = small.sigmas(steps)
        return cost(run_guided(small, make(small, sigmas), sigmas, 1, 0)[1])

    def way(task: Task, wanted: int, groups: int, seed: int) -> Drawn:
        steps = _least_steps(task, wanted, counted)
        sigmas = task.sigmas(steps)
        x, trace = run_guided(task, make(task, sigmas), sigmas, groups, seed)
        return single(x, cost(trace), f"{steps} steps")

    return way


def _lidar(task: Task, wanted: int, groups: int, seed: int) -> Drawn:
    """Each image has lookahead images of its own."""
    count = at_least(wanted - task.steps, LOOKAHEAD_STEPS)
    x, trace = run_guided(
        task, lidar(task, count, groups, seed), task.sigmas(task.steps), groups, seed
    )
    return single(x, cost(trace) + count * LOOKAHEAD_STEPS, f"{count} looked ahead to")


def lidar(task: Task, count: int, groups: int, seed: int) -> LiDAR:
    """LiDAR with ``count`` lookahead images of its own for each group."""
    draw, levels = _noises(task, groups, seed + 1), task.sigmas(LOOKAHEAD_STEPS)
    sets = [
        look_ahead(task.denoiser, task.log_weight, draw() * levels[0], levels) for _ in range(count)
    ]
    samples = torch.stack([found.samples for found in sets], dim=1)
    log_w = torch.stack([found.log_w for found in sets], dim=1)
    return LiDAR(lookahead=Lookahead(samples, log_w))


def _best_of(task: Task, wanted: int, groups: int, seed: int) -> Drawn:
    count = at_least(wanted, task.steps)
    found = run_best_of(task, count, groups, seed)
    return single(found.samples, found.model_calls, f"best of {count}")


def run_best_of(task: Task, count: int, groups: int, seed: int) -> Found:
    """The best of ``count`` plain images, in each group."""
    generator = torch.Generator().manual_seed(seed + 1)

    def plain(noise: Tensor) -> Tensor:
        return _plain(task, noise, generator)

    return best_of(plain, task.log_weight, _noises(task, groups, seed), count, task.steps)


def _search(task: Task, wanted: int, groups: int, seed: int) -> Drawn:
    rounds = at_least(at_least(wanted, task.steps) - 1, NEIGHBOURS)

    def plain(noise: Tensor) -> Tensor:  # the same noise on the way each time
        return _plain(task, noise, torch.Generator().manual_seed(seed + 1))

    draw = _noises(task, groups, seed)
    found = zero_order_search(plain, task.log_weight, draw, rounds, NEIGHBOURS, RADIUS, task.steps)
    return single(found.samples, found.model_calls, f"{rounds} rounds of {NEIGHBOURS}")


def run_particles(
    name: str, task: Task, steps: int, count: int, groups: int, seed: int
) -> Particles:
    """One run of a particle method from pure noise: ``groups`` of ``count`` particles."""
    sampler = particle_preset(name, steps)
    seeds = group_seeds(seed, groups)
    x = noisy_start(torch.zeros(groups, *task.shape), count, task.high, seeds)
    return sampler(
        task.differentiable, task.log_weight, x, task.sigmas(steps), seeds, chunk=task.chunk
    )


def _particle_cost(name: str, steps: int, task: Task) -> int:
    """What one particle of a preset costs."""
    return cost(run_particles(name, rehearsal(task), steps, 1, 1, 0).trace)


def _least_steps(task: Task, wanted: int, counted: Callable[[Task, int], int]) -> int:
    """The least number of steps that costs as much as is wanted, no fewer than a plain run's."""
    small, plain = rehearsal(task), task.steps
    steps = max(plain, math.ceil(plain * wanted / counted(small, plain)))
    while steps > plain and counted(small, steps - 1) >= wanted:
        steps -= 1
    while counted(small, steps) < wanted:
        steps += 1
    return steps


def run_guided(
    task: Task,
    method: Method,
    sigmas: Tensor,
    groups: int,
    seed: int,
    path: PathWeights | None = None,
) -> tuple[Tensor, Trace]:
    """One guided run per group: images [G, ...], and what was done; weighed if a path is given."""
    trace, state = Trace(), RunState()
    draw, base = _noises(task, groups, seed), task.differentiable
    x = tilted(method, base, task.log_weight, draw() * sigmas[0], sigmas[0], trace, state, path)
    cached = CachedGradient(task.log_weight, method.reuse, method.compares_values)
    denoiser = guided(method, base, cached, sigmas, trace, state, path)
    rounds = method.rounds if isinstance(method, FreeDoM) else [1] * (len(sigmas) - 1)
    x = time_travel(denoiser, x, sigmas, rounds, lambda like: draw())
    return x, trace


def run_plain(task: Task, groups: int, seed: int) -> Tensor:
    """Plain images [G, ...] from the noise that ``run_guided`` takes."""
    generator = torch.Generator().manual_seed(seed)
    return _plain(task, torch.randn(groups, *task.shape, generator=generator), generator)


@torch.no_grad()
def _plain(task: Task, noise: Tensor, generator: torch.Generator) -> Tensor:
    """Plain images from unit noise."""
    sigmas = task.sigmas(task.steps)
    return sample_ancestral(task.denoiser, noise * sigmas[0], sigmas, generator)


def _noises(task: Task, groups: int, seed: int) -> Callable[[], Tensor]:
    """Unit noise [G, ...], fresh at each call."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(groups, *task.shape, generator=generator)


def single(x: Tensor, calls: int, spent: str) -> Drawn:
    """Groups of one image."""
    return Drawn(x[:, None], torch.ones(x.shape[0], 1, dtype=torch.float64), calls, spent)
