"""Score Images: honest numbers for finished images, and the best of them."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...rewards import Weight
from ...runtime.adapters import as_weight
from ...runtime.checks import check_connected, filled
from ...runtime.images import channels_first
from ...runtime.scores import chosen_latents, judged, ranked, scores_of, table, thumbnails
from ..inputs import dial
from ..sockets import CATEGORY, WeightSocket, found_by


class LAGSScoreImages(io.ComfyNode):
    """Scores of images, and the images by rank."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSScoreImages",
            display_name="Score Images",
            category=CATEGORY,
            description="Scores a batch of images by a weight and ranks them by log w. Scores are "
            "absolute, on the scale of their authors; for preference models a column gives the "
            "probability that people prefer each image of this batch.",
            **found_by(
                "rank images, pick the best, pickscore, aesthetic score, clip score, hps, "
                "compare images, reward, 评分, 排名, 选优, 美学评分"
            ),
            inputs=[
                io.Image.Input("images", tooltip="Connect the images to judge."),
                WeightSocket.Input(
                    "weight", tooltip="Connect what they are judged by: any Weight node."
                ),
                io.Int.Input(
                    "top_k",
                    **dial(0, 0, 4096),
                    tooltip="Choose how many of the best to output; 0 is all of them, ranked.",
                ),
                io.Latent.Input(
                    "latents",
                    optional=True,
                    tooltip="Connect the latents that the images were decoded from; they are "
                    "ranked too.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The best images, best first."),
                io.String.Output(
                    display_name="table",
                    tooltip="Rank, number and all scores; Preview as Text (Preview Any) shows it.",
                ),
                io.Int.Output(
                    display_name="best_index", tooltip="Number of the best image, from 0."
                ),
                io.Float.Output(
                    display_name="scores",
                    is_output_list=True,
                    tooltip="Score of each image in its own order; log w where the weight has "
                    "several terms.",
                ),
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="Latents of the best images, best first, for a second pass. Needs "
                    "latents.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, images: Tensor, weight: Weight, top_k: int, latents: Any = None
    ) -> io.NodeOutput:
        check_connected(images=images, weight=weight, **filled(latents=latents))
        weight = as_weight(weight)
        scores = scores_of(weight, channels_first(images))
        log_w = judged(weight, scores)
        order = ranked(scores[0] if log_w is None else log_w, weight.name)
        text = table(weight, scores, log_w, order)
        chosen = order[:top_k] if top_k else order
        given: list[Any] = (scores[0] if log_w is None or len(scores) == 1 else log_w).tolist()
        shown = {
            "text": (text,),
            "lags_scores": thumbnails(images, order, given),
            "lags_scores_of": [weight.labels[0] if len(scores) == 1 else "log w"],
            "lags_scores_all": [len(order)],
        }
        latent = chosen_latents(latents, chosen, len(order))
        return io.NodeOutput(images[chosen], text, order[0], given, latent, ui=shown)
