"""Which particles to keep: indices [G, K] into the N particles of each group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..shapes import Chosen
from .record import Particles
from .resampling import multinomial


def best(particles: Particles) -> Chosen:
    """The particle of greatest w: [G, 1]. A pick of the mode, not a sample of w p."""
    return particles.log_w.argmax(dim=1, keepdim=True)


def draw(particles: Particles, seeds: Sequence[int], count: int = 1) -> Chosen:
    """Samples of w p by the particles' weights: [G, count], repeats possible.

    Args:
        particles: G groups.
        seeds: of each group, so that one draws the same in any batch.
        count: of samples.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    uniforms = [torch.rand(count, generator=g, dtype=torch.float64) for g in generators]
    return multinomial(particles.log_weights, torch.stack(uniforms))


def everything(particles: Particles) -> Chosen:
    """All of them in order of w, the greatest first: [G, N]."""
    return particles.log_w.argsort(dim=1, descending=True, stable=True)


def diverse(particles: Particles, count: int) -> Chosen:
    """Good ones that differ: [G, count].

    From the better half by w (or the better ``count``, if more): the best one, then again and again
    the one farthest from all that are chosen, in Euclidean distance.

    Raises:
        ValueError: more are asked for than there are.
    """
    n = particles.log_w.shape[1]
    if not 1 <= count <= n:
        raise ValueError(f"count of diverse samples is {count}; expected 1 to {n}, the particles.")
    pool = everything(particles)[:, : max(count, (n + 1) // 2)]
    chosen = [
        _farthest(points[rows.to(points.device)], count)
        for points, rows in zip(particles.x.flatten(2), pool, strict=True)
    ]
    return pool.gather(1, torch.stack(chosen))


def gather(particles: Particles, index: Chosen) -> Tensor:
    """The samples at indices [G, K]: [G, K, ...]."""
    groups = torch.arange(index.shape[0], device=particles.x.device)[:, None]
    return particles.x[groups, index.to(particles.x.device)]


def _farthest(points: Tensor, count: int) -> Tensor:
    """Greedy farthest points of [M, D], from the first on: [count] indices on the CPU."""
    chosen = [0]
    nearest = points.new_full((points.shape[0],), torch.inf)
    for _ in range(count - 1):
        nearest = nearest.minimum((points - points[chosen[-1]]).square().sum(dim=1))
        nearest[chosen] = -1.0  # copies of a chosen one are at distance 0, and still ahead of it
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)
