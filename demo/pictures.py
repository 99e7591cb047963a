"""Draw from the bundled model, plainly or with a weight: what the demo and the benchmarks share."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..guidance import (
    LAGS,
    AutogradLogWeight,
    Balanced,
    CachedGradient,
    Denoiser,
    Step,
    Trace,
    ancestral_keep,
)
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
from .sampler import karras_sigmas, sample_ancestral

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
        trace = first if number == 0 else Trace()
        denoiser = guided_denoiser(plain, method, weight, trace, sigmas)
        generator = torch.Generator().manual_seed(seed + number)
        noise = torch.randn(empty_shape(min(batch, count - start)), generator=generator)
        x = tilted(noise * sigmas[0], sigmas[0], plain, method, weight, trace)
        x = sample_ancestral(denoiser, x, sigmas, generator)
        pictures.append(to_images(x).clamp(0, 1))
    return torch.cat(pictures), first


def tilted(
    x: Tensor,
    sigma: Tensor,
    plain: Denoiser,
    method: LAGS | None,
    weight: Weight | None,
    trace: Trace,
) -> Tensor:
    """The initial noise, tilted where the method does that."""
    if not isinstance(method, Balanced) or weight is None or not method.tilts_start:
        return x
    x, record = method.tilted_start(plain, on_latents(weight), x, sigma.expand(x.shape[0]))
    trace.add_start(record)
    return x


def on_latents(weight: Weight) -> AutogradLogWeight:
    """A weight on images as a log-weight on the model's space."""
    return AutogradLogWeight(lambda z: weight(to_images(z)), weight.name)


def guided_denoiser(
    plain: Denoiser, method: LAGS | None, weight: Weight | None, trace: Trace, sigmas: Tensor
) -> Denoiser:
    """A denoiser for ancestral steps along ``sigmas`` that follows the method and writes the trace.

    The plain one without a method or a weight.
    """
    if method is None or weight is None:
        return plain
    log_weight = CachedGradient(on_latents(weight), method.reuse)

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        keep, computed = ancestral_keep(sigmas, float(sigma[0])), log_weight.computed
        denoised, record = method(plain, log_weight, x, sigma, Step(keep))
        trace.add(replace(record, weight_calls=log_weight.computed - computed))
        return denoised

    return denoiser
