"""The published particle methods, and ours, as choices of one engine.

DAS: Kim, Kim, Park, ICLR 2025, arXiv 2501.05803. TDS: Wu et al., NeurIPS 2023, arXiv 2306.17775.
FK-steering: Singhal et al., arXiv 2501.06848. URGE: arXiv 2605.17850; SURGE: 2605.18745.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..finite_difference import DifferenceStep
from ..methods import preset
from ..schedules import ChordSchedule
from ..shapes import PerGroup
from .drift import GradientDrift, MethodDrift
from .engine import ParticleSampler
from .resampling import multinomial, ssp
from .tempering import Exponential, NoTempering, Polynomial

FK_WEIGHINGS = 5  # FK-steering weighs at 20, 40, 60 and 80 of 100 steps, and the result
# The slope of log w at the end of the shift, right where log w is a parabola: a stronger drift
# leaves less even weights. A run without weights does better with less (``methods.preset``).
DAMPING = 2.0
SKIP_BELOW = 0.15  # what weights correct anyway is not measured late


@dataclass(frozen=True)
class Leading(Polynomial):
    """Linear tempering whose drift is whole from the first step.

    What is decided early (colour, layout) is past by the time that a linear lambda has grown, so
    the drift has to be there before the weights are. That the two differ costs no exactness: path
    weights know the drift that was taken.
    """

    def drift_temperature(self, step: int, steps: int, now: PerGroup) -> PerGroup:
        """1."""
        return torch.ones_like(now)


@dataclass(frozen=True)
class Preset:
    """What there is to know of a preset before it runs.

    Attributes:
        title: what people call it.
        particles: per group, as published or as we suggest.
        needs_vjp: whether its drift goes backward through the model.
        is_exact: whether its weighted particles are a sample of w p.
    """

    title: str
    particles: int
    needs_vjp: bool
    is_exact: bool = True


PRESETS: dict[str, Preset] = {
    "lags": Preset("LAGS with path weights", 4, False),
    "smc": Preset("weights alone", 4, False),
    "fk": Preset("FK-steering", 4, False),
    "das": Preset("DAS", 4, True),
    "das_1p": Preset("DAS, one particle", 1, True, is_exact=False),
    "tds": Preset("TDS", 4, True),
    "urge": Preset("URGE as published", 4, True),
    "urge_ess": Preset("URGE, resampled when uneven", 4, True),
}


def particle_preset(
    name: str, steps: int, difference: DifferenceStep | None = None
) -> ParticleSampler:
    """The sampler of a name in ``PRESETS``.

    - ``lags``: LAGS as the drift, the full step as in its ``balanced`` mode, whole from the first
      step, while the weights are tempered linearly; systematic resampling below N / 2. No backward
      pass through the model.
    - ``smc``: the same without drift; the weight needs no gradient.
    - ``fk``: no drift, full weight from the start, weighed and resampled about four times.
    - ``das``: drift by gradient, exponential tempering, SSP resampling below N / 2.
    - ``das_1p``: DAS for one particle per group: never resamples, and weights change nothing.
    - ``tds``: drift by gradient, no tempering, systematic resampling below N / 2.
    - ``urge``: drift by gradient, multinomial resampling at every step. Its tempering is not
      published; linear is SURGE's.
    - ``urge_ess``: the same with systematic resampling below N / 2, as SURGE, and limited shifts.

    Args:
        name: one of the names above.
        steps: of the run, which ``fk`` spreads its weighings over.
        difference: the finite-difference step of ``lags``; None is float32's.

    Raises:
        ValueError: unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"particle preset is {name!r}; expected one of {', '.join(PRESETS)}.")
    if name == "lags":
        method = replace(
            preset("balanced", difference=difference),
            schedule=ChordSchedule(DAMPING, late=1.0),
            skip_below=SKIP_BELOW,
        )
        return ParticleSampler(MethodDrift(method), tempering=Leading())
    if name == "smc":
        return ParticleSampler()
    if name == "fk":
        return ParticleSampler(
            tempering=NoTempering(),
            resampling=multinomial,
            ess_threshold=None,
            interval=max(1, round(steps / FK_WEIGHINGS)),
        )
    drift = GradientDrift()
    if name == "das":
        return ParticleSampler(drift, tempering=Exponential(), resampling=ssp, shift_limit=None)
    if name == "das_1p":
        return ParticleSampler(drift, tempering=Exponential(), ess_threshold=0.0, shift_limit=None)
    if name == "tds":
        return ParticleSampler(drift, tempering=NoTempering(), shift_limit=None)
    if name == "urge":
        return ParticleSampler(drift, resampling=multinomial, ess_threshold=None, shift_limit=None)
    return ParticleSampler(drift)
