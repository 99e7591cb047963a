"""Two plane problems whose targets are known exactly: the heart, and nine modes.

Sliced 2-Wasserstein distance to exact samples, mean log w, share off the support, denoiser and
weight calls per sample, and seconds relative to plain sampling in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..demo import heart
from ..demo.sampler import guided, karras_sigmas, sample_ancestral, tilted
from ..guidance import (
    LAGS,
    AutoSchedule,
    ChordSchedule,
    ConstantSchedule,
    Denoiser,
    Fast,
    HardGateSchedule,
    LogWeight,
    RunState,
    Trace,
    UncertaintySchedule,
    preset,
)
from ..guidance.particles.resampling import systematic
from ._family import SEVERAL, Drawn, Task, budget, family
from ._report import flushed_denormals, interleaved_seconds, parser, report

SAMPLES, STEPS = 10_000, 100
SINGLE_RUNS = 4000  # of methods without particles in the family's table
OFF_SUPPORT = -8.0  # log w


@dataclass(frozen=True)
class Problem:
    """A base p, a weight w, and exact draws of q = w p / Z.

    Attributes:
        base: E[x0 | x] under p.
        weight: log w.
        draw: (count, generator) -> exact samples of q, [count, 2].
        exact: E[x0 | x] under q.
    """

    base: Denoiser
    weight: LogWeight
    draw: Callable[[int, torch.Generator], Tensor]
    exact: Denoiser

    def task(self, steps: int) -> Task:
        """The problem as the family of methods draws from it."""
        return Task(self.base, self.weight, (2,), heart.SIGMA_MIN, heart.SIGMA_MAX, steps)


def heart_problem() -> Problem:
    """A 5x5 grid of Gaussians tilted to a heart-shaped ridge."""
    target = heart.grid().times(heart.heart())
    return Problem(
        heart.float32(heart.grid()).denoise,
        heart.MixtureLogWeight(heart.float32(heart.heart())),
        target.sample,
        heart.float32(target).denoise,
    )


class Bowl:
    """log w = -x^2 / 100 - y^2: nearly free along x, narrow along y. The toy of DAS."""

    name = "bowl"
    curvature = torch.tensor([0.01, 1.0])

    def __call__(self, points: Tensor) -> Tensor:
        """log w [B] of points [B, 2]."""
        return -(points.square() * self.curvature.to(points)).sum(dim=1)

    def value_and_grad(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(log w [B], gradient [B, 2])."""
        return self(points), -2 * points * self.curvature.to(points)


def nine_modes() -> Problem:
    """Means {-4, 0, 4}^2, variance 0.3, and the bowl as weight."""
    axis = torch.tensor([-4.0, 0.0, 4.0])
    means, variance = torch.cartesian_prod(axis, axis), 0.3
    base = heart.Mixture(means, variance, torch.full((9,), 1 / 9).log())
    # A Gaussian times a parabola is a Gaussian, axis by axis.
    narrow = 1 / (1 / variance + 2 * Bowl.curvature)
    centres = means * narrow / variance
    shares = (centres.square() / (2 * narrow) - means.square() / (2 * variance)).sum(1).softmax(0)

    def draw(count: int, generator: torch.Generator) -> Tensor:
        chosen = torch.multinomial(shares, count, replacement=True, generator=generator)
        return centres[chosen] + narrow.sqrt() * torch.randn(count, 2, generator=generator)

    def exact(x: Tensor, sigma: Tensor) -> Tensor:
        noise = sigma.reshape(-1, 1, 1) ** 2
        spread = narrow + noise
        logits = shares.log() - ((x[:, None] - centres).square() / (2 * spread)).sum(dim=2)
        posterior = (noise * centres + narrow * x[:, None]) / spread
        return (logits.softmax(dim=1)[..., None] * posterior).sum(dim=1)

    return Problem(base.denoise, Bowl(), draw, exact)


PROBLEMS = {"heart": heart_problem, "nine modes": nine_modes}


def methods() -> dict[str, LAGS | None]:
    """Every row that samples p with guidance; None is plain sampling."""
    paper = preset("paper")
    rows: dict[str, LAGS | None] = {"plain": None, "LAGS c=10, every step": paper}
    for c in (0.003, 0.01, 0.1, 1.0, 10.0):
        rows[f"LAGS c={c:g}"] = replace(paper, schedule=UncertaintySchedule(c), skip_below=0.02)
    rows["LAGS c=10, skip 0.1"] = replace(paper, skip_below=0.1)
    rows["LAGS c=0.16 without J"] = Fast(UncertaintySchedule(0.16), skip_below=0.02)
    rows["hard gate sigma=1.7"] = replace(paper, schedule=HardGateSchedule(1.7), skip_below=0.02)
    rows["alpha = 1"] = replace(paper, schedule=ConstantSchedule())
    for damping in (0.02, 0.05, 0.1):
        schedule = AutoSchedule(damping)
        rows[f"auto damping={damping:g}"] = replace(paper, schedule=schedule, skip_below=0.1)
    balanced = preset("balanced")
    rows["balanced"] = balanced
    rows["balanced, measured in every step"] = replace(balanced, serves=1.0)
    rows["balanced, every step"] = replace(balanced, skip_below=0.0, serves=1.0)
    rows["balanced, alpha = 1"] = replace(balanced, schedule=ConstantSchedule())
    for damping in (0.25, 2.0):
        rows[f"balanced, damping {damping:g}"] = replace(balanced, schedule=ChordSchedule(damping))
    return rows


def run(
    method: LAGS | None, seed: int, problem: Problem, steps: int = STEPS, samples: int = SAMPLES
) -> tuple[Tensor, Trace]:
    """Draw samples with one method: (points [samples, 2], its trace)."""
    generator = torch.Generator().manual_seed(seed)
    sigmas = karras_sigmas(steps, heart.SIGMA_MIN, heart.SIGMA_MAX)
    x = torch.randn(samples, 2, generator=generator) * sigmas[0]
    trace, denoiser = Trace(), problem.base
    if method is not None:
        state = RunState()
        x = tilted(method, problem.base, problem.weight, x, sigmas[0], trace, state)
        denoiser = guided(method, problem.base, problem.weight, sigmas, trace, state)
    return sample_ancestral(denoiser, x, sigmas, generator), trace


def run_exact(seed: int, problem: Problem, steps: int = STEPS, samples: int = SAMPLES) -> Tensor:
    """The same solver on the exact denoiser of q: what the solver's own error leaves."""
    return run(None, seed, replace(problem, base=problem.exact), steps, samples)[0]


def score(points: Tensor, seed: int, problem: Problem) -> dict[str, float]:
    """Distance to fresh exact samples of q, mean log w, share off the support in percent."""
    exact = problem.draw(points.shape[0], torch.Generator().manual_seed(1000 + seed))
    log_w = problem.weight(points.float()).double()
    return {
        "sliced W2": heart.sliced_wasserstein(points, exact),
        "mean log w": log_w.mean().item(),
        "% off support": 100 * (log_w < OFF_SUPPORT).double().mean().item(),
    }


# Far components have weights below the smallest normal number; arithmetic on such numbers is
# several times slower, which would time the processor and not the methods.
@flushed_denormals()
def main(arguments: list[str]) -> None:
    """Print the table."""
    options = parser("heart", __doc__)
    options.add_argument("--replicates", type=int, default=2)
    options.add_argument("--timing-repeats", type=int, default=3)
    options.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    options.add_argument(
        "--family",
        action="store_true",
        help="in place of the modes, all methods at the budget of LAGS with path weights",
    )
    choice = options.parse_args(arguments)
    rows = []
    for name in choice.problems:
        if choice.family:
            rows += family_table(name, choice.replicates)
        else:
            rows += table(name, choice.replicates, choice.timing_repeats)
    report(rows, choice.json)


def table(name: str, replicates: int, timing_repeats: int) -> list[dict[str, Any]]:
    """All rows of one problem."""
    problem, known = PROBLEMS[name](), methods()

    def scores(draw: Callable[[int], Tensor]) -> dict[str, float]:
        return _mean([score(draw(seed), seed, problem) for seed in range(replicates)])

    runs = {label: partial(run, method, 0, problem) for label, method in known.items()}
    seconds = interleaved_seconds(runs, timing_repeats)
    rows = []
    for label, method in known.items():
        drawn = [run(method, seed, problem) for seed in range(replicates)]
        trace = drawn[0][1]
        rows.append(
            {
                "problem": name,
                "method": label,
                **_mean([score(points, seed, problem) for seed, (points, _) in enumerate(drawn)]),
                "model calls": trace.model_calls or STEPS,
                "weight calls": trace.weight_calls,
                "value calls": trace.value_calls,
                "time / plain": seconds[label] / seconds["plain"],
                "seconds": seconds[label],
            }
        )
    solved = scores(lambda seed: run_exact(seed, problem))
    rows.append({"problem": name, "method": "exact score of q", **solved, "model calls": STEPS})
    direct = scores(lambda seed: problem.draw(SAMPLES, torch.Generator().manual_seed(seed)))
    rows.append({"problem": name, "method": "exact draws of q", **direct})
    return rows


def family_table(
    name: str,
    replicates: int,
    sizes: Sequence[tuple[int, int]] = ((SAMPLES, 1), (64, 64)),
    single_runs: int = SINGLE_RUNS,
    steps: int = STEPS,
) -> list[dict[str, Any]]:
    """Every method of the family at one budget per point; means over replicates.

    ``sizes`` are particles of LAGS with path weights and groups; the other particle methods get
    what has the same budget. Each single run of the rest has the budget of one particle.
    """
    problem = PROBLEMS[name]()
    task = problem.task(steps)
    rows = []
    for label, way in family().items():
        particles = label in SEVERAL.values()
        for count, groups in sizes if particles else [(1, single_runs)]:
            wanted = budget(task, count)
            drawn = [way(task, wanted, groups, seed) for seed in range(replicates)]
            scores = [score(points(one), seed, problem) for seed, one in enumerate(drawn)]
            rows.append(
                {
                    "problem": name,
                    "method": label,
                    "groups": groups,
                    "spent on": drawn[0].spent,
                    "calls per particle of ours": drawn[0].calls / count,
                    **_mean(scores),
                    "of each": " ".join(f"{one['sliced W2']:.3f}" for one in scores),
                }
            )
    return rows


def points(drawn: Drawn) -> Tensor:
    """As many points without weights, those of all groups together: [G N, 2]."""
    log_weights = drawn.weights.reshape(1, -1).log()
    index = systematic(log_weights, torch.full_like(log_weights, 0.5))
    return drawn.x.flatten(0, 1)[index[0]]


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
