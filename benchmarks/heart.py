"""The 2D heart: how close each schedule comes to a target that is known exactly.

Sliced 2-Wasserstein distance to exact samples, mean log w, share off the support (log w < -8),
denoiser and weight calls per sample, and seconds relative to plain sampling in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..demo import heart
from ..demo.sampler import karras_sigmas, sample_ancestral
from ..guidance import (
    LAGS,
    AutoSchedule,
    ConstantSchedule,
    DifferenceStep,
    HardGateSchedule,
    Trace,
    UncertaintySchedule,
)
from ._report import interleaved_seconds, parser, report

SAMPLES, STEPS = 10_000, 100


def methods() -> dict[str, LAGS | None]:
    """Every row that samples p with guidance; None is plain sampling."""
    paper = LAGS(step=DifferenceStep(), schedule=UncertaintySchedule(10.0))
    rows: dict[str, LAGS | None] = {"plain": None, "LAGS c=10, every step": paper}
    for c in (0.003, 0.01, 0.1, 1.0, 10.0):
        rows[f"LAGS c={c:g}"] = replace(paper, schedule=UncertaintySchedule(c), skip_below=0.02)
    rows["LAGS c=10, skip 0.1"] = replace(paper, skip_below=0.1)
    rows["LAGS c=0.16 without J"] = replace(
        paper, schedule=UncertaintySchedule(0.16), skip_below=0.02, jacobian=False
    )
    rows["hard gate sigma=1.7"] = replace(paper, schedule=HardGateSchedule(1.7), skip_below=0.02)
    rows["alpha = 1"] = replace(paper, schedule=ConstantSchedule())
    for kappa in (0.02, 0.05, 0.1):
        rows[f"auto kappa={kappa:g}"] = replace(paper, schedule=AutoSchedule(kappa), skip_below=0.1)
    return rows


def run(
    method: LAGS | None, seed: int, steps: int = STEPS, samples: int = SAMPLES
) -> tuple[Tensor, Trace]:
    """Draw samples with one method: (points [samples, 2], its trace)."""
    base, weight = heart.float32(heart.grid()), heart.MixtureLogWeight(heart.float32(heart.heart()))
    trace = Trace()

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        if method is None:
            return base.denoise(x, sigma)
        denoised, record = method(base.denoise, weight, x, sigma)
        trace.add(record)
        return denoised

    return _sample(denoiser, seed, steps, samples), trace


def run_exact(seed: int, steps: int = STEPS, samples: int = SAMPLES) -> Tensor:
    """The same solver on the exact denoiser of q: what the solver's own error leaves."""
    target = heart.float32(heart.grid().times(heart.heart()))
    return _sample(target.denoise, seed, steps, samples)


def _sample(
    denoiser: Callable[[Tensor, Tensor], Tensor], seed: int, steps: int, samples: int
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    sigmas = karras_sigmas(steps, heart.SIGMA_MIN, heart.SIGMA_MAX)
    start = torch.randn(samples, 2, generator=generator) * sigmas[0]
    return sample_ancestral(denoiser, start, sigmas, generator)


def score(points: Tensor, seed: int) -> dict[str, float]:
    """Distance to fresh exact samples of q, mean log w, share off the support in percent."""
    target = heart.grid().times(heart.heart())
    exact = target.sample(points.shape[0], torch.Generator().manual_seed(1000 + seed))
    log_w = heart.heart().log_density(points.double())
    return {
        "sliced W2": heart.sliced_wasserstein(points, exact),
        "mean log w": log_w.mean().item(),
        "% off support": 100 * (log_w < -8).double().mean().item(),
    }


def main(arguments: list[str]) -> None:
    """Print the table."""
    options = parser("heart", __doc__)
    options.add_argument("--replicates", type=int, default=2)
    options.add_argument("--timing-repeats", type=int, default=3)
    choice = options.parse_args(arguments)
    # Far components have weights below the smallest normal number; arithmetic on such numbers is
    # several times slower, which would time the processor and not the methods.
    torch.set_flush_denormal(True)

    table = methods()
    runs: dict[str, Callable[[], object]] = {
        name: (lambda m=method: run(m, 0)) for name, method in table.items()
    }
    seconds = interleaved_seconds(runs, choice.timing_repeats)
    rows = []
    for name, method in table.items():
        replicates = [run(method, seed) for seed in range(choice.replicates)]
        trace = replicates[0][1]
        rows.append(
            {
                "method": name,
                **_mean([score(points, seed) for seed, (points, _) in enumerate(replicates)]),
                "model calls": trace.model_calls or STEPS,
                "weight calls": trace.weight_calls,
                "time / plain": seconds[name] / seconds["plain"],
                "seconds": seconds[name],
            }
        )
    exact = [score(run_exact(seed), seed) for seed in range(choice.replicates)]
    rows.append({"method": "exact score of q", **_mean(exact), "model calls": STEPS})
    report(rows, choice.json)


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
