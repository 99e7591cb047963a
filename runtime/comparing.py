"""The images of a sweep in one picture and one table, with their scores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from comfy_api.latest import ui
from torch import Tensor

from ..guidance import Trace
from ..plots.compare import Table, alike, draw
from ..rewards import Weight
from .decoders import decoded
from .finished import Entry
from .images import channels_first
from .page import FINISHED, page_server
from .scores import aligned, log_weight_of, scores_of, with_strengths
from .sweeps import NAMES, Sweep


class Judged(NamedTuple):
    """What a weight says of a batch of images.

    Attributes:
        name: of its score.
        scores: [B], of a weight of one term; None of several.
        log_w: [B].
    """

    name: str
    scores: Tensor | None
    log_w: Tensor

    def captions(self) -> list[str]:
        """What stands under each image."""
        log_w = [f"log w {text}" for text in alike(self.log_w.tolist())]
        if self.scores is None:
            return log_w
        return [f"{s}\n{w}" for s, w in zip(alike(self.scores.tolist()), log_w, strict=True)]


def compare(
    sweep: Sweep,
    images: Sequence[Tensor],
    weight: Weight | None,
    traces: Sequence[Trace],
    size: int,
    theme: str,
) -> tuple[Tensor, str]:
    """(picture, table in words) of the images [B, H, W, C] of every run of a sweep.

    Args:
        sweep: what the runs were.
        images: a batch for each run.
        weight: what judges the images; None for images alone.
        traces: of the runs, or none; an automatic strength is what they used.
        size: pixels of the largest image's longer side in the picture.
        theme: 'light' or 'dark'.

    Raises:
        ValueError: images or traces of another number of runs than the sweep's.
    """
    _check_count(len(images), "images", sweep)
    if traces:
        _check_count(len(traces), "traces", sweep)
    batches = [channels_first(batch).nan_to_num().clamp(0, 1).cpu() for batch in images]
    judged = None if weight is None else _judged(weight, batches, sweep, traces)
    picture = draw(_table(sweep, batches, judged), size, theme)
    return picture, _in_words(sweep, batches, judged, traces)


def _check_count(count: int, what: str, sweep: Sweep) -> None:
    """Refuse images that the sweep's names do not fit."""
    if count != len(sweep.settings):
        raise ValueError(
            f"Compare got {what} of {count} run{'s' * (count != 1)}, and the sweep has "
            f"{len(sweep.settings)}: connect every output of one Sweep to one sampler, what that "
            "sampler gives to VAE Decode and then here, and no other list to the sampler."
        )


def _judged(
    weight: Weight, batches: Sequence[Tensor], sweep: Sweep, traces: Sequence[Trace]
) -> Judged:
    """Scores of all images, one after the other; they may differ in size."""
    scores = torch.cat([scores_of(weight, batch) for batch in batches], dim=1)
    weight = with_strengths(_as_used(weight, sweep, traces), scores)
    log_w = log_weight_of(weight, scores)
    single = len(weight.terms) == 1
    return Judged(weight.name, scores[0] if single else None, log_w)


def _as_used(weight: Weight, sweep: Sweep, traces: Sequence[Trace]) -> Weight:
    """The weight with the automatic strengths that the runs chose, the mean of all."""
    terms = []
    for label, term in zip(weight.labels, weight.terms, strict=True):
        used = [
            trace.strengths[label] / settings.strength
            for trace, settings in zip(traces, sweep.settings, strict=False)
            if settings.strength and label in trace.strengths
        ]
        known = term.is_known or not used
        terms.append(term if known else replace(term, strength=sum(used) / len(used), spread=0.0))
    return Weight(tuple(terms))


def _table(sweep: Sweep, batches: Sequence[Tensor], judged: Judged | None) -> Table:
    """Rows of the sweep, one for each image of a batch, under its columns."""
    said = iter(judged.captions() if judged else [])
    captions = [[next(said, "") for _ in batch] for batch in batches]
    rows, images, texts = [], [], []
    for name, runs in zip(sweep.rows, sweep.cells, strict=True):
        count = max(len(batches[run]) for run in runs)
        for i in range(count):
            number = f"image {i + 1}" if count > 1 else ""
            rows.append(", ".join(filter(None, (name, number))))
            there = [run if i < len(batches[run]) else None for run in runs]
            images.append([None if r is None else batches[r][i].movedim(0, -1) for r in there])
            texts.append(["" if r is None else captions[r][i] for r in there])
    title = ", ".join(filter(None, (judged.name if judged else "", sweep.common)))
    means = _means(sweep, batches, judged) if judged and len(rows) > 1 else ()
    return Table(title, sweep.columns, rows, images, texts, means)


def _means(sweep: Sweep, batches: Sequence[Tensor], judged: Judged) -> list[str]:
    """What the images of each column have on average."""
    ends = list(accumulate((len(batch) for batch in batches), initial=0))

    def mean(values: Tensor, column: int) -> Tensor:
        runs = dict.fromkeys(row[column] for row in sweep.cells)  # a plain run once
        return torch.cat([values[ends[run] : ends[run + 1]] for run in runs]).mean()

    columns = range(len(sweep.columns))
    log_w = torch.stack([mean(judged.log_w, column) for column in columns])
    if judged.scores is None:
        return judged._replace(log_w=log_w).captions()
    scores = torch.stack([mean(judged.scores, column) for column in columns])
    return judged._replace(scores=scores, log_w=log_w).captions()


def _in_words(
    sweep: Sweep, batches: Sequence[Tensor], judged: Judged | None, traces: Sequence[Trace]
) -> str:
    """One line for each image, in the order of the runs."""
    lines, number = [["strength", "c", "mode", "seed", "image"]], 0
    if judged:
        lines[0] += [*([] if judged.scores is None else [judged.name]), "log w"]
    if traces:
        lines[0] += ["model calls", "seconds"]
    for run, (settings, batch) in enumerate(zip(sweep.settings, batches, strict=True)):
        for i in range(len(batch)):
            said = [f"{settings.strength:g}", f"{settings.c:g}", settings.mode, str(settings.seed)]
            said.append(str(i + 1))
            if judged:
                values = [] if judged.scores is None else [judged.scores]
                said += [f"{column[number]:.4f}" for column in (*values, judged.log_w)]
            if traces:
                said += _cost(traces[run])
            lines.append(said)
            number += 1
    return aligned(lines)


def _cost(trace: Trace) -> list[str]:
    """Model calls and seconds of a run; of a plain one nothing was noted."""
    is_known = trace.start is not None or trace.records
    return [str(trace.model_calls), f"{trace.seconds:.1f}"] if is_known else ["-", "-"]


def for_the_page(picture: Tensor) -> dict[str, Any]:
    """The picture as a file that the page can show, and its size."""
    (file,) = _files(picture)
    return {"image": dict(file), "height": picture.shape[1], "width": picture.shape[2]}


def show_finished(node: str | None, vae: Any, entries: Sequence[Entry]) -> None:
    """Show the page what a stopped list of runs has finished; what fails in that is logged.

    Args:
        node: the sampler's id.
        vae: decodes the latents.
        entries: of `sample_guided`.
    """
    server = page_server()
    if server is None or not entries:
        return
    names = [name for name in NAMES if len({entry.given[name] for entry in entries}) > 1]
    try:
        runs = [
            {"settings": _as_json(entry.given, names), "number": i + 1, "image": dict(file)}
            for entry in entries
            for i, file in enumerate(_files(decoded(vae, entry.made[0]["samples"])))
        ]
    except Exception as error:
        logging.warning("LAGS: what the stopped runs have finished cannot be shown: %s", error)
        return
    server.send_sync(FINISHED, {"node": node, "runs": runs}, server.client_id)


def _as_json(given: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Settings of a finished run by name; a seed as text, for JavaScript rounds great ones."""
    return {name: str(given[name]) if name == "seed" else given[name] for name in names}


def _files(images: Tensor) -> list[Any]:
    """Images as files that the page can show, in ComfyUI's temporary folder."""
    return list(ui.PreviewImage(images).as_dict()["images"])
