"""Plain samples weighted with w: the exact answer, and the strength that a wish asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..rewards import Reward
from ._classifier import ShapeClassifier

BROKEN_QUANTILE = 0.01  # an image counts as broken below the confidence of 99 % of plain ones
STEEPEST = 1e4  # nats per unit of score; beyond any sense
BISECTIONS = 60


def tilted_shares(scores: Tensor, strength: float) -> Tensor:
    """Importance weights [N], float64, of plain samples under w p; they sum to 1."""
    return (scores.double() * strength).softmax(dim=0)


def tilted_mean(values: Tensor, scores: Tensor, strength: float) -> float:
    """The mean of values [N] under w p, from plain samples."""
    return float(tilted_shares(scores, strength) @ values.double())


def strength_for_ess(scores: Tensor, share: float) -> float:
    """The strength at which exp(strength * score) leaves this share of the samples effective.

    The effective sample size is (sum w)^2 / sum w^2; it falls as the strength grows.
    """

    def too_weak(strength: float) -> bool:
        shares = tilted_shares(scores, strength)
        return float(1 / shares.square().sum() / len(scores)) > share

    wish = f"leaves a share of {share} effective; expected scores that differ between samples"
    return least_strength(too_weak, wish)


def strength_for_rate(scores: Tensor, has: Tensor, rate: float) -> float:
    """The strength at which exp(strength * score) makes an attribute come at a rate.

    Args:
        scores: [N] of plain samples.
        has: [N], whether each has the attribute, which higher scores have more often.
        rate: 0..1, above the plain one.
    """
    wish = (
        f"makes the attribute come at a rate of {rate}; expected a score that is higher where the "
        "attribute is"
    )
    return least_strength(lambda strength: tilted_mean(has, scores, strength) < rate, wish)


def least_strength(too_weak: Callable[[float], bool], wish: str) -> float:
    """The least strength that is not too weak, by bisection; ``wish`` says what it is to do.

    Raises:
        ValueError: no strength does it.
    """
    low, high = 0.0, 1.0
    while too_weak(high):
        high *= 2
        if high > STEEPEST:
            raise ValueError(f"No strength up to {STEEPEST:g} {wish}.")
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if too_weak(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2


@dataclass(frozen=True)
class Plain:
    """Plain samples and what is known of them.

    Attributes:
        classifier: what looks at images.
        pictures: [N, 3, 32, 32] in 0..1.
        features: [N, F] of the classifier.
        least: the confidence that 99 % of them reach.
    """

    classifier: ShapeClassifier
    pictures: Tensor
    features: Tensor
    least: float

    @classmethod
    def of(cls, pictures: Tensor, classifier: ShapeClassifier) -> Plain:
        """Look at images with the classifier."""
        least = float(classifier.confidence(pictures).quantile(BROKEN_QUANTILE))
        return cls(classifier, pictures, classifier.features(pictures), least)

    @property
    def scale(self) -> Tensor:
        """Standard deviation of each feature, [F]."""
        return self.features.std(dim=0).clamp(min=1e-3)

    def broken(self, pictures: Tensor) -> Tensor:
        """Whether images are broken, [B] of 0 or 1."""
        return (self.classifier.confidence(pictures) < self.least).float()


@dataclass(frozen=True)
class Cell:
    """One weight at one strength, and the exact answer by importance weights.

    Attributes:
        name: of the weight.
        effective: share of plain samples that count.
        plain: the samples.
        scores: theirs, [N].
        shares: [N], their importance weights, which sum to 1.
    """

    name: str
    reward: Reward
    effective: float
    plain: Plain
    strength: float
    scores: Tensor
    shares: Tensor

    @classmethod
    def of(cls, name: str, reward: Reward, effective: float, plain: Plain) -> Cell:
        """Choose the strength and weigh the plain samples."""
        scores = reward(plain.pictures)
        strength = strength_for_ess(scores, effective)
        shares = tilted_shares(scores, strength).float()
        return cls(name, reward, effective, plain, strength, scores, shares)

    @property
    def target(self) -> Tensor:
        """Mean features under w p, [F]."""
        return self.shares @ self.plain.features

    @property
    def true_shift(self) -> float:
        """Of the mean score."""
        return float(self.shares @ self.scores - self.scores.mean())

    @property
    def true_error(self) -> float:
        """Standard error of that, at this strength: of a mean of what each sample adds to it."""
        tilted = self.shares * (self.scores - self.shares @ self.scores)
        plain = (self.scores - self.scores.mean()) / len(self.scores)
        return float((tilted - plain).square().sum().sqrt())

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

    def captured(self, gains: Tensor, std: float) -> dict[str, float]:
        """The columns of gains in score, independent of each other, and of the score's std.

        The error is that of the gains and of the truth together.
        """
        share = float(gains.mean()) / self.true_shift
        error = math.hypot(float(gains.std()) / math.sqrt(len(gains)), share * self.true_error)
        return {
            "share of shift %": 100 * share,
            "+-": 100 * error / abs(self.true_shift),
            "std error %": 100 * (std / self.true_std - 1),
        }

    def distance(self, mean: Tensor) -> float:
        """RMS difference of mean features [F] from the target, in std of plain samples."""
        return float(((mean - self.target) / self.plain.scale).square().mean().sqrt())
