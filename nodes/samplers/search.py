"""Search KSampler: the baseline of every method, plain pictures of which the best is kept."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...runtime.sampling import SamplerInputs
from ...runtime.search import search
from ..inputs import ksampler_inputs
from ..sockets import CATEGORY, WeightSocket


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
                *ksampler_inputs(),
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
    def execute(cls, rounds: int, neighbours: int, radius: float, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(*search(SamplerInputs(**inputs), rounds, neighbours, radius))
