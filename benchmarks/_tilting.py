"""Plain samples weighted with w: the exact answer, and the strength that a wish asks for."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

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
    return least_strength(
        lambda strength: tilted_mean(has, scores, strength) < rate,
        f"makes the attribute come at a rate of {rate}; expected a score that is higher where the "
        "attribute is",
    )


def least_strength(too_weak: Callable[[float], bool], wish: str) -> float:
    """The least strength that is not too weak, by bisection.

    Args:
        too_weak: true below that strength and false above it.
        wish: what the strength is to do, for the error.

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
