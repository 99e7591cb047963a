"""The schedule of a run before it is run: alpha and shift factor at every noise level."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..guidance import Plan
from .style import COLOURS, THEMES, along, check_axis, figure, label_bottom, to_image

REFERENCES = {"hard gate": ":", "constant": "--"}  # drawn in grey


def draw(
    made: Plan,
    label: str,
    others: dict[str, Tensor],
    axis: str = "step",
    theme: str = "light",
    scale: float = 1.0,
) -> Tensor:
    """An image [1, H, W, 3]: alpha above, the factor of the shift below.

    Args:
        made: of the chosen method.
        label: what the chosen method is called.
        others: alpha of other schedules at the same noise levels.
        axis: what runs along the bottom, 'step' or 'sigma'.
        theme: 'light' or 'dark'.
        scale: 1 is 1024 x 768 pixels.

    Raises:
        ValueError: unknown axis or theme, or a scale out of range.
    """
    check_axis(axis)
    with figure(2, theme, scale) as (canvas, axes):
        fill(axes, made, label, others, axis, theme)
        return to_image(canvas)


def fill(
    axes: list[Any], made: Plan, label: str, others: dict[str, Tensor], axis: str, theme: str
) -> None:
    """Draw into two axes, alpha and shift factor."""
    x, alpha, colour = along(axis, made.sigma), made.unskipped_alpha, COLOURS[theme][0]
    upper, factor = axes
    _chosen(upper, x, alpha, made.active, label, colour)
    _chosen(factor, x, made.sigma_ve**2 * alpha, made.active, label, colour)
    for i, (name, alpha) in enumerate(others.items()):
        look: dict[str, Any] = {"lw": 1, "color": COLOURS[theme][1 + i % 5]}
        if name in REFERENCES:
            look = {"lw": 1, "color": THEMES[theme]["faint"], "ls": REFERENCES[name]}
        upper.plot(x, alpha.tolist(), label=name, **look)
        factor.plot(x, (made.sigma_ve**2 * alpha).tolist(), **look)
    upper.set_ylabel("alpha (0 to 1)")
    upper.set_ylim(-0.05, 1.1)
    upper.set_title(
        f"{int(made.active.sum())} of {len(made.sigma)} steps guided (filled), "
        f"{made.total_calls} model calls, {made.relative_cost:.2f} x plain"
        + ("" if made.is_priced else ", and the weight")
    )
    factor.set_ylabel("sigma² alpha (factor of J v)")
    factor.set_yscale("symlog", linthresh=1e-3)
    factor.set_ylim(0, max(2 * factor.dataLim.y1, 1e-3))
    label_bottom(factor, axis, "step")
    upper.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _chosen(
    axes: Any, x: list[float], values: Tensor, active: Tensor, label: str, colour: str
) -> None:
    """The chosen method: a line, its dots filled where a step is guided and hollow where plain."""
    y = values.tolist()
    axes.plot(x, y, lw=2, color=colour, label=label)
    for shown, face in ((active, colour), (~active, "none")):
        where = shown.nonzero().flatten().tolist()
        axes.plot([x[i] for i in where], [y[i] for i in where], "o", ms=5, mfc=face, mec=colour)
