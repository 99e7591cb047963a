"""Weighted sampling in pure torch: guidance on a denoiser and a log-weight, no ComfyUI needed."""

from .cached_gradient import HeldLogWeight
from .contracts import AutogradLogWeight, Denoiser, LogWeight, ModelError, WeightError
from .finite_difference import DifferenceStep, jacobian_vector_product
from .methods.dps import DPS
from .methods.freedom import FreeDoM, Window, time_travel
from .methods.lags import LAGS, MODES, preset
from .methods.lidar import LiDAR, Lookahead, look_ahead
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
from .score_std import score_deviation
from .search import Found, best_of, zero_order_search
from .step_correction import ancestral_keep, kernel_share
from .trace import StepRecord, Trace
from .ve import VEView, ve_view

__all__ = [
    "DPS",
    "LAGS",
    "MMSOLD",
    "MODES",
    "AutoSchedule",
    "AutogradLogWeight",
    "ChordSchedule",
    "ConstantSchedule",
    "Denoiser",
    "DifferenceStep",
    "Found",
    "FreeDoM",
    "HardGateSchedule",
    "HeldLogWeight",
    "LiDAR",
    "LogWeight",
    "Lookahead",
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
    "Window",
    "ancestral_keep",
    "best_of",
    "compared",
    "effective_size",
    "jacobian_vector_product",
    "kernel_share",
    "log_shares",
    "look_ahead",
    "plan",
    "preset",
    "score_deviation",
    "time_travel",
    "ve_view",
    "zero_order_search",
]
