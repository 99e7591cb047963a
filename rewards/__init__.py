"""Weight functions w(x): scores of images, and log w as a sum of strength * score."""

from .aesthetic import Aesthetic
from .base import Published, Reward, Term, Weight, product
from .classifier import BalanceReward, ClassReward
from .clip_score import ClipScore
from .colour import ColourReward
from .frequency import FrequencyReward
from .function import FunctionReward
from .hps import HPSv2, HPSv21
from .image_reward import ImageReward
from .jpeg_size import JpegSizeReward
from .masked import MaskedReward
from .perceptual import PerceptualReward
from .pickscore import PickScore
from .reference import ReferenceReward, StyleReward
from .sharpness import SharpnessReward
from .symmetry import SymmetryReward

# Every kind of score; tests run over this list.
REWARDS: tuple[type[Reward], ...] = (
    PickScore,
    HPSv2,
    HPSv21,
    ImageReward,
    ClipScore,
    Aesthetic,
    ClassReward,
    BalanceReward,
    ReferenceReward,
    StyleReward,
    PerceptualReward,
    ColourReward,
    FrequencyReward,
    SharpnessReward,
    SymmetryReward,
    JpegSizeReward,
    MaskedReward,
    FunctionReward,
)
