"""The tilt table as an image: the share of the true shift, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..plots.style import COLOURS, figure

MARKERS = "osD^vPX*<>"
AXIS_ENDS = (-10.0, 180.0)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the rows of the tilt benchmark as a PNG."""
    guided = [row for row in rows if "seconds" in row]
    cells = list(dict.fromkeys((row["weight"], row["effective %"]) for row in guided))
    names = list(dict.fromkeys(row["method"] for row in guided))
    with figure(1, "light", 1.0) as (made, (axes,)):
        axes.axhspan(85, 115, color=COLOURS["light"][2], alpha=0.15, lw=0)
        axes.axhline(100, color=COLOURS["light"][2], lw=1)
        for i, name in enumerate(names):
            mine = [row for row in guided if row["method"] == name]
            places = [cells.index((row["weight"], row["effective %"])) for row in mine]
            offset = (i - (len(names) - 1) / 2) * 0.7 / max(1, len(names))
            axes.errorbar(
                [place + offset for place in places],
                [min(max(row["share of shift %"], AXIS_ENDS[0]), AXIS_ENDS[1]) for row in mine],
                yerr=[row["+-"] for row in mine],
                fmt=MARKERS[i % len(MARKERS)],
                ms=4,
                lw=1,
                color=COLOURS["light"][i % 6],
                label=name,
            )
        axes.set_ylim(*AXIS_ENDS)
        axes.set_ylabel("share of the true shift (%)")
        axes.set_xticks(range(len(cells)), [f"{name}\n{share:g} %" for name, share in cells])
        axes.tick_params(axis="x", labelsize=8)
        axes.set_xlabel("weight, and effective share of plain samples at its strength")
        axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        made.savefig(path)
