"""Guidance on a MODEL that carries guidance already: what one run must not know of another's looks.

The outer run evaluates the inner one's guided model, also beside the sampler's own evaluations.
Those leave no mark on the inner run: it answers each from what it knew before the sampler's own.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from comfy.patcher_extension import WrappersMP

from ..guidance import CachedGradient, RunState

OURS = (
    "lags_"  # beginning of the options, and of the wrappers, that runs of guidance are handed on in
)


@dataclass
class Memory:
    """What a guided run remembers from one evaluation to the next.

    Attributes:
        cached: log w, whose gradient may serve several evaluations.
        state: what the method remembers.
        is_aside: whether this is a copy for evaluations beside the sampler's own.
    """

    cached: CachedGradient
    state: RunState = field(default_factory=RunState)
    is_aside: bool = False

    def copied(self) -> Memory:
        """One that may be written into; tensors are never written into."""
        return replace(self, cached=copy(self.cached), state=copy(self.state))


def runs_in(options: dict[str, Any]) -> list[Any]:
    """The guided runs that model_options are handed on in, each with a ``memory``."""
    return [run for key, run in options.items() if str(key).startswith(OURS)]


def without_runs(options: dict[str, Any]) -> dict[str, Any]:
    """model_options with which every guidance lets an evaluation through."""
    return {key: value for key, value in options.items() if not str(key).startswith(OURS)}


def check_unguided(model: Any) -> None:
    """Refuse a MODEL with guidance for particles: it follows one chain of images, they are many.

    Raises:
        ValueError: it carries LAGS Guidance.
    """
    keys = model.wrappers.get(WrappersMP.SAMPLER_SAMPLE, {})
    if any(str(key).startswith(OURS) for key in keys):
        raise ValueError(
            "This MODEL comes from LAGS Guidance, which follows one image from step to step; a "
            "Particle KSampler's change places. Connect the MODEL from before LAGS Guidance, and "
            "both weights through Combine Weights."
        )
