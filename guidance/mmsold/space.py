"""Few coordinates for large data: principal components, partly whitened."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..shapes import PerPoint, Vector

VARIANCE_KEPT = 0.95  # what the automatic rank aims for
POINTS_PER_DIRECTION = 3  # fewer, and all points are as far from each other: nothing to smooth
ASKED = 1000  # points whose neighbour is looked for, at most about twice as many


@dataclass(frozen=True)
class PrincipalSpace:
    """Coordinates along the directions in which data vary most.

    Their unit is the median distance from a point to its nearest other, so that a noise level means
    the same for few points and for many, in any number of dimensions. (In units of standard
    deviations, where the paper's numbers are, that distance grows as the square root of the rank.)

    Attributes:
        mean: [D].
        directions: [r, D], orthonormal rows, widest first.
        scales: [r] data units per coordinate, > 0.
        kept: share of the data's variance that the directions hold, 0..1.
    """

    mean: Vector
    directions: Tensor
    scales: Tensor
    kept: float

    @property
    def rank(self) -> int:
        """Number of coordinates."""
        return self.scales.shape[0]

    @classmethod
    def of(
        cls, data: Tensor, shares: Tensor, rank: int | None = None, whitened: int | None = None
    ) -> PrincipalSpace:
        """Of data [n, D].

        Args:
            data: floating point.
            shares: [n] weights of the points, summing to 1.
            rank: r; None for 95 % of the variance, but at least three points per direction.
            whitened: how many directions get equal variance; the rest keep their size relative to
                the next one (partial whitening), because the narrowest hold mostly noise. None for
                half of them.

        Raises:
            ValueError: a rank that the points do not span, or points that are mostly the same.
        """
        mean = shares @ data
        spread, directions = _principal(shares.sqrt()[:, None] * (data - mean))
        rounding = 100 * torch.finfo(data.dtype).eps * data.abs().max()
        spanned = int((spread > torch.maximum(1e-5 * spread[0], rounding)).sum())
        held = spread.square().cumsum(0) / spread.square().sum()
        if rank is None:
            enough = int((held < VARIANCE_KEPT).sum()) + 1
            rank = min(enough, spanned, max(1, int(effective_size(shares) / POINTS_PER_DIRECTION)))
        if not 1 <= rank <= spanned:
            raise ValueError(
                f"rank is {rank} and the {len(data)} points span {spanned} directions; expected 1 "
                f"to {spanned}. Lower the rank, or give more points that differ."
            )
        floor = spread[min(rank // 2 if whitened is None else whitened, rank - 1)]
        space = cls(mean, directions[:rank], spread[:rank].clamp(min=floor), float(held[rank - 1]))
        unit = usual(neighbour_distances(heaviest(space.encode(data), shares)))
        return cls(space.mean, space.directions, space.scales * unit, space.kept)

    def encode(self, data: Tensor) -> Tensor:
        """[n, D] -> [n, r]."""
        return (data - self.mean) @ self.directions.T / self.scales

    def decode(self, coordinates: Tensor) -> Tensor:
        """[n, r] -> [n, D], without what lies outside of the directions."""
        return self.mean + (coordinates.to(self.scales) * self.scales) @ self.directions


def _principal(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values [m], falling, and right singular vectors [m, D] of a matrix [n, D]."""
    if centred.shape[0] >= centred.shape[1]:
        _, spread, directions = torch.linalg.svd(centred, full_matrices=False)
        return spread, directions
    # Few long rows, such as photos: ten times as fast through the small triangle.
    long, small = torch.linalg.qr(centred.T)
    _, spread, directions = torch.linalg.svd(small.T)
    return spread, directions @ long.T


def effective_size(shares: PerPoint) -> float:
    """How many points of equal weight the weights [n], summing to 1, are worth: 1..n."""
    return 1 / float(shares.square().sum())


def heaviest(points: Tensor, shares: Tensor) -> Tensor:
    """Of points [n, r], those that carry the weights [n]: as many as the effective size."""
    count = min(len(points), max(2, round(effective_size(shares))))
    return points[shares.topk(count).indices]


def neighbour_distances(points: Tensor) -> PerPoint:
    """From points, evenly chosen where there are many, to the nearest other of [m, r]."""
    asked = points[:: max(1, len(points) // ASKED)]
    # Not by a matrix product, whose rounding gives copies a distance. The nearest is the point
    # itself, the second nearest its neighbour.
    distances = torch.cdist(asked, points, compute_mode="donot_use_mm_for_euclid_dist")
    nearest: Tensor = distances.topk(2, dim=1, largest=False).values[:, 1]
    return nearest


def usual(distances: PerPoint) -> float:
    """Median of the distances from points to their nearest others.

    Raises:
        ValueError: it is 0.
    """
    distance = float(distances.median())
    if not distance > 0:
        raise ValueError(
            f"At least half of the {len(distances)} points that carry the weight are copies of "
            "others; expected points that differ. Remove the copies."
        )
    return distance
