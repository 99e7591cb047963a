"""The tilt table for the whole family: every method at the budget of LAGS with path weights.

The columns are means over groups, with standard errors over groups (of the distance by jackknife).
``noise`` is the distance that an exact method would show: what the groups' spread and that of the
importance weights leave. ``noise removed`` is the root of what the squared distance exceeds it by,
an estimate without bias of the squared distance; negative where it falls short. ``score distance``
is the 2-Wasserstein distance of the score's law from the true one if both were normal, in true
standard deviations: a classifier of shapes does not see what every weight asks for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..demo.model import (
    SIGMA_MAX,
    SIGMA_MIN,
    DemoDenoiser,
    DemoUNet,
    empty_shape,
    labels_to_context,
    to_images,
)
from ..demo.pictures import BATCH, on_latents
from ..guidance.particles import PRESETS
from ..rewards import Weight
from ._family import Drawn, Task, at_least, budget, family, single
from ._report import printed
from ._tilting import Cell

STEPS = 30
OURS = PRESETS["lags"].title
BEST = "best of N"
RIVALS = (PRESETS["das"].title, PRESETS["fk"].title, BEST)


def task_of(network: DemoUNet, cell: Cell) -> Task:
    """Drawing from the demo model, without a prompt, with a cell's weight."""
    denoiser = DemoDenoiser(network, labels_to_context(None, None))
    log_weight = on_latents(Weight.of(cell.reward, cell.strength))
    return Task(denoiser, log_weight, empty_shape(1)[1:], SIGMA_MIN, SIGMA_MAX, STEPS, chunk=BATCH)


def cell_rows(
    network: DemoUNet, cell: Cell, particles: int, groups: int, names: Sequence[str]
) -> list[dict[str, Any]]:
    """What each method makes of one cell, in so many groups at the budget of ``particles`` of ours.

    Best of N is taken from the plain images, all of them: they are drawn already.
    """
    task, known = task_of(network, cell), family()
    wanted, rows = budget(task, particles), []
    for name in names:
        start = perf_counter()
        if name == BEST:
            drawn = best_of_plain(cell, at_least(wanted, STEPS))
        else:
            drawn = known[name](task, wanted, groups, 0)
            drawn = replace(drawn, x=to_images(drawn.x).clamp(0, 1))
        seconds = perf_counter() - start
        row = {
            **cell.row(name),
            "particles of ours": particles,
            "calls per picture": drawn.calls,
            "spent on": drawn.spent,
            "groups": drawn.x.shape[0],
            **measured(drawn, cell),
            "seconds": seconds,
        }
        rows.append(printed(row))
    return rows


def best_of_plain(cell: Cell, count: int) -> Drawn:
    """The best of each ``count`` plain images."""
    groups = len(cell.scores) // count
    scores = cell.scores[: groups * count].reshape(groups, count)
    index = scores.argmax(dim=1) + count * torch.arange(groups)
    return single(cell.plain.pictures[index], count * STEPS, f"best of {count}")


def measured(drawn: Drawn, cell: Cell) -> dict[str, float]:
    """Means over groups, each image counted by its weight."""
    groups, count = drawn.weights.shape
    pictures, weights = drawn.x.flatten(0, 1), drawn.weights.float()
    features = cell.plain.classifier.features(pictures).reshape(groups, count, -1)
    scores = cell.reward(pictures).reshape(groups, count)
    broken = cell.plain.broken(pictures).reshape(groups, count)
    gain = (weights * scores).sum(dim=1) - cell.scores.mean()
    mean = (weights * scores).sum() / groups
    spread = float(((weights * (scores - mean) ** 2).sum() / groups).sqrt())
    off = math.hypot(float(gain.mean()) - cell.true_shift, spread - cell.true_std)
    return {
        **cell.captured(gain, spread),
        "score distance": off / cell.true_std,
        **distances((weights[..., None] * features).sum(dim=1), cell),
        "broken %": 100 * float((weights * broken).sum(dim=1).mean()),
    }


def distances(features: Tensor, cell: Cell) -> dict[str, float]:
    """Of the groups' features [G, F] from the importance-weighted ones."""
    off = (features - cell.target) / cell.plain.scale
    groups = off.shape[0]
    squared = float(off.mean(dim=0).square().mean())
    one_less = (off.sum(dim=0) - off) / (groups - 1)  # [G, F], each without one group
    shorter = one_less.square().mean(dim=1).sqrt()
    error = float((groups - 1) * shorter.var(correction=0)) ** 0.5
    deviations = (cell.plain.features - cell.target) / cell.plain.scale
    noise = float((off.var(dim=0) / groups + cell.shares.square() @ deviations.square()).mean())
    excess = squared - noise
    return {
        "feature distance": math.sqrt(squared),
        "distance +-": error,
        "noise": math.sqrt(noise),
        "noise removed": math.copysign(math.sqrt(abs(excess)), excess),
    }


def wins(rows: Iterable[dict[str, Any]]) -> list[str]:
    """In how many cells ours is nearer than each rival, and than all of them, for each budget."""
    cells: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        if "calls per picture" in row:
            cell = row["particles of ours"], row["weight"], row["effective %"]
            cells.setdefault(cell, {})[row["method"]] = row
    lines = []
    for particles in dict.fromkeys(cell[0] for cell in cells):
        found = [cells[cell] for cell in cells if cell[0] == particles and OURS in cells[cell]]
        for column in ("feature distance", "noise removed", "score distance"):
            beaten = {
                rival: [rows[OURS][column] < rows[rival][column] for rows in found if rival in rows]
                for rival in RIVALS
            }
            each = ", ".join(f"{name} {sum(won)} of {len(won)}" for name, won in beaten.items())
            every = sum(map(all, zip(*beaten.values(), strict=False)))
            lines.append(
                f"N = {particles}, {column}: {OURS} nearer than {each}, all three in {every}"
            )
    return lines
