"""A search among plain KSampler runs for the greatest weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import Any

import comfy.model_management as mm
import comfy.sample
import latent_preview
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..guidance import AutogradLogWeight, Found, zero_order_search
from ..guidance.search import Sample
from ..rewards import Weight
from .checks import check_colours, check_vae, seed_in_words
from .decoders import decoded
from .images import channels_first
from .sampling import SamplerInputs, begun_as_ksampler, prepare
from .scores import log_weight_of, scores_of, with_strengths

SEEDS = 2**64
MIXED = (
    "Search KSampler has no seed to give: with a radius an image's noise is mixed of several "
    "seeds'. Set radius to 0, or use its LATENT."
)
PILOTS = 4  # plain images, and two runs at least, by which an automatic strength is measured


def search(
    inputs: SamplerInputs, rounds: int, neighbours: int, radius: float
) -> tuple[dict[str, Any], list[float], str, list[Any]]:
    """The best of each image as a LATENT, log w of each, the search in words, each one's seed.

    Args:
        inputs: of the node.
        rounds: how often the search goes on from the best so far.
        neighbours: images of each round.
        radius: share of fresh noise in a neighbour; 0 is all fresh.

    Raises:
        ValueError: an input that no run can use.
    """
    weight = prepare(inputs).without_off
    model, latent = inputs.model, inputs.latent_image
    check_vae(inputs.vae, model)
    start, left = begun_as_ksampler(model, latent)
    _check_decoding(inputs.vae, start)
    preview = latent_preview.prepare_callback(model, inputs.steps)

    def sample(noise: Tensor) -> Tensor:
        mm.throw_exception_if_processing_interrupted()
        with seed_in_words(inputs.seed):
            return comfy.sample.sample(
                model,
                noise,
                *inputs.settings,
                start,
                denoise=inputs.denoise,
                noise_mask=latent.get("noise_mask"),
                callback=preview,
                disable_pbar=True,
                seed=inputs.seed,
            )

    def draws() -> Callable[[], Tensor]:
        return _draws(start, inputs.seed, latent.get("batch_index"))

    tried = _Tried(sample)
    if not weight.is_measured:
        draw, runs = draws(), max(2, math.ceil(PILOTS / len(start)))
        pilots = torch.cat([tried.first(draw()) for _ in range(runs)])
        weight = with_strengths(weight, _scores(inputs.vae, weight, pilots))
    around = radius or math.inf
    found = zero_order_search(
        tried, _judge(inputs.vae, weight), draws(), rounds, neighbours, around, inputs.steps
    )
    words = _in_words(found, radius) + tried.in_words(weight)
    seeds = (
        [ExecutionBlocker(MIXED)] * len(start) if radius else _seeds(found, draws(), inputs.seed)
    )
    return {**left, "samples": found.samples}, found.log_w.tolist(), words, seeds


class _Tried:
    """A plain sampler that knows the runs by which an automatic strength was measured."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._known: list[tuple[Tensor, Tensor]] = []
        self._spared = 0

    def first(self, noise: Tensor) -> Tensor:
        """Run, and keep what comes."""
        self._known.append((noise, self._sample(noise)))
        return self._known[-1][1]

    def __call__(self, noise: Tensor) -> Tensor:
        """Run, unless these very images are there."""
        for there, samples in self._known:
            if torch.equal(there, noise):
                self._spared += 1
                return samples
        return self._sample(noise)

    def in_words(self, weight: Weight) -> str:
        """What was measured, and at which cost; nothing where nothing was."""
        if not self._known:
            return ""
        further, images = len(self._known) - self._spared, sum(len(n) for n, _ in self._known)
        cost = f" ({further} further runs)" if further else ""
        strengths = ", ".join(f"{name} {value:.4g}" for name, value in weight.strengths.items())
        return f"; strength measured on {images} plain images{cost}: {strengths}"


def _judge(vae: Any, weight: Weight) -> AutogradLogWeight:
    """log w of finished latents, through ComfyUI's own decoding; no gradient is asked for."""

    def log_w(latents: Tensor) -> Tensor:
        return log_weight_of(weight, _scores(vae, weight, latents))

    return AutogradLogWeight(log_w, weight.name)


def _scores(vae: Any, weight: Weight, latents: Tensor) -> Tensor:
    """Every term's score of finished latents [terms, B]."""
    return scores_of(weight, channels_first(decoded(vae, latents)))


def _check_decoding(vae: Any, latents: Tensor) -> None:
    """Refuse a VAE that gives no image, by a small one and before all the runs.

    Raises:
        ValueError: another number of channels.
    """
    check_colours(decoded(vae, latents[:1, ..., :8, :8]).shape[-1])


def _draws(latent: Tensor, seed: int, indices: Any) -> Callable[[], Tensor]:
    """Fresh noise at every call: KSampler's own of this seed, then of the next ones."""
    seeds = count(seed)

    def draw() -> Tensor:
        return comfy.sample.prepare_noise(latent, next(seeds) % SEEDS, indices)

    return draw


def _seeds(found: Found, draw: Callable[[], Tensor], first: int) -> list[int]:
    """The seed whose noise each image began with."""
    seeds = [first] * len(found.noise)
    for further in range(found.value_calls):
        noise = draw()
        for i, row in enumerate(found.noise):
            if torch.equal(row, noise[i].to(row)):
                seeds[i] = (first + further) % SEEDS
    return seeds


def _in_words(found: Found, radius: float) -> str:
    """What a search took and gave."""
    kind = f"search within {radius:g}" if radius else "best"
    best = ", ".join(f"{value:.4g}" for value in found.log_w.tolist())
    return (
        f"{kind} of {found.value_calls} runs, {found.model_calls} model evaluations for each "
        f"image; log w {best}"
    )
