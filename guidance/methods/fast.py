"""LAGS without the second evaluation: nearly the cost of plain sampling; acts late. Not published.

The Jacobian is taken for the identity, which it is at low noise. With reuse, one gradient of log w
serves several evaluations.
"""

from __future__ import annotations

from dataclasses import dataclass

from .paper import Paper

SKIP_BELOW = 0.02
REUSE = 2  # costs it nothing measurable; ``balanced`` would lose a little where log w bends


@dataclass(frozen=True)
class Fast(Paper):
    """D' = D + sigma^2 alpha v, v = grad log w at D: the paper's step, J v being v itself."""

    name = "LAGS, fast"
    compares = False
