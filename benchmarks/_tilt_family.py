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
from ._classifier import ShapeClassifier
from ._family import Drawn, Task, Way, at_least, budget, family
from ._tilt_cells import Cell, Plain

STEPS = 30
OURS = PRESETS["lags"].title
BEST = "best of N"
RIVALS = (PRESETS["das"].title, PRESETS["fk"].title, BEST)


def task_of(network: DemoUNet, cell: Cell) -> Task:
    """Drawing from the demo model, without a prompt, with a cell's weight."""
    return Task(
        denoiser=DemoDenoiser(network, labels_to_context(None, None)),
        log_weight=on_latents(Weight.of(cell.reward, cell.strength)),
        shape=empty_shape(1)[1:],
        low=SIGMA_MIN,
        high=SIGMA_MAX,
        steps=STEPS,
        chunk=BATCH,
    )


def cell_rows(
    network: DemoUNet,
    classifier: ShapeClassifier,
    plain: Plain,
    cell: Cell,
    particles: int,
    groups: int,
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """What each method makes of one cell, at the budget of ``particles`` of ours.

    Best of N is taken from the plain images, all of them: they are drawn already.

    Args:
        network: the demo UNet.
        classifier: whose features are compared.
        plain: the plain samples.
        cell: weight and strength.
        particles: of ours, which set the budget.
        groups: of each method; a sample is one image of a group.
        names: of the methods.
    """
    task, known = task_of(network, cell), family()
    wanted, rows = budget(task, particles), []
    for name in names:
        start = perf_counter()
        if name == BEST:
            drawn = best_of_plain(cell, plain, at_least(wanted, STEPS))
        else:
            drawn = in_pictures(known[name], task, wanted, groups)
        seconds = perf_counter() - start
        rows.append(
            {
                **cell.row(name),
                "particles of ours": particles,
                "calls per picture": drawn.calls,
                "spent on": drawn.spent,
                "groups": drawn.x.shape[0],
                **measured(drawn, cell, plain, classifier),
                "seconds": seconds,
            }
        )
    return rows


def in_pictures(way: Way, task: Task, wanted: int, groups: int) -> Drawn:
    """What a method draws, as images in 0..1."""
    drawn = way(task, wanted, groups, 0)
    return Drawn(to_images(drawn.x).clamp(0, 1), drawn.weights, drawn.calls, drawn.spent)


def best_of_plain(cell: Cell, plain: Plain, count: int) -> Drawn:
    """The best of each ``count`` plain images."""
    groups = len(cell.scores) // count
    scores = cell.scores[: groups * count].reshape(groups, count)
    index = scores.argmax(dim=1) + count * torch.arange(groups)
    weights = torch.ones(groups, 1, dtype=torch.float64)
    return Drawn(plain.pictures[index][:, None], weights, count * STEPS, f"best of {count}")


def measured(
    drawn: Drawn, cell: Cell, plain: Plain, classifier: ShapeClassifier
) -> dict[str, float]:
    """Means over groups, each image counted by its weight."""
    groups, count = drawn.weights.shape
    pictures, weights = drawn.x.flatten(0, 1), drawn.weights.float()
    features = classifier.features(pictures).reshape(groups, count, -1)
    scores = cell.reward(pictures).reshape(groups, count)
    broken = (classifier.confidence(pictures) < plain.least).float().reshape(groups, count)
    gain = (weights * scores).sum(dim=1) - cell.scores.mean()
    mean = (weights * scores).sum() / groups
    spread = ((weights * (scores - mean) ** 2).sum() / groups).sqrt()
    return {
        "share of shift %": 100 * float(gain.mean()) / cell.true_shift,
        "+-": 100 * float(gain.std()) / math.sqrt(groups) / cell.true_shift,
        "std error %": 100 * (float(spread) / cell.true_std - 1),
        "score distance": math.hypot(
            float(gain.mean()) - cell.true_shift, float(spread) - cell.true_std
        )
        / cell.true_std,
        **distances((weights[..., None] * features).sum(dim=1), cell, plain),
        "broken %": 100 * float((weights * broken).sum(dim=1).mean()),
    }


def distances(features: Tensor, cell: Cell, plain: Plain) -> dict[str, float]:
    """Of the groups' features [G, F] from the importance-weighted ones."""
    scale = plain.features.std(dim=0).clamp(min=1e-3)
    target = cell.shares @ plain.features
    off = (features - target) / scale
    groups = off.shape[0]
    squared = float(off.mean(dim=0).square().mean())
    one_less = (off.sum(dim=0) - off) / (groups - 1)  # [G, F], each without one group
    shorter = one_less.square().mean(dim=1).sqrt()
    error = float((groups - 1) * shorter.var(correction=0)) ** 0.5
    of_target = cell.shares.square() @ ((plain.features - target) / scale).square()
    noise = float((off.var(dim=0) / groups + of_target).mean())
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
