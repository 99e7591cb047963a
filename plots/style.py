"""What all plots share: size, type, colours that colour-blind readers tell apart, and themes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Okabe and Ito's palette, each theme in the order in which its colours stand out from the paper.
COLOURS = {
    "light": ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    "dark": ("#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#D55E00"),
}
THEMES = {
    "light": {"paper": "#ffffff", "ink": "#1a1a1a", "faint": "#a0a0a0"},
    "dark": {"paper": "#202225", "ink": "#eaeaea", "faint": "#85888d"},
}
WIDTH, HEIGHT = 1024, 768  # pixels at scale 1
DPI = 160  # so that type of 9 to 11 points is still read at 512 pixels


@contextmanager
def figure(
    panels: int, theme: str, scale: float, taller: int = 0
) -> Iterator[tuple[Any, list[Any]]]:
    """A figure with panels one above the other, and nothing of pyplot's global state.

    Args:
        panels: how many, sharing their x axis.
        theme: 'light' or 'dark'.
        scale: 1 is 1024 x 768 pixels.
        taller: pixels at scale 1 to add to the height.

    Raises:
        ValueError: unknown theme, or a scale out of 0.25 to 4.
    """
    check_theme(theme)
    if not 0.25 <= scale <= 4:
        raise ValueError(f"scale is {scale}; expected 0.25 to 4.")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    look = THEMES[theme]
    inked = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
    settings = {
        **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 10),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor"), look["paper"]),
        **dict.fromkeys(inked, look["ink"]),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
        "legend.fontsize": 9,
        "axes.titlelocation": "left",
        "axes.grid": True,
        "grid.color": look["faint"],
        "grid.alpha": 0.35,
    }
    with matplotlib.rc_context(settings):
        size = (WIDTH / DPI, (HEIGHT + taller) / DPI)
        made = Figure(figsize=size, dpi=DPI * scale, layout="constrained")
        FigureCanvasAgg(made)
        axes = made.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
        yield made, list(axes)


def check_theme(theme: str) -> None:
    """Refuse an unknown theme."""
    if theme not in THEMES:
        raise ValueError(f"theme is {theme!r}; expected one of {tuple(THEMES)}.")


def to_image(made: Any) -> Tensor:
    """A figure as [1, H, W, 3] in 0..1."""
    made.canvas.draw()
    pixels = np.asarray(made.canvas.buffer_rgba())[..., :3]
    return torch.from_numpy(pixels.astype(np.float32) / 255)[None]


def message(text: str, theme: str, scale: float) -> Tensor:
    """An image that says why there is nothing to draw."""
    import textwrap

    with figure(1, theme, scale) as (made, (axes,)):
        axes.set_axis_off()
        axes.text(0.5, 0.5, textwrap.fill(text, 60), ha="center", va="center")
        return to_image(made)


AXES = ("step", "sigma")


def check_axis(axis: str) -> None:
    """Refuse an unknown x axis."""
    if axis not in AXES:
        raise ValueError(f"axis is {axis!r}; expected one of {AXES}.")


def along(axis: str, sigma: Sequence[float] | Tensor) -> list[float]:
    """Where points stand along the bottom: their number from 1, or their noise level."""
    levels = [float(level) for level in sigma]
    return levels if axis == "sigma" else [float(i) for i in range(1, len(levels) + 1)]


def label_bottom(axes: Any, axis: str, counted: str) -> None:
    """Name and scale the shared x axis.

    Args:
        axes: the lowest panel.
        axis: 'step' or 'sigma'.
        counted: what is counted along 'step'.
    """
    if axis == "sigma":
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xlabel("noise level sigma (falls to the right)")
        return
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(counted)
