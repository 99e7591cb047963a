"""Smoothing by the data: as little as keeps new points from being copies."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..shapes import PerPoint, Points
from .space import heaviest, neighbour_distances, usual

CLOSE = 0.5  # a point nearer than this to a given one is a copy; in usual distances of neighbours
NARROWEST, WIDEST = 0.2, 1.0  # sigma, in the same unit; beyond 1 all is blended
GAIN = 0.2  # of log sigma by the log of a distance


@dataclass
class Bandwidth:
    """sigma, steered while particles walk.

    It falls as long as no larger share of them are copies than of the data themselves, each
    compared with the others, and rises where more are. Points drawn from the same law as the data
    would be copies as often.

    Attributes:
        points: [m, d] those that carry the weight.
        unit: usual distance between neighbours.
        copies: share of the data that are copies of others; one in m + 2 where there are none.
        path: log of sigma / unit after each look.
    """

    points: Tensor
    unit: float
    copies: float
    path: list[float] = field(default_factory=lambda: [math.log(WIDEST)])

    @classmethod
    def of(cls, data: Points, shares: PerPoint) -> Bandwidth:
        """For data [n, d] whose weights [n] sum to 1."""
        points = heaviest(data, shares)
        distances = neighbour_distances(points)
        unit = usual(distances)
        found = int((distances < CLOSE * unit).sum())
        return cls(points, unit, (found + 1) / (len(distances) + 2))

    def look(self, z: Points) -> None:
        """Go on from where particles [B, d] are now."""
        distances = torch.cdist(z.to(self.points), self.points).amin(dim=1)
        nearest = float(distances.quantile(self.copies)) / self.unit
        log_sigma = self.path[-1] + GAIN * math.log(CLOSE / max(nearest, 0.01 * CLOSE))
        self.path.append(min(max(log_sigma, math.log(NARROWEST)), math.log(WIDEST)))

    @property
    def now(self) -> float:
        """sigma after the last look."""
        return self.unit * math.exp(self.path[-1])

    @property
    def settled(self) -> float:
        """sigma by the later half of the looks, which moves less than the last one."""
        late = self.path[len(self.path) // 2 :]
        return self.unit * math.exp(sum(late) / len(late))
