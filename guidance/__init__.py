"""Weighted sampling in pure torch: guidance on a denoiser and a log-weight, no ComfyUI needed."""

from .ancestral import Ancestral, Chain, ancestral_keep, euler_ancestral
from .autograd import AutogradDenoiser, scaled_vjp
from .cached_gradient import CachedGradient
from .contracts import (
    AutogradLogWeight,
    Denoiser,
    DifferentiableDenoiser,
    LogWeight,
    ModelError,
    WeightError,
    checked_value,
)
from .distilled import FEW_STEPS, gives_finished_images
from .finite_difference import DifferenceStep, jacobian_vector_product
from .message import Message
from .methods import (
    AUTO_DAMPING_PER_C,
    CHORD_DAMPING_PER_C,
    DPS,
    LAGS,
    METHODS,
    MODES,
    MPGD,
    Balanced,
    CustomMethod,
    Fast,
    FreeDoM,
    LiDAR,
    Lookahead,
    Method,
    Paper,
    Step,
    Window,
    look_ahead,
    preset,
    time_travel,
)
from .mmsold import MMSOLD, Moments, PrincipalSpace, SmoothedScore, effective_size, log_shares
from .path_weights import PathWeights
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
from .search import Found, best_of, zero_order_search
from .step_correction import (
    Measurement,
    RunState,
    Start,
    noisy_step,
    plain_step,
    slope_along,
)
from .trace import StepRecord, Trace
from .ve import VEView, per_sample, ve_view
