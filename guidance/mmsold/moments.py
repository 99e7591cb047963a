"""The moment constraint: particles whose mean and covariance are given numbers, exactly.

MM-SOLD (Yao and Paulin 2026). Particles z = mean + L y, L L^T the covariance; the constraint on
Y [B, d] is 1^T Y = 0 and Y^T Y = B I, whatever the data, so there is one manifold to walk on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..shapes import PerPoint, Points, Square, Vector


@dataclass(frozen=True)
class Moments:
    """Mean and covariance that particles shall have.

    Attributes:
        mean: [d].
        factor: [d, d] lower triangular L; L L^T is the covariance.
    """

    mean: Vector
    factor: Square

    @classmethod
    def of(cls, data: Points, shares: PerPoint, sigma_g: float) -> Moments:
        """Of data blurred by a Gaussian: sigma_g^2 I plus the data's covariance.

        Args:
            data: [n, d].
            shares: [n] weights of the points, summing to 1.
            sigma_g: standard deviation of the blur, > 0; it keeps the covariance invertible where
                the points do not span the space.
        """
        mean = shares @ data
        centred = data - mean
        covariance = (shares[:, None] * centred).T @ centred
        blur = sigma_g**2 * torch.eye(data.shape[1], dtype=data.dtype, device=data.device)
        return cls(mean, torch.linalg.cholesky(covariance + blur))

    @property
    def covariance(self) -> Square:
        """[d, d]."""
        return self.factor @ self.factor.T

    def from_standard(self, y: Points) -> Points:
        """Y [B, d] of mean 0 and covariance I -> particles Z [B, d]."""
        return self.mean + y @ self.factor.T

    def to_standard(self, z: Points) -> Points:
        """Z [B, d] -> Y [B, d]."""
        y: Tensor = torch.linalg.solve_triangular(self.factor, (z - self.mean).T, upper=False)
        return y.T

    def pull_back(self, gradient: Points) -> Points:
        """A gradient with respect to Z [B, d] as one with respect to Y [B, d].

        z = mean + L y in columns, so dU/dy = L^T dU/dz, which for rows is a product with L.
        """
        return gradient @ self.factor


def tangent(y: Points, direction: Points) -> Points:
    """The part of a direction [B, d] along which the moments of Y [B, d] stay, to first order."""
    direction = direction - direction.mean(dim=0)
    overlap = y.T @ direction / y.shape[0]
    return direction - y @ (overlap + overlap.T) / 2


def retract(y: Points) -> Points:
    """Y [B, d] back onto mean 0 and covariance I, by a QR decomposition; B must exceed d.

    A QR decomposition is unique only up to signs; with a positive diagonal of R a small step stays
    a small step.
    """
    q: Tensor
    q, r = torch.linalg.qr(y - y.mean(dim=0))
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(y.dtype)
    return q * signs * math.sqrt(y.shape[0])
