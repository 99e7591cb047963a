"""How much of the exact shift each mode captures where everything is known in closed form.

Data: Gaussians of several variances, two points, uniform, skewed, 64 correlated directions, and
grids under the heart. Weights: linear, quadratic of both signs, the heart. log w varies by one
standard deviation unit (1 nat) over the data unless the name says otherwise.

``shift %`` is the guided rise of the mean of log w, in percent of the exact one: plain samples of
the same sampler, weighted by w. ``of p %`` is the same in percent of what exact draws of the data
give: what differs between the two is the sampler's own error, without any guidance. ``std %`` is
the standard deviation of log w, in percent of the exact one. ``off`` is how far the law of log w
is from the exact one: their 2-Wasserstein distance if both were normal, in exact standard
deviations. ``--particles`` adds LAGS with path weights in groups of so many, each group by its own
weights. ``ESS %`` is what a guided run says of itself on an ancestral sampler: which share of its
samples count as a sample of w p. ``by weight %`` is the share of the shift that the samples have
where each counts by its path weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ..demo import heart
from ..demo.sampler import tilted
from ..guidance import (
    MODES,
    LogWeight,
    Method,
    PathWeights,
    RunState,
    Step,
    Trace,
    ancestral_keep,
    preset,
)
from ..guidance.contracts import AutogradLogWeight
from ..guidance.particles import Particles, group_seeds, noisy_start, particle_preset
from ..guidance.path_weights import ess_share
from ._report import flushed_denormals, parser, report
from ._samplers import LEVELS, SAMPLERS
from ._tilting import tilted_shares

PLAIN, GUIDED = 40_000, 10_000  # samples; the guided ones start from the noise of plain ones
CALLS = ("model calls", "weight calls")  # per sample
START_NOT_TILTED = ("flow",)  # at pure noise, t = 1, there is nothing to move


@dataclass(frozen=True)
class Problem:
    """Data whose E[x0 | x] is known, and a weight.

    Attributes:
        denoise: (x, sigma [B]) -> E[x0 | x].
        draw: (count, generator) -> exact samples of the data, [count, D].
        weight: log w.
        size: D.
        target: exact samples of the weighted data, in the plane.
    """

    denoise: Callable[[Tensor, Tensor], Tensor]
    draw: Callable[[int, torch.Generator], Tensor]
    weight: LogWeight
    size: int = 1
    target: Callable[[int, torch.Generator], Tensor] | None = None


@dataclass(frozen=True)
class Correlated:
    """A Gaussian whose principal directions are the axes; most have little variance.

    Attributes:
        variances: [D].
    """

    variances: Tensor

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x]."""
        return x * self.variances / (self.variances + sigma[:, None] ** 2)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Exact draws."""
        return self.variances.sqrt() * torch.randn(count, len(self.variances), generator=generator)


def points(means: Iterable[float], variance: float, shares: Iterable[float]) -> heart.Mixture:
    """A mixture on the line."""
    weights = torch.tensor(list(shares), dtype=torch.float64)
    at = torch.tensor(list(means), dtype=torch.float64)[:, None]
    return heart.float32(heart.Mixture(at, variance, (weights / weights.sum()).log()))


def gaussian(variance: float) -> heart.Mixture:
    """On the line."""
    return points([0.0], variance, [1.0])


def evenly() -> heart.Mixture:
    """The uniform distribution of unit variance, by 33 narrow Gaussians."""
    edge = math.sqrt(3) - 0.05
    return points(torch.linspace(-edge, edge, 33).tolist(), 0.005, [1.0] * 33)


def linear(slope: Tensor) -> LogWeight:
    """log w = <slope, x>."""
    return AutogradLogWeight(lambda x: (x * slope).flatten(1).sum(dim=1), "linear")


def quadratic(curvature: float) -> LogWeight:
    """log w = curvature |x|^2 / 2."""
    return AutogradLogWeight(lambda x: curvature * x.square().sum(dim=1) / 2, "quadratic")


def on_line(data: heart.Mixture, weight: LogWeight | None = None) -> Problem:
    """Data on the line; without a weight, a linear one of 1 nat."""
    if weight is None:
        second = data.log_weights.exp() @ data.means.square()[:, 0] + data.variance
        mean = data.log_weights.exp() @ data.means[:, 0]
        weight = linear(1 / (second - mean**2).sqrt())
    return Problem(data.denoise, data.sample, weight)


def correlated() -> Problem:
    """64 directions of variance 10 / k^2, each with its part in a weight of 1 nat."""
    variances = 10 / torch.arange(1, 65) ** 2.0
    data = Correlated(variances)
    slope = torch.randn(64, generator=torch.Generator().manual_seed(64)) / variances.sqrt()
    slope = slope / (variances @ slope**2).sqrt()
    return Problem(data.denoise, data.sample, linear(slope), 64)


def hearts(side: int, variance: float, tau: float) -> Problem:
    """A grid of side x side over -4 to 4 under the heart, whose ridge is tau wide."""
    axis = torch.linspace(-4, 4, side, dtype=torch.float64)
    means = torch.cartesian_prod(axis, axis)
    grid = heart.Mixture(means, variance, torch.full((side**2,), -2 * math.log(side)).double())
    ridge = heart.heart()
    ridge = heart.Mixture(ridge.means, tau**2, ridge.log_weights)
    weight = heart.MixtureLogWeight(heart.float32(ridge))
    return Problem(heart.float32(grid).denoise, grid.sample, weight, 2, grid.times(ridge).sample)


TWO = [-1.0, 1.0]
PROBLEMS: dict[str, Callable[[], Problem]] = {
    **{f"variance {v:g}": lambda v=v: on_line(gaussian(v)) for v in (0.05, 0.25, 1.0, 10.0)},
    "two points": lambda: on_line(points(TWO, 0.01, [1, 1])),
    "uniform": lambda: on_line(evenly()),
    "skewed": lambda: on_line(points([-0.5, 1.0, 3.0], 0.15, [0.75, 0.2, 0.05])),
    "correlated": correlated,
    "variance 1, 2 nats": lambda: on_line(gaussian(1.0), linear(torch.tensor(2.0))),
    "concave, variance 1": lambda: on_line(gaussian(1.0), quadratic(-2.0)),
    "concave, variance 0.05": lambda: on_line(gaussian(0.05), quadratic(-40.0)),
    "convex, variance 1": lambda: on_line(gaussian(1.0), quadratic(0.3)),
    "convex, uniform": lambda: on_line(evenly(), quadratic(1.0)),
    "heart 3x3": lambda: hearts(3, 0.15, 0.5),
    "heart 5x5": lambda: hearts(5, 0.15, 0.5),
    "heart 9x9": lambda: hearts(9, 0.15, 0.5),
    "heart tau 0.3": lambda: hearts(5, 0.15, 0.3),
    "heart tau 1": lambda: hearts(5, 0.15, 1.0),
    "heart variance 0.05": lambda: hearts(5, 0.05, 0.5),
    "heart variance 0.4": lambda: hearts(5, 0.4, 0.5),
}


@dataclass(frozen=True)
class Solver:
    """A sampler of ComfyUI in so many steps.

    Attributes:
        sampler: its name.
        steps: how many.
        levels: the name of its noise levels.
    """

    sampler: str
    steps: int
    levels: str = "karras"

    @property
    def sigmas(self) -> Tensor:
        """The noise levels."""
        return LEVELS[self.levels](self.steps)

    def keep(self, sigma: float) -> float:
        """What the sampler's step from there keeps of x - D, as far as a run can know it."""
        kept = ancestral_keep(self.sigmas, sigma)
        return {"euler_ancestral": kept, "euler": math.sqrt(kept)}.get(self.sampler, 1.0)

    def plain(self, problem: Problem, count: int, seed: int = 0) -> Tensor:
        """Samples without guidance, [count, D]."""
        generator, sigmas = torch.Generator().manual_seed(seed), self.sigmas
        x = sigmas[0] * torch.randn(count, problem.size, generator=generator)
        return SAMPLERS[self.sampler](problem.denoise, x, sigmas, generator)

    def guided(self, problem: Problem, method: Method, count: int, seed: int = 0) -> Drawn:
        """Samples with guidance, as a run inside ComfyUI makes them."""
        generator, sigmas = torch.Generator().manual_seed(seed), self.sigmas
        trace, state = Trace(), RunState()
        x = sigmas[0] * torch.randn(count, problem.size, generator=generator)
        method, path = method.in_steps(self.steps, branches=2), PathWeights()
        if self.levels not in START_NOT_TILTED:
            of_run = sigmas[0], trace, state, path
            x = tilted(method, problem.denoise, problem.weight, x, *of_run)
        ancestral = self.sampler == "euler_ancestral"

        def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
            level = float(sigma[0])
            step = Step(self.keep(level), ancestral, state=state)
            denoised, record = method(problem.denoise, problem.weight, x, sigma, step)
            if ancestral:
                plain = step.denoise(problem.denoise, x, sigma)
                record = record.weighed(path.step(x, plain, denoised, level, step.keep))
            trace.add(record)
            return denoised

        drawn = SAMPLERS[self.sampler](denoiser, x, sigmas, generator)
        return Drawn(drawn, trace, path.log_ratio)

    def particles(self, problem: Problem, count: int, groups: int, seed: int = 0) -> Particles:
        """Groups of weighted particles, by LAGS with path weights on ancestral steps."""
        seeds, sigmas = group_seeds(seed, groups), self.sigmas
        x = noisy_start(torch.zeros(groups, problem.size), count, float(sigmas[0]), seeds)
        sampler = particle_preset("lags", self.steps)
        return sampler(problem.denoise, problem.weight, x, sigmas, seeds)


@dataclass(frozen=True)
class Drawn:
    """Guided samples [B, D], what was done, and the log of plain over guided density [B]."""

    x: Tensor
    trace: Trace
    log_ratio: Tensor | None


@dataclass(frozen=True)
class Truth:
    """The exact answer: the mean of log w before and after weighting, its std after."""

    plain: float
    mean: float
    std: float

    @classmethod
    def of(cls, log_w: Tensor) -> Truth:
        """By importance weights of log w [N] of plain samples."""
        log_w = log_w.double()
        shares = tilted_shares(log_w, 1.0)
        mean = float(shares @ log_w)
        return cls(float(log_w.mean()), mean, float((shares @ (log_w - mean) ** 2).sqrt()))

    @property
    def shift(self) -> float:
        """Of the mean."""
        return self.mean - self.plain


def rows(
    name: str,
    solver: Solver,
    methods: Mapping[str, Method],
    plain: int,
    guided: int,
    particles: Iterable[int] = (),
) -> list[dict[str, Any]]:
    """The rows of one problem and one solver; ``particles`` are the sizes of the groups."""
    problem, found = PROBLEMS[name](), []
    truth = Truth.of(problem.weight(solver.plain(problem, plain)))
    exact = Truth.of(problem.weight(problem.draw(plain, torch.Generator().manual_seed(1))))
    before = problem.weight(solver.plain(problem, guided)).double()  # of the same noise

    def line(label: str, gain: float, std: float, calls: tuple[int, int]) -> dict[str, Any]:
        row = {"problem": name, **vars(solver), "mode": label}
        shares = {"shift %": gain / truth.shift, "of p %": gain / exact.shift}
        row |= {column: 100 * share for column, share in shares.items()}
        off = math.hypot(gain - truth.shift, std - truth.std) / truth.std
        row |= {"std %": 100 * std / truth.std, "off": off}
        return {**row, **dict(zip(CALLS, calls, strict=True))}

    for label, method in methods.items():
        drawn = solver.guided(problem, method, guided)
        after = problem.weight(drawn.x).double()
        gain, calls = after - before, (drawn.trace.model_calls, drawn.trace.weight_calls)
        found.append(line(label, float(gain.mean()), float(after.std()), calls))
        if drawn.trace.log_weights is not None and drawn.log_ratio is not None:
            found[-1]["ESS %"] = 100 * float(ess_share(drawn.trace.log_weights))
            weighed = float((drawn.log_ratio + after).softmax(dim=0) @ after)
            found[-1]["by weight %"] = 100 * (weighed - truth.plain) / truth.shift
        if problem.target is not None:
            target = problem.target(guided, torch.Generator().manual_seed(1))
            found[-1]["sliced W2"] = heart.sliced_wasserstein(drawn.x, target)
    for count in particles:
        groups = solver.particles(problem, count, math.ceil(guided / count))
        shares = groups.weights / len(groups.weights)
        mean = float((shares * groups.log_w).sum())
        std = float((shares * (groups.log_w - mean) ** 2).sum().sqrt())
        calls = (count * groups.trace.model_calls, count * groups.trace.weight_calls)
        found.append(line(f"{count} particles", mean - truth.plain, std, calls))
    return found


def within(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line per mode: how many of its rows are near the exact shift."""
    shares: dict[str, list[float]] = {}
    for line in rows:
        shares.setdefault(line["mode"], []).append(line["shift %"])
    return [
        f"{name}: "
        + ", ".join(
            f"{sum(low <= value <= 200 - low for value in values)} of {len(values)} within "
            f"{low} to {200 - low} %"
            for low in (95, 90, 85)
        )
        for name, values in shares.items()
    ]


@flushed_denormals()
def main(arguments: list[str]) -> None:
    """Print the table."""
    options = parser("exact", __doc__)
    options.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    options.add_argument(
        "--samplers", nargs="+", choices=SAMPLERS, default=["euler_ancestral", "dpmpp_2m"]
    )
    options.add_argument("--levels", nargs="+", choices=LEVELS, default=["karras"])
    options.add_argument("--steps", type=int, nargs="+", default=[10, 30], help="8 to 100")
    options.add_argument("--modes", nargs="*", choices=MODES, default=list(MODES))
    options.add_argument("--plain", type=int, default=PLAIN, help="samples for the exact answer")
    options.add_argument("--guided", type=int, default=GUIDED, help="samples per mode")
    options.add_argument(
        "--particles", type=int, nargs="+", default=[], help="in a group, on ancestral steps"
    )
    choice = options.parse_args(arguments)
    methods: dict[str, Method] = {mode: preset(mode) for mode in choice.modes}
    table = [
        line
        for name, sampler, levels, steps in product(
            choice.problems, choice.samplers, choice.levels, choice.steps
        )
        for line in rows(
            name,
            Solver(sampler, steps, levels),
            methods,
            choice.plain,
            choice.guided,
            choice.particles if sampler == "euler_ancestral" else (),
        )
    ]
    report(table, choice.json)
    print("\n".join(within(table)))
