"""Search KSampler: the baseline of every method, plain pictures of which the best is kept."""

from __future__ import annotations

import math
from itertools import count
from typing import Any

import comfy.model_management as mm
import comfy.sample
import latent_preview
import torch
from comfy_api.latest import io
from torch import Tensor

from ...guidance import AutogradLogWeight, Found, zero_order_search
from ...rewards import Weight
from ...runtime.adapters import as_weight
from ...runtime.checks import check_connected, check_denoise
from ...runtime.images import to_pictures
from ..sockets import CATEGORY, WeightSocket
from ..tools.score import scores_of
from .ksampler import (
    check_input,
    conditioning_inputs,
    denoise_input,
    sampler_inputs,
    seed_input,
    steps_and_cfg,
)

SEEDS = 2**64


def judge(vae: Any, weight: Weight) -> AutogradLogWeight:
    """log w of finished latents, through ComfyUI's own decoding; no gradient is asked for."""
    strengths = torch.tensor([term.strength for term in weight.terms])

    def log_w(latents: Tensor) -> Tensor:
        scores = scores_of(weight, to_pictures(vae.decode(latents)))
        return (strengths[:, None] * scores).sum(dim=0)

    return AutogradLogWeight(log_w, weight.name)


class LAGSSearchSampler(io.ComfyNode):
    """Many plain pictures, of which the best is kept."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSSearchSampler",
            display_name="Search KSampler",
            category=CATEGORY,
            description="KSampler again and again from other noise, keeping for each picture the "
            "one with the greatest w: best of N, or a search around the best noise so far. Not "
            "samples of w(x) p(x); what every other method has to beat at the same cost.",
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model; it is not changed."),
                seed_input("seed"),
                *steps_and_cfg(),
                *sampler_inputs(),
                *conditioning_inputs(),
                denoise_input(),
                io.Vae.Input("vae", tooltip="The model's own VAE: it shows the weight pictures."),
                WeightSocket.Input(
                    "weight", tooltip="What the best one has most of; it needs no gradient."
                ),
                io.Int.Input(
                    "rounds",
                    default=3,
                    min=0,
                    max=1000,
                    tooltip="How often the search goes on from the best so far. 0 is KSampler.",
                ),
                io.Int.Input(
                    "neighbours",
                    default=4,
                    min=1,
                    max=1000,
                    tooltip="Pictures tried in each round: 1 + rounds x neighbours runs in all.",
                ),
                io.Float.Input(
                    "radius",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    tooltip="Share of fresh noise in a neighbour, relative to the best noise so "
                    "far. 0.3 keeps most of the picture; 0 is all fresh, which is best of N.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="LATENT", tooltip="The best of each picture."),
                io.Float.Output(
                    display_name="log_w",
                    is_output_list=True,
                    tooltip="Natural log of the weight of each.",
                ),
                io.String.Output(display_name="summary", tooltip="What it took and gave."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        denoise: float,
        vae: Any,
        weight: Weight,
        rounds: int,
        neighbours: int,
        radius: float,
    ) -> io.NodeOutput:
        check_connected(
            model=model,
            positive=positive,
            negative=negative,
            latent_image=latent_image,
            vae=vae,
            weight=weight,
        )
        check_denoise(denoise, steps)
        check_input(latent_image)
        weight = as_weight(weight)
        if not weight.is_measured:
            raise ValueError(
                "The weight has an automatic strength, which a search has nothing to measure by: "
                "set it by hand (automatic 0)."
            )
        start = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"])
        preview = latent_preview.prepare_callback(model, steps)

        def sample(noise: Tensor) -> Tensor:
            mm.throw_exception_if_processing_interrupted()
            drawn: Tensor = comfy.sample.sample(
                model,
                noise,
                steps,
                cfg,
                sampler_name,
                scheduler,
                positive,
                negative,
                start,
                denoise=denoise,
                noise_mask=latent_image.get("noise_mask"),
                callback=preview,
                disable_pbar=True,
                seed=seed,
            )
            return drawn

        fresh = draws(start, seed, latent_image.get("batch_index"))
        around = radius or math.inf
        found = zero_order_search(
            sample, judge(vae, weight), fresh, rounds, neighbours, around, steps
        )
        latent = {**latent_image, "samples": found.pictures}
        return io.NodeOutput(latent, found.log_w.tolist(), told(found, radius))


def draws(latent: Tensor, seed: int, indices: Any) -> Any:
    """Fresh noise at every call: KSampler's own of this seed, then of the next ones."""
    seeds = count(seed)

    def draw() -> Tensor:
        noise: Tensor = comfy.sample.prepare_noise(latent, next(seeds) % SEEDS, indices)
        return noise

    return draw


def told(found: Found, radius: float) -> str:
    """What a search took and gave, in words."""
    kind = f"search within {radius:g}" if radius else "best"
    best = ", ".join(f"{value:.4g}" for value in found.log_w.tolist())
    return (
        f"{kind} of {found.value_calls} runs, {found.model_calls} model evaluations for each "
        f"picture; log w {best}"
    )
