"""Draw from the bundled model, plainly or with a weight: what the demo and the benchmarks share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..guidance import (
    LAGS,
    AutogradLogWeight,
    CachedGradient,
    PathWeights,
    RunState,
    Trace,
    UncertaintySchedule,
    compared,
    plan,
    preset,
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
            of_run = trace, RunState(), PathWeights()
            x = tilted(method, plain, log_weight, x, sigmas[0], *of_run)
            cached = CachedGradient(log_weight, method.reuse)
            denoiser = guided(method, plain, cached, sigmas, *of_run)
        x = sample_ancestral(denoiser, x, sigmas, generator)
        pictures.append(to_images(x).clamp(0, 1))
    return torch.cat(pictures), first


def on_latents(weight: Weight) -> AutogradLogWeight:
    """A weight on images as a log-weight on the model's space."""
    return AutogradLogWeight(lambda z: weight(to_images(z)), weight.name)


class Row(NamedTuple):
    """Images [B, 3, H, W] in 0..1 of one method, and what shall stand under each."""

    name: str
    images: Tensor
    said: Sequence[str] = ()


def save_rows(rows: Sequence[Row], path: Path, zoom: int = 1) -> None:
    """One row of enlarged images per method, its name on the left."""
    from PIL import Image, ImageDraw, ImageFont

    size, font = rows[0].images.shape[-1] * zoom, ImageFont.load_default(16)
    gap, margin, line = 4, 100, 22 if any(row.said for row in rows) else 0
    width, height = margin + len(rows[0].images) * (size + gap), size + gap + line
    canvas = Image.new("RGB", (width, len(rows) * height + gap), "white")
    pen = ImageDraw.Draw(canvas)
    for number, row in enumerate(rows):
        top = gap + number * height
        pen.text((8, top + size // 2 - 8), row.name, fill="black", font=font)
        for column, image in enumerate(row.images):
            left = margin + column * (size + gap)
            tile = Image.fromarray(_to_bytes(image))
            canvas.paste(tile.resize((size, size), Image.Resampling.NEAREST), (left, top))
            said = row.said[column] if row.said else ""
            pen.text((left + size // 2, top + size), said, fill="black", font=font, anchor="ma")
    canvas.save(path)


def _to_bytes(picture: Tensor) -> np.ndarray:
    return (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def plot_schedules(sigmas: Tensor, path: Path) -> None:
    """Alpha and shift of a run in balanced mode, beside the paper's schedule for several c."""
    from PIL import Image

    from ..plots.schedule import draw

    made = plan(preset("balanced"), sigmas, lambda sigma, noise, clean: clean + sigma * noise)
    others = {f"c = {c:g}": UncertaintySchedule(c) for c in (0.1, 1.0, 10.0, 100.0)}
    picture = draw(made, "balanced", compared(others, made.sigma_ve), axis="sigma")
    Image.fromarray(_to_bytes(picture[0].permute(2, 0, 1))).save(path)
