"""The tilt table on the bundled text-to-image model: what each way to look at its latents costs.

The prompt names a subject and leaves the background open; the weights want it blue: by its colour,
by the CLIP score and by the PickScore of a prompt that says so. Truth is measured on the VAE's
images; a guided run looks through the VAE, the small decoder, or the linear map to colours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..demo.scenes.diffusion import LATENT_RGB_FILE
from ..guidance import Method, PathWeights, Trace, preset
from ..guidance.path_weights import ess_share
from ..rewards import ClipScore, ColourReward, PickScore, Reward, Weight
from ._family import Task, run_guided, run_plain
from ._judge import Judge, load_judge
from ._report import printed
from ._scenes import BATCH, Scenes, images_of
from ._tilting import Cell, Plain

PROMPT, WISH = "a balloon", "a balloon on a blue background"
STEPS = 30
HUE = 240.0
WEIGHTS = ("colour", "CLIP score", "PickScore")
DECODERS = ("small", "vae", "latent-rgb", "small at half size")
METHODS: dict[str, Method] = {
    "paper": preset("paper"),
    "balanced": preset("balanced"),
    "balanced, measured in every step": replace(preset("balanced"), serves=1.0),
    "balanced, gradient serves 2": replace(preset("balanced"), reuse=2, serves=1.0),
    "fast": preset("fast"),
}


@dataclass(frozen=True)
class JudgeLook:
    """The judge as what ``Plain`` asks of a classifier."""

    judge: Judge

    @torch.no_grad()
    def confidence(self, images: Tensor) -> Tensor:
        """Logit of the clearest subject, [B]."""
        parts = [self.judge(part).subjects.amax(dim=1) for part in images.split(BATCH)]
        return torch.cat(parts)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """[B, F]."""
        return torch.cat([self.judge(part).features for part in images.split(BATCH)])


def rewards(scenes: Scenes) -> dict[str, Reward]:
    """The weights."""
    return {
        "colour": ColourReward("hue", hue=HUE),
        "CLIP score": scenes.scorer(ClipScore, WISH),
        "PickScore": scenes.scorer(PickScore, WISH),
    }


def decoders(scenes: Scenes) -> dict[str, Callable[[Tensor], Tensor]]:
    """Ways to look at latents [B, 4, h, w]: images [B, 3, H, W] about 0..1."""
    table = json.loads((scenes.folder / LATENT_RGB_FILE).read_text("utf-8"))
    factors, bias = torch.tensor(table["factors"]), torch.tensor(table["bias"]).view(3, 1, 1)

    def halved(latents: Tensor) -> Tensor:
        return scenes.small_images(
            F.interpolate(latents, scale_factor=0.5, mode="bilinear", antialias=True)
        )

    def linear(latents: Tensor) -> Tensor:
        return (torch.einsum("bchw,cr->brhw", latents, factors) + bias + 1) / 2

    def whole(latents: Tensor) -> Tensor:
        return images_of(scenes.vae.decode, latents)

    ways = (scenes.small_images, whole, linear, halved)
    return dict(zip(DECODERS, ways, strict=True))


def batches(count: int) -> list[tuple[int, int]]:
    """How many images each batch has, and its seed."""
    starts = range(0, count, BATCH)
    return [(min(BATCH, count - start), seed) for seed, start in enumerate(starts)]


def plain_latents(task: Task, count: int) -> Tensor:
    """[count, 4, h, w]."""
    return torch.cat([run_plain(task, groups, seed) for groups, seed in batches(count)])


def guided_latents(task: Task, count: int, method: Method) -> tuple[Tensor, list[Trace]]:
    """[count, 4, h, w] from the noise of the plain ones, and what was done, by batch."""
    sigmas = task.sigmas(task.steps)
    runs = [run_guided(task, method, sigmas, *batch, PathWeights()) for batch in batches(count)]
    return torch.cat([latents for latents, _ in runs]), [trace for _, trace in runs]


def prepared(scenes: Scenes, judge: Judge, cfg: float, count: int, folder: Path | None) -> Plain:
    """The plain samples, kept in a folder for a later run where one is given."""
    from safetensors.torch import load_file, save_file

    kept = folder / f"scenes_{count}_cfg_{cfg:g}.safetensors" if folder else None
    if kept is not None and kept.is_file():
        latents = load_file(kept)["latents"]
    else:
        nothing = Weight.of(ColourReward("hue", hue=HUE), 0.0)
        latents = plain_latents(scenes.task(PROMPT, nothing, cfg, STEPS), count)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_file({"latents": latents}, kept)
    return Plain.of(scenes.images(latents), JudgeLook(judge))


def guided_row(
    scenes: Scenes, cell: Cell, name: str, decoder: str, cfg: float, count: int
) -> dict[str, Any]:
    """What a method makes of one cell through one decoder."""
    weight = Weight.of(cell.reward, cell.strength)
    task = scenes.task(PROMPT, weight, cfg, STEPS, decoders(scenes)[decoder])
    start = perf_counter()
    latents, traces = guided_latents(task, count, METHODS[name])
    known = [trace.log_weights for trace in traces if trace.log_weights is not None]
    images = scenes.images(latents)
    seconds = perf_counter() - start
    with torch.no_grad():
        scores = cell.reward(images)
    features = cell.plain.classifier.features(images).mean(dim=0)
    return {
        **cell.row(name),
        "decoder": decoder,
        "cfg": cfg,
        **cell.captured(scores - cell.scores[:count], float(scores.std())),
        "feature distance": cell.distance(features),
        "broken %": 100 * float(cell.plain.broken(images).mean()),
        **({"ESS %": 100 * float(ess_share(torch.cat(known)))} if known else {}),
        "seconds": seconds,
    }


def rows(
    scenes: Scenes,
    plain_count: int,
    guided_count: int,
    shares: Sequence[float],
    weights: Sequence[str],
    methods: Sequence[str],
    looks: Sequence[str],
    cfgs: Sequence[float],
    folder: Path | None,
) -> list[dict[str, Any]]:
    """The table; ``shares`` are effective ones, 0..1."""
    judge, known = load_judge(), rewards(scenes)
    found: list[dict[str, Any]] = []
    for cfg in cfgs:
        plain = prepared(scenes, judge, cfg, plain_count, folder)
        for weight in weights:
            for share in shares:
                with torch.no_grad():
                    cell = Cell.of(weight, known[weight], share, plain)
                for name in methods:
                    for decoder in looks:
                        one = guided_row(scenes, cell, name, decoder, cfg, guided_count)
                        found.append(printed(one))
    return found
