"""Images of schedules and runs, compared by the numbers that are drawn."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lags_pack.guidance import StepRecord, Trace, UncertaintySchedule, compared, plan, preset
from lags_pack.plots import schedule, trace
from lags_pack.plots.style import HEIGHT, WIDTH, figure, message
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
LEVELS = torch.tensor([10.0, 3.0, 1.0, 0.3, 0.1, 0.0])


def eps(sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
    return latent + sigma.view(-1, 1, 1, 1) * noise


def record(sigma: float, log_w: list[float], active: bool = True) -> StepRecord:
    levels = torch.full((len(log_w),), sigma)
    if not active:
        return StepRecord.skipped(levels, 0.5)
    ones = torch.ones_like(levels)
    values = torch.tensor(log_w)
    return StepRecord(levels, True, 0.5 * ones, values, ones, 0.2 * ones, 2 * ones, 2, 1, 1.5)


def named(runs: list[trace.Curves], axes: list[Any]) -> dict[str, Any]:
    return dict(zip(trace.panels(runs), axes, strict=True))


def run(label: str = "a") -> Trace:
    made = Trace(label)
    for sigma, values in ((10.0, [0.0, 2.0]), (1.0, [1.0, 5.0])):
        made.add(record(sigma, values))
    made.add(record(0.1, [0.0, 0.0], active=False))
    return made


@pytest.mark.parametrize("axis", ["step", "sigma"])
def test_schedule_curves_are_the_plans_numbers(axis: str) -> None:
    made = plan(preset("fast"), LEVELS, eps)
    others = compared({"c = 1": UncertaintySchedule(1.0)}, made.sigma_ve)
    with figure(2, "light", 1.0) as (_, axes):
        schedule.fill(axes, made, "fast", others, axis, "light")
        x = [1.0, 2, 3, 4, 5] if axis == "step" else made.sigma.tolist()
        for panel, factor in zip(axes, (1.0, made.sigma_ve**2), strict=True):
            line, filled, hollow, other = panel.lines
            values = made.unskipped_alpha * factor
            assert list(line.get_xdata()) == x
            assert list(line.get_ydata()) == values.tolist()
            assert list(filled.get_ydata()) == values[made.active].tolist()
            assert list(hollow.get_ydata()) == values[~made.active].tolist()
            assert list(other.get_ydata()) == (others["c = 1"] * factor).tolist()
        names = [text.get_text() for text in axes[0].get_legend().get_texts()]
        assert names == ["fast", "c = 1"]
        assert f"{int(made.active.sum())} of 5 steps" in axes[0].get_title(loc="left")
        assert axes[1].get_xlabel() and axes[0].get_ylabel() and axes[1].get_ylabel()
        if axis == "sigma":
            assert axes[1].xaxis_inverted() and axes[1].get_xscale() == "log"


def test_trace_curves_are_the_records_numbers() -> None:
    curves = trace.curves(run())
    assert curves.sigma == pytest.approx([10.0, 1.0, 0.1])
    assert curves.log_w[:2] == [1.0, 3.0] and math.isnan(curves.log_w[2])
    assert curves.low[:2] == [0.0, 1.0] and curves.high[:2] == [2.0, 5.0]
    assert curves.alpha[:2] == [0.5, 0.5]
    assert curves.ratio[:2] == pytest.approx([10.0, 10.0])
    assert curves.seconds == [1.5, 1.5, 0.5]
    assert curves.spoiled == 0
    both = [curves, trace.curves(run("b"))]
    assert trace.panels(both) == ["log_w", "alpha", "ratio", "seconds"]
    with figure(4, "dark", 1.0) as (_, axes):
        trace.fill(named(both, axes), both, "step", "dark")
        drawn = [list(panel.lines[0].get_ydata()) for panel in axes]
        wanted = [curves.log_w, curves.alpha, curves.ratio, curves.seconds]
        for found, expected in zip(drawn, wanted, strict=True):
            assert found == pytest.approx(expected, nan_ok=True)
        assert [t.get_text() for t in axes[0].get_legend().get_texts()] == ["a", "b"]
        colours = {panel.lines[i].get_color() for panel in axes for i in (0, 1)}
        assert len(colours) == 2
        assert all(panel.get_ylabel() for panel in axes) and axes[3].get_xlabel() == "evaluation"


def weighing(sigma: float, ess: list[float] | None, copied: bool) -> StepRecord:
    """A step of particles: three groups; None is a step that weighs nothing."""
    levels, none = torch.tensor([sigma]), (None, None, None)
    if ess is None:
        return StepRecord(levels, True, None, None, *none, 8, 8, 0.5)
    alpha, log_w = torch.full((3,), 0.25), torch.tensor([0.0, 2.0, 4.0])
    record = StepRecord(levels, True, alpha, log_w, *none, 8, 8, 0.5)
    return replace(record, ess=torch.tensor(ess), resampled=torch.tensor([copied, False, False]))


def test_particles_show_their_effective_size_and_where_they_were_copied() -> None:
    made = Trace("particles")
    made.add(weighing(10.0, [0.5, 1.0, 0.6], True))
    made.add(weighing(1.0, None, False))
    made.add(weighing(0.1, [0.75, 0.75, 0.75], False))
    curves = trace.curves(made)
    assert curves.spoiled == 0, "what was not measured is not spoiled"
    assert curves.ess == pytest.approx([70.0, math.nan, 75.0], nan_ok=True)
    assert curves.resampled == pytest.approx([100 / 3, math.nan, 0.0], nan_ok=True)
    assert trace.panels([curves]) == ["log_w", "alpha", "ess", "seconds"]
    both = [curves, trace.curves(run())]
    assert trace.panels(both) == ["log_w", "alpha", "ratio", "ess", "seconds"]
    with figure(5, "light", 1.0) as (_, axes):
        trace.fill(named(both, axes), both, "step", "light")
        line, marks, *others = axes[3].lines
        known = list(line.get_xdata()), list(line.get_ydata())
        assert known == ([1.0, 3.0], pytest.approx([70.0, 75.0])), "the line goes on between them"
        copied = [70.0, math.nan, math.nan]
        assert list(marks.get_ydata()) == pytest.approx(copied, nan_ok=True)
        assert marks.get_marker() == "v" and axes[3].get_ylabel() == "ESS (%)"
        assert all(math.isnan(value) for other in others for value in other.get_ydata())
    assert trace.draw([made, run()]).std() > 0.01


def test_the_title_says_of_how_many_runs_the_images_are_no_sample() -> None:
    """Red before: of two runs it was said of "those images", whichever they were."""
    fine = trace.curves(run())
    small = replace(fine, no_sample=True)

    def title(*runs: trace.Curves) -> str:
        with figure(4, "light", 1.0) as (_, axes):
            trace.fill(named([*runs], axes), [*runs], "step", "light")
            return str(axes[0].figure.texts[0].get_text())

    assert title(small).startswith("small ESS at the end: the images")
    assert title(fine, small).startswith("small ESS at the end of 1 of 2 runs: the images")
    assert "small" not in title(fine)


def test_numbers_that_are_not_finite_are_counted_and_said() -> None:
    spoiled = run()
    spoiled.add(record(0.05, [math.nan, 1.0]))
    curves = trace.curves(spoiled)
    assert curves.spoiled == 1
    with figure(4, "light", 1.0) as (_, axes):
        trace.fill(named([curves], axes), [curves], "step", "light")
        (title,) = axes[0].figure.texts
        assert "1 numbers of guided steps are not finite" in title.get_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_pictures_have_the_asked_size_and_paper(theme: str, scale: float) -> None:
    made = plan(preset("paper"), LEVELS, eps)
    for picture in (
        schedule.draw(made, "paper", {}, theme=theme, scale=scale),
        trace.draw([run()], theme=theme, scale=scale),
        message("nothing", theme, scale),
    ):
        assert picture.shape == (1, int(HEIGHT * scale), int(WIDTH * scale), 3)
        assert picture.dtype == torch.float32 and 0 <= picture.min() and picture.max() <= 1
        corner = picture[0, 0, 0]
        assert (corner > 0.9).all() if theme == "light" else (corner < 0.2).all()
        assert picture.std() > 0.01


def test_one_step_and_interrupted_runs_are_drawn_and_empty_traces_get_a_sentence() -> None:
    one = plan(preset("balanced"), torch.tensor([5.0, 0.0]), eps)
    assert schedule.draw(one, "balanced", {}).std() > 0.01
    cut = Trace("cut")
    cut.add(record(10.0, [0.0]))
    assert trace.draw([cut]).std() > 0.01
    empty = trace.draw([Trace()])
    assert empty.shape == (1, HEIGHT, WIDTH, 3)
    assert torch.equal(empty, message(trace.EMPTY, "light", 1.0))


@pytest.mark.parametrize(
    ("name", "lines"),
    [("balanced", 2), ("balanced, a weight", 3), ("balanced, the weight of a long name", 8)],
)
def test_legend_of_many_runs_takes_nothing_from_the_panels(name: str, lines: int) -> None:
    heights = []
    for labels in ([name], [f"{name} {i}" for i in range(8)]):
        runs = [run(label) for label in labels]
        taller = trace.draw(runs).shape[1] - HEIGHT
        assert taller == (0 if len(runs) == 1 else trace.LEGEND * (lines - 1))
        with figure(4, "light", 1.0, taller) as (canvas, axes):
            drawn = [trace.curves(one) for one in runs]
            trace.fill(named(drawn, axes), drawn, "step", "light")
            canvas.canvas.draw()
            legend, panel = (one.get_window_extent() for one in (axes[0].get_legend(), axes[0]))
            assert legend.x1 <= WIDTH and panel.y1 - 1 <= legend.y0 < legend.y1 < HEIGHT + taller
            heights.append(panel.height)
    assert heights[1] == pytest.approx(heights[0], rel=0.1)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"axis": "time"}, "axis"), ({"theme": "red"}, "theme"), ({"scale": 9}, "9")],
)
def test_bad_choices(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        trace.draw([run()], **change)
    with pytest.raises(ValueError, match=said):
        schedule.draw(plan(preset("paper"), LEVELS, eps), "paper", {}, **change)


def test_global_state_of_matplotlib_stays() -> None:
    import matplotlib

    def settings() -> dict[str, object]:  # to read 'backend' would choose one, and load pyplot
        known = matplotlib.rcParams
        return {name: known[name] for name in known if name != "backend"}

    before = settings()
    trace.draw([run()], theme="dark")
    assert settings() == before
    assert "matplotlib.pyplot" not in sys.modules


def test_nothing_is_imported_before_a_picture_is_drawn() -> None:
    code = (
        "import sys; sys.path.insert(0, '.'); import dev; dev.load_pack();"
        "import lags_pack.plots.schedule, lags_pack.plots.trace;"
        "print('matplotlib' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT).strip() == b"False"
