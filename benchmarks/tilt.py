"""How much of the true shift of the mean score each method captures, on the demo model.

The truth is known by importance sampling: plain samples weighted with w, at a strength that leaves
a chosen effective share of them. Guided runs start from the same noise as plain ones, so the
difference of their means has little noise of its own.
"""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..demo.model import DemoUNet, load_network
from ..demo.pictures import BATCH, draw_pictures
from ..guidance import LAGS, preset
from ..rewards import ColourReward, Reward, Weight
from ._report import parser, report


def strength_for(scores: Tensor, effective_share: float) -> float:
    """The strength at which exp(strength * score) leaves this share of the samples effective.

    The effective size is (sum w)^2 / sum w^2; it falls as the strength grows, found by bisection.
    """
    low, high = 0.0, 1.0
    while _effective_share(scores, high) > effective_share:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if _effective_share(scores, middle) > effective_share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def tilted_mean(scores: Tensor, strength: float) -> float:
    """The mean score under w p, from plain samples' scores."""
    return float((scores.double() * strength).softmax(dim=0) @ scores.double())


def _effective_share(scores: Tensor, strength: float) -> float:
    share = (scores.double() * strength).softmax(dim=0)
    return float(1 / share.square().sum() / len(scores))


def measure(
    network: DemoUNet, reward: Reward, effective_share: float, plain_count: int, guided_count: int
) -> list[dict[str, Any]]:
    """One row per mode for one weight at one strength."""
    plain, _ = draw_pictures(network, plain_count, seed=0)
    scores = reward(plain)
    strength = strength_for(scores, effective_share)
    true_shift = tilted_mean(scores, strength) - float(scores.mean())
    base = {"weight": reward.name, "effective %": 100 * effective_share, "strength": strength}
    rows: list[dict[str, Any]] = [
        {"method": "plain", **base, "mean score": float(scores.mean()), "std": float(scores.std())},
        {
            "method": "exact (importance weights)",
            **base,
            "mean score": float(scores.mean()) + true_shift,
            "share of shift %": 100.0,
        },
    ]
    weight = Weight.of(reward, strength)
    for name, method in modes().items():
        start = perf_counter()
        pictures, trace = draw_pictures(network, guided_count, seed=0, method=method, weight=weight)
        seconds = perf_counter() - start
        gain = reward(pictures) - scores[:guided_count]
        rows.append(
            {
                "method": name,
                **base,
                "mean score": float(scores.mean() + gain.mean()),
                "std": float(reward(pictures).std()),
                "share of shift %": 100 * float(gain.mean()) / true_shift,
                "+-": 100 * float(gain.std()) / math.sqrt(guided_count) / true_shift,
                "model calls": trace.model_calls,
                "weight calls": trace.weight_calls,
                "seconds": seconds,
            }
        )
    return rows


def modes() -> dict[str, LAGS]:
    """The methods of the table."""
    return {mode: preset(mode) for mode in ("paper", "fast", "balanced")}


def main(arguments: list[str]) -> None:
    """Print the table."""
    options = parser("tilt", __doc__)
    options.add_argument("--plain", type=int, default=1024, help="plain samples")
    options.add_argument("--guided", type=int, default=256, help="guided samples per method")
    options.add_argument("--effective", type=float, default=50.0, help="effective size in percent")
    choice = options.parse_args(arguments)
    if choice.guided > choice.plain or choice.guided % BATCH:
        options.error(f"--guided must be a multiple of {BATCH} and at most --plain")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    reward = ColourReward("hue", hue=240.0)
    rows = measure(load_network(), reward, choice.effective / 100, choice.plain, choice.guided)
    report(rows, choice.json)
