"""The paper's experiment as an image: the judged gain against time, and against image quality."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..plots.style import COLOURS, figure

MARKERS = "osD^vPX*<>h"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the frontier as a PNG: one marker per method, its strengths joined by a line."""
    mine = [row for row in rows if row["table"] != "c"]
    names = list(dict.fromkeys(row["method"] for row in mine))
    with figure(2, "light", 1.0) as (made, panels):
        for axes, (column, label) in zip(
            panels,
            (("time", "time (LAGS = 1)"), ("Frechet", "Frechet distance")),
            strict=True,
        ):
            for i, name in enumerate(names):
                points = sorted(
                    (row for row in mine if row["method"] == name), key=lambda row: row["nats"]
                )
                axes.errorbar(
                    [row["fulfilled %"] for row in points],
                    [row[column] for row in points],
                    xerr=[row["fulfilled +-"] for row in points],
                    marker=MARKERS[i % len(MARKERS)],
                    ms=5,
                    lw=0.8,
                    color=COLOURS["light"][i % 6],
                    label=name,
                )
            axes.set_ylabel(label)
        panels[0].set_yscale("log", base=2)
        panels[0].yaxis.set_major_formatter("{x:g}")
        panels[1].set_xlabel("judge: images with all that was asked for, percent")
        panels[0].legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=7)
        made.savefig(path)
