"""Seconds of each mode relative to plain sampling on the demo model, and guidance's own share.

Medians of runs that take turns, so that a noisy moment hits all alike. The last column is what
passes outside of the model and of the weight, in an evaluation, relative to a plain one; of
particles, in a step of one group, the drawing of its noise and the sampler's arithmetic included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
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
    load_network,
)
from ..demo.pictures import draw_pictures, on_latents
from ..demo.sampler import karras_sigmas
from ..guidance import LAGS, MODES, Denoiser, LogWeight, Step, preset
from ..guidance.particles import group_seeds, noisy_start, particle_preset
from ..rewards import ColourReward, Weight
from ._report import interleaved_seconds, parser, report

PARTICLE_PRESETS = ("smc", "lags")  # without a drift, and with one
STEPS_TIMED = 10  # of a particle run


class Timed:
    """A denoiser or a log-weight that adds up the seconds spent inside of it."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.seconds = inner, 0.0
        self.name = getattr(inner, "name", "")

    def _timed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        start = perf_counter()
        result = function(*arguments)
        self.seconds += perf_counter() - start
        return result

    def __call__(self, *arguments: Any) -> Any:
        return self._timed(self.inner, *arguments)

    def conditional(self, *arguments: Any) -> Any:
        """Of a denoiser."""
        return self._timed(self.inner.conditional, *arguments)

    def value_and_grad(self, *arguments: Any) -> Any:
        """Of a log-weight."""
        return self._timed(self.inner.value_and_grad, *arguments)


def outside_share(
    run: Callable[[Denoiser, LogWeight], object],
    network: DemoUNet,
    weight: Weight,
    x: Tensor,
    cfg: float,
    repeats: int,
    steps: int = 1,
) -> float:
    """Seconds of a run outside of model and weight, by step, over those of a plain D(x).

    The run and as many plain evaluations as it has steps take turns.
    """
    plain: Denoiser = DemoDenoiser(network, labels_to_context(None, "red"), cfg)
    log_weight: LogWeight = on_latents(weight)
    sigma = torch.full((x.shape[0],), 2.0)
    own, alone = [], []
    for _ in range(repeats):
        for _ in range(steps):
            start = perf_counter()
            plain(x, sigma)
            alone.append(perf_counter() - start)
        inside = (Timed(plain), Timed(log_weight))
        start = perf_counter()
        run(*inside)
        own.append(perf_counter() - start - sum(part.seconds for part in inside))
    return median(own) / steps / median(alone)


def own_share(
    method: LAGS, network: DemoUNet, weight: Weight, images: int, cfg: float, repeats: int
) -> float:
    """That of one evaluation of a method."""
    sigma = torch.full((images,), 2.0)
    x = torch.randn(empty_shape(images), generator=torch.Generator().manual_seed(0)) * 2

    def run(denoiser: Denoiser, log_weight: LogWeight) -> object:
        return method(denoiser, log_weight, x, sigma, Step(0.6))

    return outside_share(run, network, weight, x, cfg, repeats)


def engine_share(
    name: str, network: DemoUNet, weight: Weight, particles: int, cfg: float, repeats: int
) -> float:
    """That of one step of a particle preset."""
    sigmas, seeds = karras_sigmas(STEPS_TIMED, SIGMA_MIN, SIGMA_MAX), group_seeds(0, 1)
    x = noisy_start(torch.zeros(empty_shape(1)), particles, SIGMA_MAX, seeds)
    sampler = particle_preset(name, STEPS_TIMED)

    def run(denoiser: Denoiser, log_weight: LogWeight) -> object:
        return sampler(denoiser, log_weight, x, sigmas, seeds)

    return outside_share(run, network, weight, x[0], cfg, repeats, STEPS_TIMED)


def main(arguments: list[str]) -> None:
    """Print the table."""
    options = parser("speed", __doc__)
    options.add_argument("--pictures", type=int, default=16)
    options.add_argument("--steps", type=int, default=30)
    options.add_argument("--particles", type=int, default=8)
    options.add_argument("--cfg", type=float, default=2.0)
    options.add_argument("--repeats", type=int, default=7)
    choice = options.parse_args(arguments)
    network = load_network()
    weight = Weight.of(ColourReward("hue", hue=240.0), 20.0)
    methods: dict[str, LAGS | None] = {"plain": None, **{mode: preset(mode) for mode in MODES}}

    settings = {"colour": "red", "cfg": choice.cfg, "steps": choice.steps, "weight": weight}
    draw = partial(draw_pictures, network, choice.pictures, seed=0, **settings)
    runs = {name: partial(draw, method=method) for name, method in methods.items()}
    runs["plain"]()  # the first run pays for warming up
    seconds = interleaved_seconds(runs, choice.repeats)
    rows = []
    for name, method in methods.items():
        row = {
            "method": name,
            "seconds": seconds[name],
            "time / plain": seconds[name] / seconds["plain"],
            "guidance itself %": None,
        }
        if method is not None:
            count, repeats = choice.pictures, 10 * choice.repeats
            share = own_share(method, network, weight, count, choice.cfg, repeats)
            row["guidance itself %"] = 100 * share
        rows.append(row)
    for name in PARTICLE_PRESETS:
        count, repeats = choice.particles, 2 * choice.repeats
        share = engine_share(name, network, weight, count, choice.cfg, repeats)
        rows.append({"method": f"{count} particles, {name}", "guidance itself %": 100 * share})
    report(rows, choice.json)
