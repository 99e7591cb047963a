"""How much of the true shift each method captures, and what it does to the images, on the demo.

The truth is known by importance sampling: plain samples weighted with w, at strengths that leave a
chosen effective share of them. Four weights: overall colour, brightness of one corner, energy of a
frequency band, probability of a class. Guided runs start from the same noise as plain ones, so the
difference of their means has little noise of its own.

Six more by name, which ``balanced`` was not made with: saturation, symmetry, edges, contrast,
network, cosine, as in ``bench images``.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from ..demo.model import DemoUNet, load_network
from ..demo.pictures import BATCH, draw_pictures
from ..demo.shapes import SIZE
from ..guidance import LAGS, AutoSchedule, Balanced, ConstantSchedule, preset
from ..guidance.path_weights import ess_share
from ..rewards import ColourReward, FrequencyReward, Reward, Weight
from ..rewards.function import FunctionReward
from ..rewards.masked import MaskedReward
from . import _tilt_scenes
from ._classifier import ShapeClassifier, ShapeReward, trained
from ._family import family
from ._report import parser, printed, report
from ._scenes import Scenes
from ._tilt_family import cell_rows, wins
from ._tilt_plot import draw
from ._tilting import Cell, Plain
from .images import SCORES

PARTICLES = (4, 8)  # that set the family's budgets
OTHERS = ("saturation", "symmetry", "edges", "contrast", "network", "cosine")


def rewards(classifier: ShapeClassifier) -> dict[str, Reward]:
    """The four kinds of weight."""
    corner = torch.zeros(SIZE, SIZE)
    corner[:12, :12] = 1
    return {
        "colour": ColourReward("hue", hue=240.0),
        "corner": MaskedReward(ColourReward("brightness"), corner),
        "band": FrequencyReward(0.15, 0.5),
        "class": ShapeReward(classifier, "star"),
    }


def others() -> dict[str, Reward]:
    """Those of ``bench images``."""
    return {name: FunctionReward(SCORES[name]()) for name in OTHERS}


def methods() -> dict[str, LAGS]:
    """The methods of the table."""
    balanced, paper = preset("balanced"), preset("paper")
    return {
        **{mode: preset(mode) for mode in ("paper", "fast", "balanced")},
        "balanced, measured in every step": replace(balanced, serves=1.0),
        "balanced, every step": replace(balanced, skip_below=0.0, serves=1.0),
        "balanced, untilted start": replace(balanced, tilts_start=False),
        "balanced, kernel not fitted": replace(balanced, fits_step=False),
        "balanced, alpha = 1": replace(balanced, schedule=ConstantSchedule()),
        "balanced, gradient serves 2": replace(balanced, reuse=2, serves=1.0),
        "balanced, gradient serves 3": replace(balanced, reuse=3, serves=1.0),
        "auto, damping = 0.1": Balanced(AutoSchedule(0.1), fits_step=False),
        "alpha = 1": replace(paper, schedule=ConstantSchedule()),
    }


def exact_rows(cell: Cell) -> list[dict[str, Any]]:
    """The rows of plain sampling and of the exact answer."""
    plain = cell.plain
    broken = plain.broken(plain.pictures)
    return [
        {
            **cell.row("plain"),
            "share of shift %": 0.0,
            "std error %": 100 * (float(cell.scores.std()) / cell.true_std - 1),
            "feature distance": cell.distance(plain.features.mean(dim=0)),
            "broken %": 100 * float(broken.mean()),
        },
        {
            **cell.row("exact (importance weights)"),
            "share of shift %": 100.0,
            "broken %": 100 * float(cell.shares @ broken),
        },
    ]


def guided_row(
    network: DemoUNet, cell: Cell, name: str, method: LAGS, count: int
) -> dict[str, Any]:
    """What a method makes of one cell."""
    weight = Weight.of(cell.reward, cell.strength)
    start = perf_counter()
    pictures, trace = draw_pictures(network, count, seed=0, method=method, weight=weight)
    seconds = perf_counter() - start
    scores, told = cell.reward(pictures), trace.log_weights  # of the first batch
    return {
        **cell.row(name),
        **cell.captured(scores - cell.scores[:count], float(scores.std())),
        "feature distance": cell.distance(cell.plain.classifier.features(pictures).mean(dim=0)),
        "broken %": 100 * float(cell.plain.broken(pictures).mean()),
        **({} if told is None else {"ESS %": 100 * float(ess_share(told))}),
        "model calls": trace.model_calls,
        "weight calls": trace.weight_calls,
        "value calls": trace.value_calls,
        "seconds": seconds,
    }


def prepared(network: DemoUNet, count: int, folder: Path | None) -> Plain:
    """The classifier and the plain samples, kept in a folder for a later run where one is given."""
    from safetensors.torch import load_file, save_file

    kept = folder / f"plain_{count}.safetensors" if folder else None
    if kept is not None and kept.is_file():
        state = load_file(kept)
        pictures = state.pop("pictures")
        classifier = ShapeClassifier()
        classifier.load_state_dict(state)
        return Plain.of(pictures, classifier.eval().requires_grad_(False))
    classifier = trained()
    pictures, _ = draw_pictures(network, count, seed=0)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file({"pictures": pictures, **classifier.state_dict()}, kept)
        print(f"Plain samples and classifier written to {kept}")
    return Plain.of(pictures, classifier)


def captured(rows: Iterable[dict[str, Any]]) -> list[str]:
    """One line per method: in how many cells it has 85 to 115 % of the shift."""
    shares: dict[str, list[float]] = {}
    for row in rows:
        if "seconds" in row:
            shares.setdefault(row["method"], []).append(row["share of shift %"])
    return [
        f"{name}: {sum(85 <= value <= 115 for value in values)} of {len(values)} cells within "
        "85 to 115 %"
        for name, values in shares.items()
    ]


def on_scenes(options: ArgumentParser, choice: Namespace) -> None:
    """Print the table of the text-to-image model."""
    asked_of = {
        "--weights": (choice.weights, _tilt_scenes.WEIGHTS),
        "--methods": (choice.methods, _tilt_scenes.METHODS),
        "--decoders": (choice.decoders, _tilt_scenes.DECODERS),
    }
    _check(options, asked_of)
    torch.set_num_threads(min(2, torch.get_num_threads()))
    rows = _tilt_scenes.rows(
        Scenes(),
        choice.plain,
        choice.guided,
        [share / 100 for share in choice.effective],
        *(list(asked or have) for asked, have in asked_of.values()),
        choice.cfg,
        choice.keep,
    )
    report(rows, choice.json)
    print("\n".join(captured(rows)))


def _check(options: ArgumentParser, asked_of: Mapping[str, tuple[Any, Iterable[str]]]) -> None:
    for what, (asked, have) in asked_of.items():
        if asked and not set(asked) <= set(have):
            options.error(f"{what}: expected some of {', '.join(have)}")


def main(arguments: list[str]) -> None:
    """Print the table."""
    options = parser("tilt", __doc__)
    options.add_argument("--plain", type=int, default=4096, help="plain samples")
    options.add_argument("--guided", type=int, default=256, help="guided samples per method")
    options.add_argument(
        "--effective", type=float, nargs="+", default=[60.0, 20.0, 5.0], help="sizes in percent"
    )
    options.add_argument(
        "--weights", nargs="+", help="some of colour, corner, band, class, or others"
    )
    options.add_argument("--methods", nargs="+", help="some of the methods, by name")
    options.add_argument(
        "--family",
        type=int,
        nargs="*",
        metavar="N",
        help="in place of the modes, all methods at the budget of N particles of LAGS with path "
        "weights (4 and 8); --guided is the number of groups then",
    )
    options.add_argument("--keep", type=Path, help="folder for plain samples, for a later run")
    options.add_argument("--plot", type=Path, help="draw the shares into this PNG file")
    options.add_argument(
        "--model",
        choices=("shapes", "scenes"),
        default="shapes",
        help="scenes is the text-to-image model, through its decoders",
    )
    options.add_argument("--decoders", nargs="+", help="of scenes: small, vae, latent-rgb, ...")
    options.add_argument("--cfg", type=float, nargs="+", default=[1.0, 3.0], help="of scenes")
    choice = options.parse_args(arguments)
    if choice.model == "scenes":
        on_scenes(options, choice)
        return
    by_budget = choice.family is not None
    if by_budget and choice.guided < 2:
        options.error("--guided must be 2 or more with --family: errors are taken over groups")
    if not by_budget and (choice.guided > choice.plain or choice.guided % BATCH):
        options.error(f"--guided must be a multiple of {BATCH} and at most --plain")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    network = load_network()
    plain = prepared(network, choice.plain, choice.keep)
    usual, guided = rewards(plain.classifier), methods()
    known = {**usual, **others()}
    table: Mapping[str, object] = family() if by_budget else guided
    _check(options, {"--weights": (choice.weights, known), "--methods": (choice.methods, table)})
    names = choice.methods or list(table)
    rows: list[dict[str, Any]] = []
    for weight, effective in product(choice.weights or usual, choice.effective):
        cell = Cell.of(weight, known[weight], effective / 100, plain)
        rows += exact_rows(cell)
        if by_budget:
            for count in choice.family or PARTICLES:
                rows += cell_rows(network, cell, count, choice.guided, names)
        else:
            for name in names:
                rows.append(printed(guided_row(network, cell, name, guided[name], choice.guided)))
    report(rows, choice.json)
    print("\n".join(captured(rows)))
    if by_budget:
        print("\n".join(wins(rows)))
    if choice.plot:
        draw(rows, choice.plot)
        print(f"Plot written to {choice.plot}")
