"""Smoothing by the data: as little as keeps new points from being copies."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..shapes import PerPoint, Points
from .space import heaviest, neighbour_distances, usual

COPIES = 0.05  # share of the data that lie too close to another: a draw of their law does as often
NARROWEST, WIDEST = 0.2, 1.0  # sigma, in usual distances of neighbours; beyond 1 all is blended
GAIN = 0.2  # of log sigma by the log of a distance
LEAST = 0.01  # distance, in the same unit, below which all are alike


@dataclass
class Bandwidth:
    """sigma, steered while particles walk.

    A copy is what lies closer to a point of the data than 5 % of the data do to another one. New
    draws of their law would be copies as often, so sigma rises while more of the particles are
    copies and falls while fewer are.

    Attributes:
        points: [m, d] those that carry the weight.
        unit: usual distance between neighbours.
        closest: distance below which a particle is a copy.
        path: log of sigma / unit after each look.
    """

    points: Tensor
    unit: float
    closest: float
    path: list[float] = field(default_factory=lambda: [math.log(WIDEST)])

    @classmethod
    def of(cls, data: Points, shares: PerPoint) -> Bandwidth:
        """For data [n, d] whose weights [n] sum to 1."""
        points = heaviest(data, shares)
        distances = neighbour_distances(points)
        return cls(points, usual(distances), float(distances.quantile(COPIES)))

    def look(self, z: Points) -> None:
        """Go on from where particles [B, d] are now."""
        distances = torch.cdist(z.to(self.points), self.points).amin(dim=1)
        least = LEAST * self.unit
        ratio = max(self.closest, least) / max(float(distances.quantile(COPIES)), least)
        log_sigma = self.path[-1] + GAIN * math.log(ratio)
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
