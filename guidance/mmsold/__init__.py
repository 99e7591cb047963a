"""MM-SOLD: new points from a few dozen, without any model."""

from .moments import Moments, retract, tangent
from .sampler import MMSOLD, log_shares
from .score import SmoothedScore
from .space import PrincipalSpace, effective_size
