"""MM-SOLD on images or latents: what is learnt from, the run, and what comes out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import comfy.model_management as mm
import comfy.utils
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..guidance import MMSOLD, PrincipalSpace, effective_size, log_shares
from ..rewards import Weight
from .adapters import as_weight
from .checks import check_connected, check_latent, filled
from .decoders import decoded
from .images import channels_first
from .scores import scores_of, with_strengths

NOTHING = "Neither images nor latents is connected; expected one of them, to learn from."
FEWEST = 8  # images, in effect, below which there is nothing to learn from
PARTICLES_PER_DIRECTION = 4  # with hardly more particles than directions the constraint is a cage
NEAREST = 20  # images summed for sure by the score 'nearest', and as many drawn, as published
CHUNK = 8  # images through the VAE between two looks at the stop button


def new_images(
    method: MMSOLD,
    *,
    count: int,
    rank: int,
    seed: int,
    strength: float,
    images: Tensor | None = None,
    latents: dict[str, Any] | None = None,
    vae: Any = None,
    weight: Any = None,
) -> tuple[Any, Any]:
    """(IMAGE, LATENT) that vary as the given ones do; the arguments are the node's inputs.

    Raises:
        ValueError: nothing to learn from, too little, or a VAE is needed.
    """
    check_connected(**filled(images=images, latents=latents, vae=vae, weight=weight))
    if images is None and latents is None:
        raise ValueError(NOTHING)
    if images is not None and latents is not None:
        raise ValueError("Both images and latents are connected; expected one of them.")
    data = _given(images, latents, vae)
    log_w = None
    asked = None if weight is None else as_weight(weight)
    if asked is not None and strength != 0 and not asked.is_off:
        log_w = _weights_of(asked, strength, _shown(images, data, vae))
    rows = new_points(data.float().cpu().flatten(1), log_w, rank, count, method, seed)
    made = rows.unflatten(1, data.shape[1:]).to(mm.intermediate_device())
    return _outputs(made, latents is not None, vae)


def _in_chunks(run: Callable[[Tensor], Tensor], batch: Tensor, rows: int = CHUNK) -> Tensor:
    """A VAE's encode or decode over a batch, with looks at the stop button."""
    parts = []
    for part in batch.split(rows):
        mm.throw_exception_if_processing_interrupted()
        parts.append(run(part))
    return torch.cat(parts)


def _weights_of(weight: Weight, strength: float, pictures: Tensor) -> Tensor:
    """log w [n] of images [n, H, W, C]; it may be any score, with or without a gradient."""
    scores = scores_of(weight.power(strength), channels_first(pictures))
    known = with_strengths(weight.power(strength), scores)
    return torch.tensor([term.strength for term in known.terms]) @ scores


def new_points(
    data: Tensor, log_w: Tensor | None, rank: int, count: int, method: MMSOLD, seed: int
) -> Tensor:
    """Sample new rows.

    Args:
        data: [n, D], float32.
        log_w: [n], or None.
        rank: 0 for automatic.
        count: how many rows to return; more particles run where the rank needs them.
        method: its lengths in units of the distance between neighbours.
        seed: of all randomness.

    Returns:
        [count, D] float32.

    Raises:
        ValueError: too few points, or a weight that leaves too few.
        comfy.model_management.InterruptProcessingException: stopped.
    """
    shares = log_shares(data, log_w).exp()
    effective = effective_size(shares)
    if effective < FEWEST - 0.01:
        cause = "" if log_w is None else f", the weight leaves {effective:.1f} of them in effect"
        raise ValueError(
            f"There are {len(data)} images{cause}; expected at least {FEWEST}, better a few "
            "dozen. Give more images" + ("." if log_w is None else ", or lower the strength.")
        )
    space = PrincipalSpace.of(data, shares, rank or None)
    particles = max(count, PARTICLES_PER_DIRECTION * space.rank)
    logging.info(
        "LAGS: MM-SOLD on %d images (%.1f in effect): %d directions with %.1f %% of their "
        "variance, %d particles.",
        *(len(data), effective, space.rank, 100 * space.kept, particles),
    )
    bar = comfy.utils.ProgressBar(method.steps)

    def on_step(done: int, _: Tensor) -> None:
        mm.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, method.steps)

    # Double precision, which keeps the moments exact; not all kinds of GPU have it.
    device = mm.get_torch_device()
    device = device if device.type == "cuda" else torch.device("cpu")
    coordinates = space.encode(data).double().to(device)
    z = method.sample(coordinates, particles, seed, log_w, on_step)
    # The particles are alike in law, so the first are as good as any.
    return space.decode(z[:count].to(data.device))


def _given(images: Tensor | None, latents: dict[str, Any] | None, vae: Any) -> Tensor:
    """What to learn from: latents [n, C, h, w], or images [n, H, W, 3]."""
    if latents is not None:
        samples: Tensor = latents["samples"]
    else:
        pictures = channels_first(images).movedim(1, -1)
        if vae is None:
            return pictures
        # A video's VAE would take several images for the frames of one film.
        samples = _in_chunks(vae.encode, pictures, 1 if vae.latent_dim == 3 else CHUNK)
    check_latent(samples)
    return samples


def _shown(images: Tensor | None, data: Tensor, vae: Any) -> Tensor:
    """The images for the weight to judge."""
    if images is not None:
        return images
    if vae is None:
        raise ValueError("The weight judges images: connect the VAE that decodes the latents.")
    return _in_chunks(partial(decoded, vae), data)


def _outputs(made: Tensor, from_latents: bool, vae: Any) -> tuple[Any, Any]:
    """(IMAGE, LATENT); one that cannot be made stops what is connected to it, with the reason."""
    if not from_latents and vae is None:
        return made.clamp(0, 1), ExecutionBlocker(
            "MM-SOLD Sampler worked on pixels, so it has no latents: connect a VAE."
        )
    if vae is None:
        blocked = "MM-SOLD Sampler has only latents: connect a VAE, or use its LATENT output."
        return ExecutionBlocker(blocked), {"samples": made}
    return _in_chunks(partial(decoded, vae), made), {"samples": made}
