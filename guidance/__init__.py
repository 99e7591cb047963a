"""Weighted sampling in pure torch: guidance on a denoiser and a log-weight, no ComfyUI needed."""

from .contracts import AutogradLogWeight, Denoiser, LogWeight, ModelError, WeightError
from .finite_difference import DifferenceStep, jacobian_vector_product
from .held import HeldLogWeight
from .kernel import ancestral_keep, kernel_share
from .lags import LAGS, MODES, preset
from .mmsold import MMSOLD, Moments, PrincipalSpace, SmoothedScore, effective_size, log_shares
from .plan import Plan, compared, plan
from .schedules import (
    AutoSchedule,
    ChordSchedule,
    ConstantSchedule,
    HardGateSchedule,
    Measured,
    Schedule,
    UncertaintySchedule,
)
from .spread import score_deviation
from .trace import StepRecord, Trace
from .ve import VEView, ve_view

__all__ = [
    "LAGS",
    "MMSOLD",
    "MODES",
    "AutoSchedule",
    "AutogradLogWeight",
    "ChordSchedule",
    "ConstantSchedule",
    "Denoiser",
    "DifferenceStep",
    "HardGateSchedule",
    "HeldLogWeight",
    "LogWeight",
    "Measured",
    "ModelError",
    "Moments",
    "Plan",
    "PrincipalSpace",
    "Schedule",
    "SmoothedScore",
    "StepRecord",
    "Trace",
    "UncertaintySchedule",
    "VEView",
    "WeightError",
    "ancestral_keep",
    "compared",
    "effective_size",
    "jacobian_vector_product",
    "kernel_share",
    "log_shares",
    "plan",
    "preset",
    "score_deviation",
    "ve_view",
]
