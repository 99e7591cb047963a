"""Guidance on a MODEL that carries guidance already: what one run must not know of another's looks.

The outer run evaluates the inner one's guided model, also beside the sampler's own evaluations.
Those leave no mark on the inner run: it answers each from what it knew before the sampler's own.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from comfy.patcher_extension import WrappersMP

from ..guidance import CachedGradient, Method, RunState

# How the names begin of guidance's wrappers, and of the options in which its runs are handed on.
OURS = "lags_"


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
    """The guided runs that are handed on in model_options, each with a ``memory``."""
    return [run for key, run in options.items() if str(key).startswith(OURS)]


def without_runs(options: dict[str, Any]) -> dict[str, Any]:
    """model_options with which every guidance lets an evaluation through."""
    return {key: value for key, value in options.items() if not str(key).startswith(OURS)}


def check_pair(method: Method, model: Any) -> None:
    """Refuse two guidances on a MODEL of which one goes backward through what the other does.

    Raises:
        ValueError: the MODEL carries one already, and either of them is DPS or FreeDoM.
    """
    for wrapper in _guidances_on(model):
        before = wrapper.__self__.method
        if method.through_model or before.through_model:
            raise ValueError(
                f"This MODEL carries LAGS Guidance with {before.name}, and {method.name} would go "
                "around it: DPS and FreeDoM go backward through the model alone. Connect the MODEL "
                "from before that LAGS Guidance, and both weights through Combine Weights."
            )


def check_unguided(model: Any) -> None:
    """Refuse a MODEL with guidance for particles: it follows one chain of images, they are many.

    Raises:
        ValueError: it carries LAGS Guidance.
    """
    if _guidances_on(model):
        raise ValueError(
            "This MODEL comes from LAGS Guidance, which follows one image from step to step; a "
            "Particle KSampler's change places. Connect the MODEL from before LAGS Guidance, and "
            "both weights through Combine Weights."
        )


def _guidances_on(model: Any) -> list[Any]:
    """The wrappers of a MODEL that are guidance's, by guidance."""
    found = model.wrappers.get(WrappersMP.SAMPLER_SAMPLE, {})
    return [wrappers[0] for key, wrappers in found.items() if str(key).startswith(OURS)]
