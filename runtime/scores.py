"""Honest numbers for finished images, and the best of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import ui
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..rewards import Weight
from . import models
from .images import channels_first
from .page import finite

CHUNK = 8  # images at once
SHOWN = 64  # images that the page shows with their scores
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


def log_weight_of(weight: Weight, scores: Tensor) -> Tensor:
    """log w [B] of scores [terms, B]; the strengths must be known."""
    strengths = torch.tensor([term.strength for term in weight.terms])
    return (strengths[:, None] * scores).sum(dim=0)


def judged(weight: Weight, scores: Tensor) -> Tensor | None:
    """log w [B] of scores [terms, B]; None for one image whose automatic strength nothing tells."""
    if scores.shape == (1, 1) and not weight.is_measured:
        return None
    return log_weight_of(with_strengths(weight, scores), scores)


def with_strengths(weight: Weight, scores: Tensor) -> Weight:
    """The weight with automatic strengths chosen by the spread over these images.

    Raises:
        ValueError: a single image of several terms, or a score that does not vary.
    """
    if weight.is_measured:
        return weight
    if scores.shape[1] < 2:
        raise ValueError(
            "Automatic strengths need at least two images to compare. Connect more images, or set "
            "the strengths by hand (automatic 0)."
        )
    spread = [row[row.isfinite()].std().item() for row in scores.double()]
    return weight.measured(dict(enumerate(spread)))


def ranked(log_w: Tensor, name: str) -> list[int]:
    """Numbers of the images by log w, best first; those without a number last, which is said.

    Args:
        log_w: [B].
        name: of the weight.
    """
    broken = log_w.isnan() | (log_w == torch.inf)
    if broken.any():
        logging.warning(
            "LAGS: weight '%s' gives no finite score for image %s of %d: ranked last.%s",
            *(name, ", ".join(map(str, broken.nonzero().flatten().tolist())), len(log_w)),
            " Look at these images, and run the weight's network in float32.",
        )
    kept = torch.where(broken, -torch.inf, log_w).tolist()
    return sorted(range(len(kept)), key=lambda i: (bool(broken[i]), -kept[i]))


def table(weight: Weight, scores: Tensor, log_w: Tensor | None, order: Sequence[int]) -> str:
    """Scores as text, best first: each term, the probability of preference where it has one."""
    columns: dict[str, Tensor] = {}
    for label, term, values in zip(weight.labels, weight.terms, scores, strict=True):
        columns[label] = values
        if term.reward.preference_scale is not None:
            logits = (term.reward.preference_scale * values).masked_fill(
                ~values.isfinite(), -torch.inf
            )
            columns[f"{label} preferred"] = logits.softmax(dim=0)
    if log_w is not None:
        columns["log w"] = log_w
    rows = [["rank", "image", *columns]]
    for rank, i in enumerate(order, 1):
        rows.append([str(rank), str(i), *(f"{values[i]:.4f}" for values in columns.values())])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines of text, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[cell.rjust(w) for cell, w in zip(row, widths, strict=True)] for row in rows]
    return "\n".join(map("  ".join, cells))


def chosen_latents(latents: dict[str, Any] | None, chosen: list[int], count: int) -> Any:
    """The LATENT of some images, in their order; a blocked output where no latents are connected.

    Args:
        latents: of all images.
        chosen: numbers of images.
        count: of all images.

    Raises:
        ValueError: another number of latents than of images.
    """
    if latents is None:
        return ExecutionBlocker(
            "Score Images has no latents to give: connect the LATENT that its images were decoded "
            "from."
        )
    samples = latents["samples"]
    if len(samples) != count:
        raise ValueError(
            f"There are {count} images and {len(samples)} latents: connect the LATENT that these "
            "images were decoded from."
        )
    left, mask = dict(latents), latents.get("noise_mask")
    if latents.get("batch_index") is not None:
        left["batch_index"] = [latents["batch_index"][i] for i in chosen]
    if mask is not None and len(mask) == count:
        left["noise_mask"] = mask[chosen]
    return {**left, "samples": samples[chosen]}


def thumbnails(images: Tensor, order: Sequence[int], scores: Sequence[float]) -> list[Any]:
    """The best images and their scores for the page, best first; the images as files."""
    best = list(order[:SHOWN])
    small = channels_first(images[best]).nan_to_num()
    factor = THUMBNAIL / max(small.shape[-2:])
    if factor < 1:
        size = [max(1, round(side * factor)) for side in small.shape[-2:]]
        small = torch.nn.functional.interpolate(small, size=size, mode="area")
    files = ui.PreviewImage(small.movedim(1, -1).cpu()).as_dict()["images"]
    return [
        {"rank": rank, "index": i, "score": finite(scores[i]), "image": dict(file)}
        for rank, (i, file) in enumerate(zip(best, files, strict=True), 1)
    ]
