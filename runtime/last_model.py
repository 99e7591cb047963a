"""Which model a node ran with last, so that the page can draw its schedule before the next run."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import comfy.model_sampling
from torch import Tensor

from ..guidance import DifferenceStep
from .run import difference_step

KEPT = 64  # nodes whose model is remembered


class StableDiffusion(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):  # type: ignore[misc]
    """The noise levels of SD and SDXL, for nodes that have not run yet."""


@dataclass
class Sampling:
    """What a schedule needs of a model; answers like one.

    Attributes:
        model_sampling: ComfyUI's object of that name.
        step: the finite difference that suits the model.
        source: where this comes from, in words.
        sigmas: noise levels that were connected instead of chosen by scheduler and steps.
    """

    model_sampling: Any
    step: DifferenceStep
    source: str
    sigmas: Tensor | None = None

    def get_model_object(self, name: str) -> Any:
        """As of a MODEL."""
        return getattr(self, name)


_remembered: OrderedDict[str, Sampling] = OrderedDict()


def remember(node: str | None, model: Any, sigmas: Tensor | None = None) -> None:
    """Note the model or the SIGMAS of a node that runs: its schedule is exact from then on."""
    if node is None:
        return
    if model is None:
        known = Sampling(StableDiffusion(), DifferenceStep(), "the connected SIGMAS", sigmas)
    else:
        sampling = model.get_model_object("model_sampling")
        source = "the connected model" if sigmas is None else "the connected SIGMAS"
        known = Sampling(sampling, difference_step(model), source, sigmas)
    _remembered[node] = known
    _remembered.move_to_end(node)
    while len(_remembered) > KEPT:
        _remembered.popitem(last=False)


def sampling_of(node: str) -> Sampling:
    """What a node ran with last; the noise levels of SD before its first run."""
    known = _remembered.get(node)
    return known or Sampling(StableDiffusion(), DifferenceStep(), "SD, until the node has run")
