"""Seconds of each mode relative to plain sampling on the demo model.

Medians of runs that take turns, so that a noisy moment hits all alike.
"""

from __future__ import annotations

from collections.abc import Callable

from ..demo.model import load_network
from ..demo.pictures import draw_pictures
from ..guidance import LAGS, MODES, preset
from ..rewards import ColourReward, Weight
from ._report import interleaved_seconds, parser, report


def main(arguments: list[str]) -> None:
    """Print the table."""
    options = parser("speed", __doc__)
    options.add_argument("--pictures", type=int, default=16)
    options.add_argument("--steps", type=int, default=30)
    options.add_argument("--cfg", type=float, default=2.0)
    options.add_argument("--repeats", type=int, default=7)
    choice = options.parse_args(arguments)
    network = load_network()
    weight = Weight.of(ColourReward("hue", hue=240.0), 20.0)
    methods: dict[str, LAGS | None] = {"plain": None, **{mode: preset(mode) for mode in MODES}}

    def run(method: LAGS | None) -> Callable[[], object]:
        return lambda: draw_pictures(
            network,
            choice.pictures,
            seed=0,
            colour="red",
            cfg=choice.cfg,
            steps=choice.steps,
            method=method,
            weight=weight,
        )

    runs = {name: run(method) for name, method in methods.items()}
    runs["plain"]()  # the first run pays for warming up
    seconds = interleaved_seconds(runs, choice.repeats)
    rows = [
        {"method": name, "seconds": value, "time / plain": value / seconds["plain"]}
        for name, value in seconds.items()
    ]
    report(rows, choice.json)
