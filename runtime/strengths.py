"""Automatic strengths: how much each score varies over what the run's model draws."""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import Tensor

from ..guidance import LogWeight, Message, Trace
from ..rewards import Weight
from .lookahead import QuickImages, SamplerRun, weighed
from .page import warn

# Over seven prompts, scores and cfg scales of the bundled text model the standard deviation was
# right within a factor of 2.3 (root mean square of its logarithm), with 8 images 1.8; fewer steps
# leave artefacts that make scores vary where finished images agree, and so does a second-order
# sampler in as few. The noise is the same in every run.
IMAGES, STEPS, SAMPLER, SEED = 4, 6, "euler", 0
STRONG = 10.0  # nats, as the widget calls it


def measured(run: SamplerRun, weight: Weight, decoded: Callable[[Weight], LogWeight]) -> Weight:
    """A weight with its automatic strengths chosen, and noted in the run's trace.

    By quick plain images of the run's prompt, which do not depend on its seed or batch: a graph
    has one strength, and the next seed makes no quick images again.

    Args:
        run: about to begin.
        weight: with automatic strengths.
        decoded: a weight on latents.

    Raises:
        ValueError: a score that does not vary.
        WeightError: the weight broke its contract.
    """
    asked = {i: term for i, term in enumerate(weight.terms) if not term.is_known}
    alone = [decoded(Weight.of(term.reward, 1.0)) for term in asked.values()]
    found = weighed(QuickImages(run, IMAGES, STEPS, SEED, SAMPLER), alone)
    deviations = {i: deviation(one.log_w) for i, one in zip(asked, found, strict=True)}
    known = weight.measured(deviations)
    run.trace.measured = tuple(weight.labels[i] for i in asked)
    for i, spread in deviations.items():
        logging.info(
            "LAGS: the strength of weight '%s' is %.6g: %g nats for a standard deviation of %.4g "
            "in its score, over %d quick images.",
            *(weight.labels[i], known.terms[i].strength, asked[i].spread, spread, IMAGES),
        )
    return known


def warn_of_strength(weight: Weight, trace: Trace) -> None:
    """Say before a run which factors are stronger than images bear."""
    for label, term in zip(weight.labels, weight.terms, strict=True):
        low, high = term.reward.working_range
        if not term.is_known and term.spread > STRONG:
            strong = Message(
                "strong_automatic",
                "The automatic strength of weight '{name}' is {nats} nats, by the weight's node "
                "and the sampler; {limit} is strong. Lower one of the two if the image burns.",
                {"name": label, "nats": term.spread, "limit": STRONG},
            )
        elif term.is_known and abs(term.strength) > high:
            strong = Message(
                "strong_by_hand",
                "The strength of weight '{name}' is {strength}, by its node and the sampler; its "
                "working range is {low} to {high}. Lower one of the two if the image burns.",
                {"name": label, "strength": term.strength, "low": low, "high": high},
            )
        else:
            continue
        warn(trace, strong)


def deviation(scores: Tensor) -> float:
    """Standard deviation of a score [n] of one set of images, or of several sets [B, n]."""
    return scores.double().var(dim=-1).mean().sqrt().item()
