"""Draw from the bundled model, plainly or with a weight: what the demo and the benchmarks share."""

from __future__ import annotations

import torch
from torch import Tensor

from ..guidance import LAGS, AutogradLogWeight, CachedGradient, RunState, Trace
from ..rewards import Weight
from .model import (
    SIGMA_MAX,
    SIGMA_MIN,
    DemoDenoiser,
    DemoUNet,
    empty_shape,
    labels_to_context,
    to_images,
)
from .sampler import guided, karras_sigmas, sample_ancestral, tilted

BATCH = 64  # pictures that share one stream of noise


def draw_pictures(
    network: DemoUNet,
    count: int,
    seed: int,
    *,
    shape: str | None = None,
    colour: str | None = None,
    cfg: float = 1.0,
    steps: int = 30,
    method: LAGS | None = None,
    weight: Weight | None = None,
    batch: int = BATCH,
) -> tuple[Tensor, Trace]:
    """Pictures [count, 3, 32, 32] in 0..1, and the trace of the first batch.

    The same seed starts from the same noise with every method. Without a method, or without a
    weight, the sampling is plain.

    Args:
        network: the demo UNet.
        count: how many pictures.
        seed: of all noise; batches continue from seed + their number.
        shape: label, or None for any.
        colour: label, or None for any.
        cfg: classifier-free guidance scale.
        steps: ancestral steps.
        method: guidance.
        weight: log w on images.
        batch: pictures per batch.
    """
    plain = DemoDenoiser(network, labels_to_context(shape, colour), cfg)
    sigmas = karras_sigmas(steps, SIGMA_MIN, SIGMA_MAX)
    pictures, first = [], Trace()
    for number, start in enumerate(range(0, count, batch)):
        trace, denoiser = first if number == 0 else Trace(), plain
        generator = torch.Generator().manual_seed(seed + number)
        noise = torch.randn(empty_shape(min(batch, count - start)), generator=generator)
        x = noise * sigmas[0]
        if method is not None and weight is not None:
            log_weight = on_latents(weight)
            state = RunState()
            x = tilted(method, plain, log_weight, x, sigmas[0], trace, state)
            cached = CachedGradient(log_weight, method.reuse)
            denoiser = guided(method, plain, cached, sigmas, trace, state)
        x = sample_ancestral(denoiser, x, sigmas, generator)
        pictures.append(to_images(x).clamp(0, 1))
    return torch.cat(pictures), first


def on_latents(weight: Weight) -> AutogradLogWeight:
    """A weight on images as a log-weight on the model's space."""
    return AutogradLogWeight(lambda z: weight(to_images(z)), weight.name)
