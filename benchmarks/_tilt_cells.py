"""What the tilt tables compare with: plain samples, and their importance weights under w p."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..rewards import Reward
from ._classifier import ShapeClassifier
from ._tilting import strength_for_ess, tilted_shares

BROKEN_QUANTILE = 0.01  # an image counts as broken below the confidence of 99 % of plain ones


@dataclass(frozen=True)
class Plain:
    """Plain samples and what is known of them.

    Attributes:
        images: [N, 3, 32, 32] in 0..1.
        features: [N, F] of the classifier.
        least: the confidence that 99 % of them reach.
    """

    pictures: Tensor
    features: Tensor
    least: float

    @classmethod
    def of(cls, pictures: Tensor, classifier: ShapeClassifier) -> Plain:
        """Look at images with the classifier."""
        sure = classifier.confidence(pictures)
        least = float(sure.quantile(BROKEN_QUANTILE))
        return cls(pictures, classifier.features(pictures), least)


@dataclass(frozen=True)
class Cell:
    """One weight at one strength, and the exact answer by importance weights.

    Attributes:
        name: of the weight.
        effective: share of plain samples that count.
        shares: [N] importance weights of the plain samples, which sum to 1.
    """

    name: str
    reward: Reward
    effective: float
    strength: float
    scores: Tensor
    shares: Tensor

    @classmethod
    def of(cls, name: str, reward: Reward, effective: float, plain: Plain) -> Cell:
        """Choose the strength and weigh the plain samples."""
        scores = reward(plain.pictures)
        strength = strength_for_ess(scores, effective)
        shares = tilted_shares(scores, strength).float()
        return cls(name, reward, effective, strength, scores, shares)

    @property
    def true_shift(self) -> float:
        """Of the mean score."""
        return float(self.shares @ self.scores - self.scores.mean())

    @property
    def true_std(self) -> float:
        """Of the score under w p."""
        return float((self.shares @ (self.scores - self.shares @ self.scores) ** 2).sqrt())

    def row(self, method: str) -> dict[str, Any]:
        """The columns that say which cell this is."""
        return {
            "weight": self.name,
            "effective %": 100 * self.effective,
            "strength": self.strength,
            "method": method,
        }


def distance(mean: Tensor, target: Tensor, plain: Plain) -> float:
    """RMS difference of two feature means, in standard deviations of plain samples."""
    spread = plain.features.std(dim=0).clamp(min=1e-3)
    return float(((mean - target) / spread).square().mean().sqrt())
