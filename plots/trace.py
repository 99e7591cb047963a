"""What runs did, one or several in one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from ..guidance import StepRecord, Trace
from .style import COLOURS, along, check_axis, figure, label_bottom, message, to_image

EMPTY = (
    "This trace is empty: the run was interrupted before its first step, or the weight's strength "
    "is 0."
)
LINE = 84  # characters of the legend side by side
LEGEND = 30  # pixels of a line of the legend


@dataclass(frozen=True)
class Curves:
    """A trace as numbers to draw, one entry per evaluation; NaN where there is nothing to draw.

    Attributes:
        label: of the run.
        sigma: noise level, variance-exploding.
        active: whether the step was guided.
        alpha: mean over the batch.
        log_w, low, high: mean, least and greatest over the batch, nats.
        ratio: RMS of the shift over that of the denoised picture, mean over the batch, percent.
        seconds: of the evaluation.
        spoiled: how many numbers of guided steps are not finite.
    """

    label: str
    sigma: list[float]
    active: list[bool]
    alpha: list[float]
    log_w: list[float]
    low: list[float]
    high: list[float]
    ratio: list[float]
    seconds: list[float]
    spoiled: int


def curves(trace: Trace) -> Curves:
    """The numbers of a trace."""
    points = [point(record) for record in trace.records]
    drawn = ("alpha", "log_w", "ratio")
    guided = [p for p in points if p["active"]]
    return Curves(
        label=trace.label or "run",
        **{name: [p[name] for p in points] for name in _NAMES},
        spoiled=sum(not math.isfinite(p[name]) for p in guided for name in drawn),
    )


_NAMES = ("sigma", "active", "alpha", "log_w", "low", "high", "ratio", "seconds")


def point(record: StepRecord) -> dict[str, Any]:
    """One evaluation as plain numbers, over the batch; NaN where it was not measured."""
    log_w = record.log_w
    ratio = None
    if record.shift_rms is not None and record.denoised_rms is not None:
        ratio = 100 * record.shift_rms / record.denoised_rms.clamp(min=1e-12)
    return {
        "sigma": _number(record.sigma_ve, torch.mean),
        "active": record.active,
        "alpha": _number(record.alpha, torch.mean),
        "log_w": _number(log_w, torch.mean),
        "low": _number(log_w, torch.min),
        "high": _number(log_w, torch.max),
        "ratio": _number(ratio, torch.mean),
        "seconds": record.seconds,
    }


def _number(values: Tensor | None, reduce: Any) -> float:
    return math.nan if values is None else float(reduce(values.float()))


def draw(
    traces: Sequence[Trace], axis: str = "step", theme: str = "light", scale: float = 1.0
) -> Tensor:
    """A picture [1, H, W, 3]: log w, alpha, size of the shift, seconds, along the runs.

    A legend of several lines adds to the height.

    Args:
        traces: one or several runs.
        axis: what runs along the bottom, 'step' (evaluations, counted) or 'sigma'.
        theme: 'light' or 'dark'.
        scale: 1 is 1024 x 768 pixels.

    Raises:
        ValueError: unknown axis or theme, or a scale out of range.
    """
    check_axis(axis)
    runs = [curves(trace) for trace in traces]
    if not any(run.sigma for run in runs):
        return message(EMPTY, theme, scale)
    more = math.ceil(len(runs) / _columns(runs)) - 1  # lines of the legend
    with figure(4, theme, scale, taller=LEGEND * more) as (canvas, axes):
        fill(axes, runs, axis, theme)
        return to_image(canvas)


def fill(axes: list[Any], runs: Sequence[Curves], axis: str, theme: str) -> None:
    """Draw into four axes: log w, alpha, shift, seconds."""
    for i, (run, colour) in enumerate(zip(runs, cycle(COLOURS[theme]), strict=False)):
        x = along(axis, run.sigma)
        wider = min(len(runs) - 1 - i, 3)  # rings show equal runs behind one another
        marks = {"color": colour, "lw": 1.5, "marker": "o", "ms": 3 + 1.5 * wider}
        axes[0].fill_between(x, run.low, run.high, color=colour, alpha=0.2, lw=0)
        axes[0].plot(x, run.log_w, label=run.label, **marks)
        axes[1].plot(x, run.alpha, **marks)
        axes[2].plot(x, run.ratio, **marks)
        axes[3].plot(x, run.seconds, color=colour, lw=1)
    names = ("log w (nats)", "alpha", "shift (%)", "time (s)")
    for panel, name in zip(axes, names, strict=True):
        panel.set_ylabel(name)
    title = _title(sum(run.spoiled for run in runs))
    axes[0].figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0}
    axes[0].legend(ncols=_columns(runs), **place)
    axes[1].set_ylim(-0.05, 1.1)
    axes[2].set_ylim(bottom=0)
    axes[3].set_ylim(bottom=0)
    label_bottom(axes[3], axis, "evaluation")


def _columns(runs: Sequence[Curves]) -> int:
    """How many runs stand side by side in the legend; 6 characters are for the line's sample."""
    return max(1, min(4, LINE // (6 + max(len(run.label) for run in runs))))


def _title(spoiled: int) -> str:
    if spoiled:
        return f"{spoiled} numbers of guided steps are not finite and are left out"
    return "mean and range over the batch; gaps: plain steps; shift: % of the picture"
