"""What a weight function is: a reward on images, and log w as a sum of strength * score."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Published:
    """Where a reward's model file comes from.

    Attributes:
        file: the name under which it is looked for first.
        page: its authors' page.
        gigabytes: its size.
    """

    file: str
    page: str
    gigabytes: float


class Reward(ABC):
    """A score per image, on the scale of its authors.

    Attributes:
        name: what tables, traces and errors call it.
        scale: the score's range or unit, in words.
        input_size: side in pixels of the square that its model sees; None for any size.
        differentiable: whether guidance can use it; particle methods need no gradient.
        default_strength: nats per unit of score.
        working_range: strengths that people will want to try.
        strength_source: where the default comes from.
        published: its model's file; None where no file is needed or any will do.
        preference_scale: softmax(preference_scale * score) over images is the probability that
            each is preferred, as its authors trained it; None where the score is no preference.
        modules: the networks it runs, for whoever manages memory.
    """

    name: str
    scale: str
    input_size: int | None = None
    differentiable: bool = True
    default_strength: float = 1.0
    working_range: tuple[float, float] = (0.1, 10.0)
    strength_source: str = "none published"
    published: Published | None = None
    preference_scale: float | None = None
    modules: tuple[nn.Module, ...] = ()

    @property
    def needed_side(self) -> int | None:
        """Shorter side in pixels of an image that shows all the reward looks at.

        Twice what its model sees, since an image that was decoded small is not as clean as one
        that was made smaller. None for full size: finer detail counts.
        """
        return None if self.input_size is None else 2 * self.input_size

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Score [B], float32, of images [B, 3, H, W] in 0..1; no coupling over the batch."""


@dataclass(frozen=True)
class Term:
    """strength * score: one factor of a weight.

    Attributes:
        reward: the score.
        strength: nats per unit of score (1 / beta in the papers); negative asks for less of it.
        spread: if above 0, the strength is not yet known: a run measures the score's standard
            deviation and takes the strength that makes this many nats of it, with the sign of
            ``strength``.
    """

    reward: Reward
    strength: float
    spread: float = 0.0

    def __post_init__(self) -> None:
        check_strength(self.strength, self.reward.name)
        if not 0 <= self.spread < math.inf:
            raise ValueError(
                f"automatic strength of weight '{self.reward.name}' is {self.spread} nats; "
                "expected a finite number, 0 (off) or more."
            )

    @property
    def is_known(self) -> bool:
        """Whether nothing is left to measure; a strength of 0 is off, automatic or not."""
        return not self.spread or not self.strength

    def measured(self, deviation: float) -> Term:
        """The term with its strength made known.

        Args:
            deviation: standard deviation of the score over what the model draws.

        Raises:
            ValueError: the score does not vary, so no strength makes it.
        """
        if self.is_known:
            return self
        if not 0 < deviation < math.inf:
            raise ValueError(
                f"The automatic strength of weight '{self.reward.name}' needs a score that varies; "
                f"its standard deviation is {deviation}. Set a strength by hand (automatic 0)."
            )
        strength = math.copysign(self.spread / deviation, self.strength)
        return replace(self, strength=strength, spread=0.0)


@dataclass(frozen=True)
class Weight:
    """log w(image) = sum over terms of strength * score: a product of powers of weights.

    Attributes:
        terms: at least one.
    """

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("A weight has no terms; expected at least one reward.")

    @classmethod
    def of(cls, reward: Reward, strength: float, spread: float = 0.0) -> Weight:
        """A weight of one term; a negative spread turns the sign of the strength."""
        if spread < 0:
            strength, spread = -strength, -spread
        return cls((Term(reward, strength, spread),))

    @property
    def name(self) -> str:
        """The rewards' names, joined."""
        return " + ".join(term.reward.name for term in self.terms)

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each term; the second of two rewards of one name gets a number."""
        names = [term.reward.name for term in self.terms]
        return tuple(
            name if names.index(name) == i else f"{name} ({names[: i + 1].count(name)})"
            for i, name in enumerate(names)
        )

    @property
    def strengths(self) -> dict[str, float]:
        """Nats per unit of score of each term, by its label."""
        return {label: t.strength for label, t in zip(self.labels, self.terms, strict=True)}

    @property
    def differentiable(self) -> bool:
        """Whether every term has a gradient, or is off."""
        return all(term.reward.differentiable or not term.strength for term in self.terms)

    @property
    def is_off(self) -> bool:
        """Whether log w is 0 everywhere."""
        return all(term.strength == 0 for term in self.terms)

    @property
    def without_off(self) -> Weight:
        """The weight without the terms that are off; as it is where all are."""
        kept = tuple(term for term in self.terms if term.strength)
        return Weight(kept) if kept else self

    @property
    def is_measured(self) -> bool:
        """Whether all strengths are known."""
        return all(term.is_known for term in self.terms)

    @property
    def needed_side(self) -> int | None:
        """The largest that a term needs; None for full size."""
        sides = [term.reward.needed_side for term in self.terms]
        return None if None in sides else max(side for side in sides if side is not None)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The networks of all terms, each once."""
        return tuple(dict.fromkeys(m for term in self.terms for m in term.reward.modules))

    def __call__(self, images: Tensor) -> Tensor:
        """log w [B], nats, of images [B, 3, H, W] in 0..1."""
        return self.by_term(images).sum(dim=0)

    def by_term(self, images: Tensor) -> Tensor:
        """strength * score [terms, B], nats.

        Raises:
            ValueError: a strength is still to be measured.
        """
        if not self.is_measured:
            raise ValueError(
                f"The strength of weight '{self.name}' is automatic and has not been measured yet: "
                "a sampler does that at the start of its run. Set a strength by hand to use the "
                "weight without one."
            )
        values = [term.strength * term.reward(images) for term in self.terms]
        return torch.stack([value.to(images.device) for value in values])

    def power(self, exponent: float) -> Weight:
        """w to a power: every strength times ``exponent``."""
        check_strength(exponent, self.name)
        powers = (
            replace(t, strength=t.strength * exponent, spread=t.spread * abs(exponent))
            for t in self.terms
        )
        return Weight(tuple(powers))

    def measured(self, deviations: Mapping[int, float]) -> Weight:
        """The weight with all strengths known.

        Args:
            deviations: standard deviation of the score of each automatic term, by its number.
        """
        known = (t if t.is_known else t.measured(deviations[i]) for i, t in enumerate(self.terms))
        return Weight(tuple(known))


def product(weights: Sequence[Weight], exponents: Sequence[float]) -> Weight:
    """The product of powers of weights: the sum of exponent * log w.

    Raises:
        ValueError: no weights, or another number of exponents.
    """
    if not weights or len(weights) != len(exponents):
        raise ValueError(
            f"There are {len(weights)} weights and {len(exponents)} exponents; expected one "
            "exponent for each weight, and at least one weight."
        )
    powers = [weight.power(exponent) for weight, exponent in zip(weights, exponents, strict=True)]
    return Weight(tuple(term for power in powers for term in power.terms))


def check_strength(strength: float, name: str) -> None:
    """Refuse a strength that is not a finite number."""
    if not math.isfinite(strength):
        raise ValueError(
            f"strength of weight '{name}' is {strength}; expected a finite number (0 is off)."
        )
