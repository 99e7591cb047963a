"""What a weight function is: a reward on pictures, and log w as a sum of strength * score."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor


class Reward(ABC):
    """A score per picture, on the scale of its authors.

    Attributes:
        name: what tables, traces and errors call it.
        scale: the score's range or unit, in words.
        differentiable: whether guidance can use it; particle methods need no gradient.
    """

    name: str
    scale: str
    differentiable: bool = True

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Score [B], float32, of images [B, 3, H, W] in 0..1; no coupling over the batch."""


@dataclass(frozen=True)
class Term:
    """strength * score: one factor of a weight.

    Attributes:
        reward: the score.
        strength: nats per unit of score (1 / beta in the papers); negative asks for less of it.
    """

    reward: Reward
    strength: float

    def __post_init__(self) -> None:
        check_strength(self.strength, self.reward.name)


@dataclass(frozen=True)
class Weight:
    """log w(image) = sum over terms of strength * score: a product of powers of weights.

    Attributes:
        terms: at least one.
    """

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("A weight has no terms; expected at least one reward to ask more of.")

    @classmethod
    def of(cls, reward: Reward, strength: float) -> Weight:
        """A weight of one term."""
        return cls((Term(reward, strength),))

    @property
    def name(self) -> str:
        """The rewards' names, joined."""
        return " + ".join(term.reward.name for term in self.terms)

    @property
    def differentiable(self) -> bool:
        """Whether every term has a gradient."""
        return all(term.reward.differentiable for term in self.terms)

    def __call__(self, images: Tensor) -> Tensor:
        """log w [B], nats, of images [B, 3, H, W] in 0..1."""
        return sum_terms([term.strength * term.reward(images) for term in self.terms])

    def power(self, exponent: float) -> Weight:
        """w to a power: every strength times ``exponent``."""
        check_strength(exponent, self.name)
        return Weight(tuple(replace(t, strength=t.strength * exponent) for t in self.terms))


def sum_terms(values: Sequence[Tensor]) -> Tensor:
    """Sum of equally shaped tensors; at least one."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def check_strength(strength: float, name: str) -> None:
    """Refuse a strength that is not a finite number."""
    if not math.isfinite(strength):
        raise ValueError(
            f"strength of weight '{name}' is {strength}; expected a finite number (0 is off)."
        )
