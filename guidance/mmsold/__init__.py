"""MM-SOLD: new points from a few dozen, without any model."""

from .moments import Moments, retract, tangent
from .sampler import MMSOLD, log_shares
from .score import SmoothedScore
from .space import PrincipalSpace, effective_size

__all__ = [
    "MMSOLD",
    "Moments",
    "PrincipalSpace",
    "SmoothedScore",
    "effective_size",
    "log_shares",
    "retract",
    "tangent",
]
