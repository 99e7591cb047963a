"""Search KSampler: the baseline of every method, plain images of which the best is kept."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...runtime.sampling import SamplerInputs
from ...runtime.search import search
from ..inputs import dial, ksampler_inputs
from ..sockets import CATEGORY, WeightSocket, found_by


class LAGSSearchSampler(io.ComfyNode):
    """Many plain images, of which the best is kept."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSSearchSampler",
            display_name="Search KSampler",
            category=CATEGORY,
            description="Runs KSampler many times from different noise and keeps, for each image, "
            "the result with the greatest w: best of N, or a search around the best noise so far. "
            "The results are not samples of w(x) p(x), but the baseline for every other method at "
            "the same cost.",
            **found_by(
                "best of n, rejection sampling, noise search, seed search, "
                "inference-time scaling, reward, 多次采样取最优, 种子搜索, 选优"
            ),
            inputs=[
                *ksampler_inputs(),
                io.Vae.Input(
                    "vae",
                    tooltip="Connect the model's own VAE: it decodes the images for the weight.",
                ),
                WeightSocket.Input(
                    "weight",
                    tooltip="Connect what decides which image is the best; it needs no gradient.",
                ),
                io.Int.Input(
                    "rounds",
                    **dial(3, 0, 1000),
                    tooltip="Choose how many rounds the search continues from the best so far. 0 "
                    "is KSampler.",
                ),
                io.Int.Input(
                    "neighbours",
                    **dial(4, 1, 1000),
                    tooltip="Set the images tried in each round: 1 + rounds x neighbours runs in "
                    "all.",
                ),
                io.Float.Input(
                    "radius",
                    **dial(0.0, 0.0, 100.0, 0.05),
                    tooltip="Set the share of fresh noise in a neighbour, relative to the best "
                    "noise so far. 0.3 keeps most of the image; 0 is entirely fresh "
                    "noise, which is best of N.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT", tooltip="The best result for each image of the batch."
                ),
                io.Float.Output(
                    display_name="log_w",
                    is_output_list=True,
                    tooltip="Natural logarithm of the weight of each.",
                ),
                io.String.Output(
                    display_name="summary", tooltip="Runs, model evaluations and log w."
                ),
                io.Int.Output(
                    display_name="seeds",
                    is_output_list=True,
                    tooltip="Seed of the noise that each began with, at radius 0. With it and a "
                    "sampler that draws no noise (euler), KSampler gives the same image.",
                ),
            ],
        )

    @classmethod
    def execute(cls, rounds: int, neighbours: int, radius: float, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(*search(SamplerInputs(**inputs), rounds, neighbours, radius))
