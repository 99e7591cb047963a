"""Weight functions w(x): scores of pictures, and log w as a sum of strength * score."""

from .base import Reward, Term, Weight
from .colour import ColourReward
from .frequency import FrequencyReward

__all__ = ["ColourReward", "FrequencyReward", "Reward", "Term", "Weight"]
