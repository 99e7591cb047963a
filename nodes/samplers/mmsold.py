"""MM-SOLD Sampler: new pictures from a batch of pictures, without a diffusion model."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management as mm
import comfy.utils
import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ...guidance import MMSOLD, PrincipalSpace, effective_size, log_shares
from ...rewards import Weight
from ...runtime.adapters import as_weight
from ...runtime.checks import check_connected, check_latent, filled
from ...runtime.images import to_pictures
from ..sockets import CATEGORY, WeightSocket
from ..tools.score import scores_of, with_strengths

FEWEST = 8  # pictures, in effect, below which there is nothing to learn from
PARTICLES_PER_DIRECTION = 4  # with hardly more particles than directions the constraint is a cage
NEAREST = 20  # pictures summed for sure by the score 'nearest', and as many drawn, as published
CHUNK = 8  # pictures through the VAE between two looks at the stop button
SCORES = ("exact", "nearest")


def in_chunks(run: Any, batch: Tensor) -> Tensor:
    """A VAE's encode or decode over a batch, with looks at the stop button."""
    parts = []
    for part in batch.split(CHUNK):
        mm.throw_exception_if_processing_interrupted()
        parts.append(run(part))
    return torch.cat(parts)


def weights_of(weight: Weight, strength: float, pictures: Tensor) -> Tensor:
    """log w [n] of pictures [n, H, W, C]; it may be any score, with or without a gradient."""
    scores = scores_of(weight.power(strength), to_pictures(pictures))
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
            f"There are {len(data)} pictures{cause}; expected at least {FEWEST}, better a few "
            "dozen. Give more pictures" + ("." if log_w is None else ", or lower the strength.")
        )
    space = PrincipalSpace.of(data, shares, rank or None)
    particles = max(count, PARTICLES_PER_DIRECTION * space.rank)
    logging.info(
        "LAGS: MM-SOLD on %d pictures (%.1f in effect): %d directions with %.1f %% of their "
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


class LAGSMMSOLD(io.ComfyNode):
    """New pictures that vary as the given ones do."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSMMSOLD",
            display_name="MM-SOLD Sampler",
            category=CATEGORY,
            description="Makes new pictures from a few dozen alike ones, without any diffusion "
            "model: blends of neighbours, with the mean and the variation of the given set. Best "
            "on pictures that are aligned (faces, digits, icons, textures); photos of all sorts "
            "blend to a blur. With a VAE it works on latents, without on pixels.",
            inputs=[
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The pictures to learn from, of one size: 8 at least, better some "
                    "dozens to hundreds. Instead of latents.",
                ),
                io.Latent.Input(
                    "latents",
                    optional=True,
                    tooltip="A batch of latents to learn from. Instead of images.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Encodes the images and decodes the result. Without one, images are "
                    "worked on in pixels, which suits small ones.",
                ),
                WeightSocket.Input(
                    "weight",
                    optional=True,
                    tooltip="Which of the given pictures count more: the new ones follow w times "
                    "the set. Any Weight node, also those without a gradient.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-1000.0,
                    max=1000.0,
                    step=0.05,
                    tooltip="Power of the weight: 1 as its node sets it, 0 off, negative the "
                    "opposite. Too much leaves too few pictures, which is said.",
                ),
                io.Int.Input(
                    "count",
                    default=8,
                    min=1,
                    max=4096,
                    tooltip="How many new pictures. Mean and variation of the set hold exactly "
                    "for four times as many as the rank, or more.",
                ),
                io.Int.Input(
                    "steps",
                    default=100,
                    min=1,
                    max=100000,
                    tooltip="Langevin steps. 100 is published for pictures.",
                ),
                io.Float.Input(
                    "smoothing",
                    default=0.6,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    tooltip="sigma, in units of the distance from a picture to its nearest other "
                    "(median, in whitened coordinates). Below 0.4 the given pictures are copied, "
                    "0.5 to 0.8 blends neighbours, above 1 blends everything. 0 is off.",
                ),
                io.Float.Input(
                    "sigma_g",
                    default=0.05,
                    min=0.001,
                    max=10.0,
                    step=0.01,
                    tooltip="Blur around each picture, in the same units. Working range 0.01 to "
                    "0.1; more adds noise, less takes smaller steps.",
                ),
                io.Int.Input(
                    "draws",
                    default=8,
                    min=0,
                    max=10000,
                    step=2,
                    tooltip="Random shifts per picture and step that estimate the smoothing; "
                    "even. Published 2 to 32; 0 is no smoothing.",
                ),
                io.Combo.Input(
                    "score",
                    options=list(SCORES),
                    tooltip="exact: sums over all pictures. nearest: over the 20 nearest and 20 "
                    "others drawn for the rest, for thousands of pictures.",
                ),
                io.Int.Input(
                    "rank",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Principal components to work in; the rest of the detail is lost. "
                    "0: as many as hold 95 % of the variance, at most a third of the pictures.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="One seed, one result.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE", tooltip="The new pictures. From latents: needs the VAE."
                ),
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="The new latents; none where images were given without a VAE.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        strength: float,
        count: int,
        steps: int,
        smoothing: float,
        sigma_g: float,
        draws: int,
        score: str,
        rank: int,
        seed: int,
        images: Tensor | None = None,
        latents: dict[str, Any] | None = None,
        vae: Any = None,
        weight: Weight | None = None,
    ) -> io.NodeOutput:
        check_connected(**filled(images=images, latents=latents, vae=vae, weight=weight))
        if (images is None) == (latents is None):
            which = (
                "Neither images nor latents is" if images is None else "Both images and latents are"
            )
            raise ValueError(f"{which} connected; expected one of them, to learn from.")
        method = MMSOLD(sigma_g, smoothing, draws, steps, nearest=NEAREST * (score == SCORES[1]))
        data = given(images, latents, vae)
        log_w = None
        asked = None if weight is None else as_weight(weight)
        if asked is not None and strength != 0 and not asked.is_off:
            log_w = weights_of(asked, strength, shown(images, data, vae))
        rows = new_points(data.float().cpu().flatten(1), log_w, rank, count, method, seed)
        made = rows.unflatten(1, data.shape[1:]).to(mm.intermediate_device())
        return io.NodeOutput(*outputs(made, latents is not None, vae))


def given(images: Tensor | None, latents: dict[str, Any] | None, vae: Any) -> Tensor:
    """What to learn from: latents [n, C, h, w], or pictures [n, H, W, 3]."""
    if latents is not None:
        samples: Tensor = latents["samples"]
    else:
        pictures = to_pictures(images).movedim(1, -1)
        if vae is None:
            return pictures
        samples = in_chunks(vae.encode, pictures)
    check_latent(samples)
    return samples


def shown(images: Tensor | None, data: Tensor, vae: Any) -> Tensor:
    """The pictures for the weight to judge."""
    if images is not None:
        return images
    if vae is None:
        raise ValueError("The weight judges pictures: connect the VAE that decodes the latents.")
    return in_chunks(vae.decode, data)


def outputs(made: Tensor, from_latents: bool, vae: Any) -> tuple[Any, Any]:
    """(IMAGE, LATENT); one that cannot be made stops what is connected to it, with the reason."""
    if not from_latents and vae is None:
        return made.clamp(0, 1), ExecutionBlocker(
            "MM-SOLD Sampler worked on pixels, so it has no latents: connect a VAE."
        )
    if vae is None:
        blocked = "MM-SOLD Sampler has only latents: connect a VAE, or use its LATENT output."
        return ExecutionBlocker(blocked), {"samples": made}
    return in_chunks(vae.decode, made), {"samples": made}
