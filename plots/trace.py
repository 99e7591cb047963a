"""What runs did, one or several in one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
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
        ratio: RMS of the shift over that of the denoised image, mean over the batch, percent.
        seconds: of the evaluation.
        ess: of the particles, percent of their number, mean over the groups; or of the batch.
        resampled: share of the groups that were resampled, percent.
        spoiled: how many numbers of guided steps are not finite.
        no_sample: whether the run says that its images are no sample of w p.
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
    ess: list[float]
    resampled: list[float]
    spoiled: int
    no_sample: bool = False


def curves(trace: Trace) -> Curves:
    """The numbers of a trace."""
    points = [point(record) for record in trace.records]
    names = {field.name for field in fields(Curves)} - {"label", "spoiled", "no_sample"}
    return Curves(
        label=trace.label or "run",
        **{name: [p[name] for p in points] for name in names},
        spoiled=sum(map(_spoiled, trace.records, points)),
        no_sample=trace.no_sample is not None,
    )


def _spoiled(record: StepRecord, numbers: dict[str, Any]) -> int:
    """How many of a guided step's numbers were measured and are not finite."""
    measured = {"alpha": record.alpha, "log_w": record.log_w, "ratio": record.shift_rms}
    return sum(
        record.active and value is not None and not math.isfinite(numbers[name])
        for name, value in measured.items()
    )


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
        "ess": 100 * _number(record.ess, torch.mean),
        "resampled": 100 * _number(record.resampled, torch.mean),
    }


def _number(values: Tensor | None, reduce: Any) -> float:
    return math.nan if values is None else float(reduce(values.float()))


def draw(
    traces: Sequence[Trace], axis: str = "step", theme: str = "light", scale: float = 1.0
) -> Tensor:
    """An image [1, H, W, 3]: log w, alpha, size of the shift, seconds, along the runs.

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
    names = panels(runs)
    with figure(len(names), theme, scale, taller=LEGEND * more) as (canvas, axes):
        fill(dict(zip(names, axes, strict=True)), runs, axis, theme)
        return to_image(canvas)


def panels(runs: Sequence[Curves]) -> list[str]:
    """What is drawn of some runs, from top to bottom: keys of ``LABELS``."""
    weighed = any(math.isfinite(value) for run in runs for value in run.ess)
    pushed = any(math.isfinite(value) for run in runs for value in run.ratio) or not weighed
    absent = {"ess": not weighed, "ratio": not pushed}
    return [name for name in LABELS if not absent.get(name)]


LABELS = {
    "log_w": "log w (nats)",
    "alpha": "alpha",
    "ratio": "shift (%)",
    "ess": "ESS (%)",
    "seconds": "time (s)",
}


def fill(axes: dict[str, Any], runs: Sequence[Curves], axis: str, theme: str) -> None:
    """Draw into the axes of ``panels``."""
    for i, (run, colour) in enumerate(zip(runs, cycle(COLOURS[theme]), strict=False)):
        x = along(axis, run.sigma)
        wider = min(len(runs) - 1 - i, 3)  # rings show equal runs behind one another
        marks = {"color": colour, "lw": 1.5, "marker": "o", "ms": 3 + 1.5 * wider}
        axes["log_w"].fill_between(x, run.low, run.high, color=colour, alpha=0.2, lw=0)
        axes["log_w"].plot(x, run.log_w, label=run.label, **marks)
        axes["alpha"].plot(x, run.alpha, **marks)
        if "ratio" in axes:
            axes["ratio"].plot(x, run.ratio, **marks)
        if "ess" in axes:
            axes["ess"].plot(*_known(x, run.ess), color=colour, lw=1.5)
            axes["ess"].plot(x, _where_resampled(run), color=colour, lw=0, marker="v", ms=6)
        axes["seconds"].plot(x, run.seconds, color=colour, lw=1)
    for name, panel in axes.items():
        panel.set_ylabel(LABELS[name])
        panel.set_ylim(bottom=None if name == "log_w" else 0)
    most = max((a for run in runs for a in run.alpha if math.isfinite(a)), default=1.0)
    axes["alpha"].set_ylim(-0.05, 1.1 * max(most, 1.0))
    if "ess" in axes:
        axes["ess"].set_ylim(0, 105)
    title = _title(runs)
    axes["log_w"].figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0}
    axes["log_w"].legend(ncols=_columns(runs), **place)
    label_bottom(axes["seconds"], axis, "evaluation")


def _known(x: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """The points that have a number: a line goes on between them."""
    pairs = [(at, value) for at, value in zip(x, values, strict=True) if math.isfinite(value)]
    return [at for at, _ in pairs], [value for _, value in pairs]


def _where_resampled(run: Curves) -> list[float]:
    """The ESS where any group was resampled, else NaN."""
    return [e if r > 0 else math.nan for e, r in zip(run.ess, run.resampled, strict=True)]


def _columns(runs: Sequence[Curves]) -> int:
    """How many runs stand side by side in the legend; 6 characters are for the line's sample."""
    return max(1, min(4, LINE // (6 + max(len(run.label) for run in runs))))


def _title(runs: Sequence[Curves]) -> str:
    spoiled = sum(run.spoiled for run in runs)
    if spoiled:
        return f"{spoiled} numbers of guided steps are not finite and are left out"
    if small := sum(run.no_sample for run in runs):
        of = f" of {small} of {len(runs)} runs" if len(runs) > 1 else ""
        return f"small ESS at the end{of}: the images are no sample of w p, take particles"
    if any(math.isfinite(value) for run in runs for value in run.resampled):
        return "mean and range over all particles; ESS: effective share of them; triangles: copied"
    if any(math.isfinite(value) for run in runs for value in run.ess):
        return "mean and range over the batch; gaps: plain steps; ESS: of it as a sample of w p"
    return "mean and range over the batch; gaps: plain steps; shift: % of the image"
