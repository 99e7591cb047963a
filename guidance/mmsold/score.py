"""The smoothed score of a set of points: no model, only the points.

The points, each blurred by a Gaussian of sigma_g, have U(z) = -log sum_i w_i exp(-|z - x_i|^2 / (2
sigma_g^2)), whose wells are the points themselves: sampling it copies them. Averaging U, not the
density, over Gaussian shifts of z flattens it along what neighbours have in common and keeps it
steep across. MM-SOLD (Yao and Paulin 2026), after Scarvelis, Borde and Solomon 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..shapes import Points

MOST_LOGITS = 2**22  # numbers in the largest array: 32 MB in float64


def noise(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Normal numbers, drawn where the generator lives: one seed, one result, whatever the GPU."""
    drawn = torch.randn(shape, generator=generator, dtype=like.dtype, device=generator.device)
    return drawn.to(like.device)


@dataclass(frozen=True)
class SmoothedScore:
    """grad V(z), V(z) = E U(z + sigma eps), estimated with fresh draws at every call.

    Attributes:
        data: [n, d] the points.
        log_shares: [n] log of the points' weights; -inf takes a point out.
        sigma_g: blur of each point, > 0.
        sigma: how far the shifts reach, >= 0.
        draws: shifts per particle, even: each eps comes with -eps, which cancels its first order.
            0 for no smoothing.
        nearest: points that are summed for sure, the nearest; 0 for all.
        others: points drawn at random from the rest, which they stand for.
    """

    data: Tensor
    log_shares: Tensor
    sigma_g: float
    sigma: float
    draws: int
    nearest: int = 0
    others: int = 0

    def __call__(self, z: Points, generator: torch.Generator) -> Points:
        """Gradient [B, d] at particles z [B, d]."""
        rows = max(1, MOST_LOGITS // self.data.shape[0])
        starts = range(0, z.shape[0], rows)
        towards = torch.cat([self._barycentre(z[i : i + rows], generator) for i in starts])
        # The shifts themselves drop out: eps and -eps sum to nothing.
        return (z - towards) / self.sigma_g**2

    def _barycentre(self, z: Points, generator: torch.Generator) -> Points:
        """Where the gradient leads [B, d]: the mean of the points, by their nearness."""
        overlap = z @ self.data.T - self.data.square().sum(dim=1) / 2  # -|z - x|^2 / 2 + |z|^2 / 2
        logits = overlap / self.sigma_g**2 + self.log_shares
        if not 0 < self.nearest < self.data.shape[0] - self.others:
            return self._shares(z, logits, self.data.T, generator) @ self.data
        chosen, correction = self._candidates(overlap, generator)
        points = self.data[chosen]  # [B, K + L, d]
        logits = logits.gather(1, chosen) + correction
        shares = self._shares(z, logits, points.mT, generator)
        return (shares[:, None] @ points).squeeze(1)

    def _candidates(self, overlap: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(points [B, K + L] that are summed, log of how many each stands for [K + L])."""
        count, n = overlap.shape
        # Points of weight zero stand for nothing, however near: all of them would be no share.
        reachable = overlap.masked_fill(self.log_shares == -torch.inf, -torch.inf)
        near = reachable.topk(self.nearest, dim=1).indices
        keys = torch.rand(count, n, generator=generator, device=generator.device).to(overlap.device)
        far = keys.scatter(1, near, -1.0).topk(self.others, dim=1).indices
        stands_for = torch.ones(self.nearest + self.others, dtype=overlap.dtype)
        stands_for[self.nearest :] = (n - self.nearest) / max(1, self.others)
        return torch.cat([near, far], dim=1), stands_for.log().to(overlap.device)

    def _shares(
        self, z: Tensor, logits: Tensor, points: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Softmax [B, m] over m points, averaged over the shifts.

        Args:
            z: [B, d].
            logits: [B, m] without shift.
            points: [d, m], or [B, d, m].
            generator: of the shifts.
        """
        if self.draws == 0 or self.sigma == 0:
            return logits.softmax(dim=1)
        total = torch.zeros_like(logits)
        for rows, half in self._blocks(*logits.shape):
            shape = (*z[rows].shape[:1], half, z.shape[1])
            shifts = self.sigma / self.sigma_g**2 * noise(shape, generator, z)
            changes = shifts @ (points if points.ndim == 2 else points[rows])  # [B, M / 2, m]
            middle = logits[rows, None]
            both = (middle + changes).softmax(dim=2) + (middle - changes).softmax(dim=2)
            total[rows] += both.sum(dim=1)
        return total / self.draws

    def _blocks(self, count: int, points: int) -> Iterator[tuple[slice, int]]:
        """(particles, pairs of shifts) such that the logits of one block stay in bounds."""
        pairs = self.draws // 2
        at_once = min(pairs, max(1, MOST_LOGITS // points))
        rows = max(1, MOST_LOGITS // (points * at_once))
        for start in range(0, count, rows):
            for done in range(0, pairs, at_once):
                yield slice(start, start + rows), min(at_once, pairs - done)
