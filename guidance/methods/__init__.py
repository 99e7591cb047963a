"""Guidance methods: each one file, one call per evaluation of the sampler."""

from __future__ import annotations

import math
from dataclasses import replace

from ..finite_difference import DifferenceStep
from ..schedules import ChordSchedule, UncertaintySchedule
from . import balanced, fast
from .balanced import Balanced
from .base import Cost, Method, Run, StartCost, Step, finish, plain_cost, predicted_gain
from .custom import CustomMethod
from .dps import DPS
from .fast import Fast
from .freedom import FreeDoM, Window, time_travel
from .lags import LAGS
from .lidar import LiDAR
from .lookahead import Lookahead, few_steps, look_ahead
from .mpgd import MPGD
from .paper import Paper

# Every method, by the name that people know; contract tests run over all of them.
METHODS: dict[str, type[Method]] = {
    "paper": Paper,
    "balanced": Balanced,
    "fast": Fast,
    "DPS": DPS,
    "FreeDoM": FreeDoM,
    "LiDAR": LiDAR,
    "MPGD": MPGD,
}
MODES = ("balanced", "fast", "paper")

PAPERS_C = 10.0
# One dial for all modes: c = 10 is the paper's schedule, or a damping of 1 or 0.1.
CHORD_DAMPING_PER_C = 0.1
AUTO_DAMPING_PER_C = 0.01


def preset(mode: str, c: float = PAPERS_C, difference: DifferenceStep | None = None) -> LAGS:
    """LAGS in one of three modes: see ``paper``, ``balanced`` and ``fast``.

    Args:
        mode: one of ``MODES``.
        c: uncertainty coefficient, > 0; larger is later and weaker guidance, in all modes.
        difference: the finite difference; None is float32's.

    Raises:
        ValueError: unknown mode, or c not above 0.
    """
    if not (math.isfinite(c) and c > 0):
        raise ValueError(
            f"uncertainty coefficient c is {c}; expected a finite number above 0 (the paper: 10)."
        )
    difference = difference or DifferenceStep()
    if mode == "paper":
        return Paper(UncertaintySchedule(c), difference)
    if mode == "balanced":
        return Balanced(
            ChordSchedule(CHORD_DAMPING_PER_C * c),
            replace(difference, full=True),
            skip_below=balanced.SKIP_BELOW,
            conditional=True,
            max_deviations=balanced.MAX_DEVIATIONS,
            serves=balanced.SERVES,
        )
    if mode == "fast":
        schedule = UncertaintySchedule(c)
        return Fast(schedule, difference, skip_below=fast.SKIP_BELOW, reuse=fast.REUSE)
    raise ValueError(f"mode is {mode!r}; expected one of {MODES}.")
