"""How much of the exact shift each mode captures on images whose denoiser is known exactly.

Data: a mixture of Gaussians, each with 24 directions of its own, fitted to drawn images of 16 x 16
pixels (two shapes on a shaded ground), so E[x0 | x] is exact and nothing was trained. Weights: of
the pack (hue, saturation, symmetry, a band of frequencies), energies (edges, contrast), one corner,
and two scores of a network with random weights, one without an upper bound and a cosine. The
strengths are those at which the effective sample size of plain samples is 60, 20 and 5 %.

``shift %`` is the guided rise of the mean score in percent of the exact one, which importance
weights of plain samples of the same sampler give, with its standard error; ``std %`` the standard
deviation of the score in percent of the exact one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..guidance import MODES, AutogradLogWeight, Method, preset
from ..rewards import ColourReward, FrequencyReward, SymmetryReward
from ..rewards.pixels import luma
from ._report import flushed_denormals, parser, report
from ._samplers import SAMPLERS
from ._tilting import strength_for_ess
from .exact import Problem, Solver, Truth, within

SIDE = 16
FITTED, COMPONENTS, DIRECTIONS = 8000, 40, 24  # images that the mixture is fitted to
LLOYD = 30  # rounds of k-means
FLOOR = 0.01  # least variance in any direction; the data's is 1 on average
TEXTBOOK = "balanced, measured in every step"
Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Mixture:
    """Gaussians of low rank over flattened images of unit variance.

    Attributes:
        log_shares: [K].
        means: [K, D].
        directions: [K, Q, D], orthonormal.
        variances: [K, Q] along them; ``FLOOR`` along all others.
        mean, std: of the images' pixels, which x is in units of.
    """

    log_shares: Tensor
    means: Tensor
    directions: Tensor
    variances: Tensor
    mean: float
    std: float

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x] for x = x0 + sigma * noise: [B, D], sigma [B]."""
        noise = sigma[:, None] ** 2
        along, rest = noise[:, :, None] + self.variances, noise + FLOOR
        away = x[:, None] - self.means
        parts = torch.einsum("bkd,kqd->bkq", away, self.directions)
        square = parts.square()
        distance = (square / along).sum(dim=2)
        distance = distance + (away.square().sum(dim=2) - square.sum(dim=2)) / rest
        others = self.means.shape[1] - self.variances.shape[1]
        volume = along.log().sum(dim=2) + others * rest.log()
        shares = (self.log_shares - (distance + volume) / 2).softmax(dim=1)
        kept = FLOOR / rest
        more = (self.variances / along - kept[:, :, None]) * parts * shares[:, :, None]
        centre = shares @ self.means
        return centre + kept * (x - centre) + torch.einsum("bkq,kqd->bd", more, self.directions)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Exact draws [count, D]."""
        chosen = torch.multinomial(self.log_shares.exp(), count, True, generator=generator)
        directions = self.directions[chosen]
        noise = torch.randn(count, self.means.shape[1], generator=generator)
        along = torch.randn(count, self.variances.shape[1], generator=generator)
        inside = torch.einsum("bd,bqd->bq", noise, directions)
        along = along * self.variances[chosen].sqrt() - math.sqrt(FLOOR) * inside
        moved = torch.einsum("bq,bqd->bd", along, directions)
        return self.means[chosen] + math.sqrt(FLOOR) * noise + moved

    def images(self, x: Tensor) -> Tensor:
        """[B, 3, SIDE, SIDE], about 0..1."""
        return (x * self.std + self.mean).unflatten(1, (3, SIDE, SIDE))


def drawn_images(count: int, generator: torch.Generator) -> Tensor:
    """Two discs or squares on a shaded ground, [count, 3, SIDE, SIDE]."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    axis = torch.linspace(-1, 1, SIDE)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    angle = 2 * math.pi * uniform(1, 1)
    slope = (columns * angle.cos() + rows * angle.sin())[:, None]
    images = 0.1 + 0.8 * uniform(3, 1, 1) + 0.5 * (uniform(3, 1, 1) - 0.5) * slope
    for _ in range(2):
        down, right = rows - 1.2 * (uniform(1, 1) - 0.5), columns - 1.2 * (uniform(1, 1) - 0.5)
        square = torch.maximum(down.abs(), right.abs())
        distance = torch.where(uniform(1, 1) > 0.5, square, (down**2 + right**2).sqrt())
        inside = (12 * (0.25 + 0.35 * uniform(1, 1) - distance)).sigmoid()[:, None]
        images = images * (1 - inside) + inside * uniform(3, 1, 1)
    return images


@cache
def mixture() -> Mixture:
    """Fitted by k-means and, in each cluster, the principal directions."""
    generator = torch.Generator().manual_seed(3)
    images = drawn_images(FITTED, generator)
    mean, std = float(images.mean()), float(images.std())
    x = ((images - mean) / std).flatten(1)
    centres = x[torch.randperm(FITTED, generator=generator)[:COMPONENTS]]
    for _ in range(LLOYD):
        nearest = torch.cdist(x, centres).argmin(dim=1)
        centres = torch.stack([x[nearest == k].mean(dim=0) for k in range(COMPONENTS)])
    clusters = [x[nearest == k] for k in range(COMPONENTS)]
    clusters = [cluster for cluster in clusters if len(cluster) > 2 * DIRECTIONS]
    _, spread, directions = zip(
        *(torch.linalg.svd(part - part.mean(dim=0), full_matrices=False) for part in clusters),
        strict=True,
    )
    sizes = torch.tensor([float(len(cluster)) for cluster in clusters])
    variances = torch.stack([values[:DIRECTIONS] ** 2 for values in spread]) / sizes[:, None]
    return Mixture(
        (sizes / sizes.sum()).log(),
        torch.stack([cluster.mean(dim=0) for cluster in clusters]),
        torch.stack([axes[:DIRECTIONS] for axes in directions]),
        variances.clamp(min=FLOOR),
        mean,
        std,
    )


def edges(images: Tensor) -> Tensor:
    """Mean square of the differences of neighbours, [B]."""
    grey = luma(images)
    return sum(grey.diff(dim=d).square().mean(dim=(1, 2)) for d in (1, 2))


def contrast(images: Tensor) -> Tensor:
    """Squared distance of the mean brightness from grey, [B]."""
    return (luma(images).mean(dim=(1, 2)) - 0.5).square()


def corner(images: Tensor) -> Tensor:
    """Mean brightness of the upper left, [B]."""
    return images[:, :, :5, :5].mean(dim=(1, 2, 3))


@cache
def network() -> tuple[Score, Score]:
    """Scores [B] of a network with random weights: along a direction, and by a cosine.

    It sees images of any size at 16 x 16 pixels.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = (3, 16, 32, 32)
        convolutions = [nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(sizes, sizes[1:], strict=False)]
        layers = [layer for one in convolutions for layer in (one, nn.SiLU())]
        net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 16)).requires_grad_(False)
    for layer in (*convolutions, net[-1]):
        layer.weight *= 2.0
    drawn = drawn_images(500, torch.Generator().manual_seed(9))
    mean, std = float(drawn.mean()), float(drawn.std())

    def features(images: Tensor) -> Tensor:
        seen = F.interpolate(images, size=SIDE, mode="area")
        return net((seen - mean) / std)

    centre = features(drawn).mean(dim=0)
    wanted = F.normalize(features(drawn[7:8]) - centre, dim=1)[0]
    return (
        lambda images: (features(images) - centre) @ wanted,
        lambda images: F.cosine_similarity(features(images) - centre, wanted[None], dim=1),
    )


SCORES: dict[str, Callable[[], Score]] = {
    "hue": lambda: ColourReward("hue"),
    "corner": lambda: corner,
    "saturation": lambda: ColourReward("saturation"),
    "symmetry": SymmetryReward,
    "band": lambda: FrequencyReward(0.15, 0.35),
    "edges": lambda: edges,
    "contrast": lambda: contrast,
    "network": lambda: network()[0],
    "cosine": lambda: network()[1],
}


def rows(
    solver: Solver,
    scores: Iterable[str],
    shares: Iterable[float],
    methods: dict[str, Method],
    plain: int,
    guided: int,
) -> list[dict[str, Any]]:
    """The table of one sampler; ``shares`` are the effective sample sizes, 0..1."""
    data, found = mixture(), []
    problem = Problem(data.denoise, data.sample, AutogradLogWeight(edges, "none"), 3 * SIDE**2)
    images = data.images(solver.plain(problem, plain))
    before = data.images(solver.plain(problem, guided, seed=1))  # of the noise of guided ones
    for name, share in product(scores, shares):
        score = SCORES[name]()
        with torch.no_grad():
            values, start = score(images), score(before)
        strength = strength_for_ess(values, share)
        truth = Truth.of(strength * values)

        def log_w(x: Tensor, score: Score = score, strength: float = strength) -> Tensor:
            return strength * score(data.images(x))

        weighted = replace(problem, weight=AutogradLogWeight(log_w, name))
        for label, method in methods.items():
            drawn = solver.guided(weighted, method, guided, seed=1)
            with torch.no_grad():
                reached = strength * score(data.images(drawn.x))
            gain = (reached - strength * start).double()
            found.append(
                {
                    "weight": name,
                    "ESS %": 100 * share,
                    **vars(solver),
                    "mode": label,
                    "shift %": 100 * float(gain.mean()) / truth.shift,
                    "+-": 100 * float(gain.std()) / math.sqrt(guided) / truth.shift,
                    "std %": 100 * float(reached.std()) / truth.std,
                    "weight calls": drawn.trace.weight_calls,
                }
            )
    return found


@flushed_denormals()
def main(arguments: list[str]) -> None:
    """Print the table."""
    options = parser("images", __doc__)
    options.add_argument("--weights", nargs="+", choices=SCORES, default=list(SCORES))
    options.add_argument("--effective", nargs="+", type=float, default=[60, 20, 5], help="percent")
    options.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=["euler_ancestral"])
    options.add_argument("--steps", type=int, nargs="+", default=[30])
    options.add_argument("--modes", nargs="+", choices=[*MODES, TEXTBOOK], default=["balanced"])
    options.add_argument("--plain", type=int, default=8000, help="samples for the exact answer")
    options.add_argument("--guided", type=int, default=256, help="samples per cell and mode")
    choice = options.parse_args(arguments)
    known = {mode: preset(mode) for mode in MODES}
    known[TEXTBOOK] = replace(known["balanced"], serves=1.0)
    methods = {mode: known[mode] for mode in choice.modes}
    shares = [percent / 100 for percent in choice.effective]
    table = [
        row
        for sampler, steps in product(choice.samplers, choice.steps)
        for row in rows(
            Solver(sampler, steps), choice.weights, shares, methods, choice.plain, choice.guided
        )
    ]
    report(table, choice.json)
    print("\n".join(within(table)))
