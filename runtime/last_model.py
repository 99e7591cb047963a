"""Which model a node ran with last, so that the page can draw its schedule before the next run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.model_sampling
from torch import Tensor

from ..guidance import DifferenceStep, Message
from .decoders import Decoding
from .price import Price
from .run import difference_step

KEPT = 64  # nodes whose model is remembered
MODEL = Message("connected_model", "the connected model")
SIGMAS = Message("connected_sigmas", "the connected SIGMAS")
UNKNOWN = Message("sd_until_run", "SD, until the node has run")


class StableDiffusion(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):  # type: ignore[misc]
    """The noise levels of SD and SDXL, for nodes that have not run yet."""


@dataclass
class Sampling:
    """What a schedule needs of a model; answers like one.

    Attributes:
        model_sampling: ComfyUI's object of that name.
        step: the finite difference that suits the model.
        source: where this comes from.
        sigmas: noise levels that were connected instead of chosen by scheduler and steps.
        prices: of the weight that it ran with, by what the weight looked through.
    """

    model_sampling: Any
    step: DifferenceStep
    source: Message
    sigmas: Tensor | None = None
    prices: Mapping[Decoding, Price] = field(default_factory=dict)

    def get_model_object(self, name: str) -> Any:
        """As of a MODEL."""
        return getattr(self, name)


_remembered: OrderedDict[str, Sampling] = OrderedDict()


def remember(
    node: str | None,
    model: Any,
    sigmas: Tensor | None = None,
    prices: Mapping[Decoding, Price] | None = None,
) -> None:
    """Note the model or the SIGMAS of a node that runs: its schedule is exact from then on.

    Args:
        node: its id in the graph.
        model: a MODEL; None for SIGMAS alone.
        sigmas: noise levels that were connected.
        prices: of its weight; None keeps those of its last run.
    """
    if node is None:
        return
    if prices is None:
        prices = sampling_of(node).prices
    if model is None:
        known = Sampling(StableDiffusion(), DifferenceStep(), SIGMAS, sigmas)
    else:
        sampling = model.get_model_object("model_sampling")
        source = MODEL if sigmas is None else SIGMAS
        known = Sampling(sampling, difference_step(model), source, sigmas, prices)
    _remembered[node] = known
    _remembered.move_to_end(node)
    while len(_remembered) > KEPT:
        _remembered.popitem(last=False)


def sampling_of(node: str) -> Sampling:
    """What a node ran with last; the noise levels of SD before its first run."""
    known = _remembered.get(node)
    return known or Sampling(StableDiffusion(), DifferenceStep(), UNKNOWN)
