"""A search among plain KSampler runs for the greatest weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import Any

import comfy.model_management as mm
import comfy.sample
import latent_preview
from torch import Tensor

from ..guidance import AutogradLogWeight, Found, zero_order_search
from ..rewards import Weight
from .checks import check_colours, check_vae, seed_in_words
from .decoders import decoded
from .images import channels_first
from .sampling import SamplerInputs, begun_as_ksampler, prepare
from .scores import log_weight_of, scores_of

SEEDS = 2**64


def search(
    inputs: SamplerInputs, rounds: int, neighbours: int, radius: float
) -> tuple[dict[str, Any], list[float], str]:
    """The best of each image as a LATENT, log w of each, and the search in words.

    Args:
        inputs: of the node.
        rounds: how often the search goes on from the best so far.
        neighbours: images of each round.
        radius: share of fresh noise in a neighbour; 0 is all fresh.

    Raises:
        ValueError: an input that no run can use, or a strength that is not known.
    """
    weight = prepare(inputs)
    if not weight.is_measured:
        raise ValueError(
            "The weight has an automatic strength, which a search has nothing to measure by: "
            "set it by hand (automatic 0)."
        )
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

    fresh = _draws(start, inputs.seed, latent.get("batch_index"))
    around = radius or math.inf
    found = zero_order_search(
        sample, _judge(inputs.vae, weight), fresh, rounds, neighbours, around, inputs.steps
    )
    return {**left, "samples": found.samples}, found.log_w.tolist(), _in_words(found, radius)


def _judge(vae: Any, weight: Weight) -> AutogradLogWeight:
    """log w of finished latents, through ComfyUI's own decoding; no gradient is asked for."""

    def log_w(latents: Tensor) -> Tensor:
        return log_weight_of(weight, scores_of(weight, channels_first(decoded(vae, latents))))

    return AutogradLogWeight(log_w, weight.name)


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


def _in_words(found: Found, radius: float) -> str:
    """What a search took and gave."""
    kind = f"search within {radius:g}" if radius else "best"
    best = ", ".join(f"{value:.4g}" for value in found.log_w.tolist())
    return (
        f"{kind} of {found.value_calls} runs, {found.model_calls} model evaluations for each "
        f"image; log w {best}"
    )
