"""Score Images: honest numbers for finished pictures, and the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...rewards import Weight
from ...runtime import models
from ...runtime.adapters import as_weight
from ...runtime.checks import check_connected
from ...runtime.images import to_pictures
from ...runtime.page import finite
from ..sockets import CATEGORY, WeightSocket

CHUNK = 8  # pictures at once
SHOWN = 64  # pictures that the page shows with their scores
THUMBNAIL = 256  # pixels of their longer side


def scores_of(weight: Weight, pictures: Tensor) -> Tensor:
    """Every term's own score [terms, B], on its authors' scale, without strengths."""
    models.load(weight.modules)
    with torch.inference_mode(False), torch.no_grad():
        parts = [
            torch.stack([term.reward(part).float().cpu() for term in weight.terms])
            for part in pictures.split(CHUNK)
        ]
    return torch.cat(parts, dim=1)


def with_strengths(weight: Weight, scores: Tensor) -> Weight:
    """The weight with automatic strengths chosen by the spread over these pictures.

    Raises:
        ValueError: a single picture, or a score that does not vary.
    """
    if weight.is_measured:
        return weight
    if scores.shape[1] < 2:
        raise ValueError(
            "An automatic strength needs at least two pictures to compare. Set a strength by hand."
        )
    return weight.measured(dict(enumerate(scores.double().std(dim=1).tolist())))


def table(weight: Weight, scores: Tensor, log_w: Tensor, order: Sequence[int]) -> str:
    """Scores as text, best first: each term, the probability of preference where it has one."""
    columns: dict[str, Tensor] = {}
    for label, term, values in zip(weight.labels, weight.terms, scores, strict=True):
        columns[label] = values
        if term.reward.preference_scale is not None:
            columns[f"{label} preferred"] = (term.reward.preference_scale * values).softmax(dim=0)
    columns["log w"] = log_w
    names = ["rank", "image", *columns]
    rows = [
        [str(rank), str(i), *(f"{values[i]:.4f}" for values in columns.values())]
        for rank, i in enumerate(order, 1)
    ]
    widths = [max(len(row[c]) for row in [names, *rows]) for c in range(len(names))]
    lines = [
        "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True))
        for row in [names, *rows]
    ]
    return "\n".join(lines)


def thumbnails(images: Tensor, order: Sequence[int], scores: Sequence[float]) -> list[Any]:
    """The best pictures and their scores for the page, best first; the pictures as files."""
    best = list(order[:SHOWN])
    small = to_pictures(images[best])
    factor = THUMBNAIL / max(small.shape[-2:])
    if factor < 1:
        size = [max(1, round(side * factor)) for side in small.shape[-2:]]
        small = torch.nn.functional.interpolate(small, size=size, mode="area")
    files = ui.PreviewImage(small.movedim(1, -1).cpu()).as_dict()["images"]
    return [
        {"rank": rank, "index": i, "score": finite(scores[i]), "image": dict(file)}
        for rank, (i, file) in enumerate(zip(best, files, strict=True), 1)
    ]


class LAGSScoreImages(io.ComfyNode):
    """Scores of pictures, and the pictures by rank."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSScoreImages",
            display_name="Score Images",
            category=CATEGORY,
            description="Scores a batch of pictures by a weight and ranks them by log w. Scores "
            "are absolute, on the scale of their authors; for preference models a column tells how "
            "probable it is that people prefer each picture of this batch.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures to judge."),
                WeightSocket.Input("weight", tooltip="What they are judged by: any Weight node."),
                io.Int.Input(
                    "top_k",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="How many of the best to hand on; 0 is all of them, ranked.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The best pictures, best first."),
                io.String.Output(
                    display_name="table",
                    tooltip="Rank, number and all scores; Preview as Text (Preview Any) shows it.",
                ),
                io.Int.Output(
                    display_name="best_index", tooltip="Number of the best picture, from 0."
                ),
                io.Float.Output(
                    display_name="scores",
                    is_output_list=True,
                    tooltip="Score of each picture in its own order; log w where the weight has "
                    "several terms.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Tensor, weight: Weight, top_k: int) -> io.NodeOutput:
        check_connected(images=images, weight=weight)
        weight = as_weight(weight)
        scores = scores_of(weight, to_pictures(images))
        weight = with_strengths(weight, scores)
        strengths = torch.tensor([term.strength for term in weight.terms])
        log_w = (strengths[:, None] * scores).sum(dim=0)
        order: list[int] = log_w.argsort(descending=True, stable=True).tolist()
        text = table(weight, scores, log_w, order)
        chosen = order[:top_k] if top_k else order
        given: list[Any] = (scores[0] if len(scores) == 1 else log_w).tolist()
        shown = {
            "text": (text,),
            "lags_scores": thumbnails(images, order, given),
            "lags_scores_of": [weight.labels[0] if len(scores) == 1 else "log w"],
            "lags_scores_all": [len(order)],
        }
        return io.NodeOutput(images[chosen], text, order[0], given, ui=shown)
