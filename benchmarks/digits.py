"""New handwritten digits by MM-SOLD, and by a small diffusion model trained on the same images.

scikit-learn's digits, 8 x 8. In each split half of them are learnt from, a quarter is compared
with, and the last quarter stands as a row of its own: what real images reach that nobody has
learnt from.

``copies %``: nearer to an image learnt from than 5 % of those are to each other. ``recall %``: real
images that lie among the new ones, and ``precision %`` the reverse (k-nearest neighbours, k = 3, in
a classifier's features). ``sure %``: the classifier gives a digit 90 % or more. ``KID``: 100 times
the squared distance of means under a cubic kernel, unbiased, in the same features, whose mean
square is 1. ``+-`` is the standard error over the splits, in each of which all is drawn and trained
anew, the real images too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..demo.classifier import descend
from ..demo.sampler import karras_sigmas, sample_ancestral
from ..guidance import MMSOLD, Moments, PrincipalSpace
from ._report import flushed_denormals, parser, report

SIDE, NEAREST = 8, 3
SURE, CLOSEST = 0.9, 0.05
PARTICLES_PER_DIRECTION = 4  # as the node
LOWEST, HIGHEST, SAMPLER_STEPS, BATCH = 0.02, 20.0, 30, 256  # of the diffusion model

Metrics = Callable[[Tensor], dict[str, float]]


@dataclass(frozen=True)
class Split:
    """Images [., 64] in 0..1.

    Attributes:
        learnt: what new ones are made of.
        held: real ones that take the place of new ones.
        reference: real ones to compare with.
        seed: of all that is drawn and trained.
    """

    learnt: Tensor
    held: Tensor
    reference: Tensor
    seed: int

    @classmethod
    def of(cls, images: Tensor, seed: int) -> Split:
        """Half, a quarter, and a quarter."""
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        quarter = len(images) // 4
        parts = images[order].split([len(images) - 2 * quarter, quarter, quarter])
        return cls(*parts, seed)

    @property
    def generator(self) -> torch.Generator:
        """A fresh one."""
        return torch.Generator().manual_seed(self.seed)


def digits() -> tuple[Tensor, Tensor]:
    """(images [1797, 64] in 0..1, which digit each is)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images).float() / 16, torch.from_numpy(labels)


# ---- making new images ---------------------------------------------------------------------------


def space(images: Tensor) -> tuple[PrincipalSpace, Tensor]:
    """As the node: principal components of images, and the images in them."""
    images = images.double()
    found = PrincipalSpace.of(images, images.new_full((len(images),), 1 / len(images)))
    return found, found.encode(images)


def by_points(method: MMSOLD, split: Split) -> Tensor:
    """MM-SOLD, in the images' principal components."""
    found, data = space(split.learnt)
    count = max(len(split.held), PARTICLES_PER_DIRECTION * found.rank)
    return found.decode(method.sample(data, count, split.seed)[: len(split.held)])


def by_moments(split: Split) -> Tensor:
    """A Gaussian with the mean and the covariance that MM-SOLD keeps."""
    found, data = space(split.learnt)
    moments = Moments.of(data, data.new_full((len(data),), 1 / len(data)), MMSOLD().sigma_g)
    y = torch.randn(len(split.held), found.rank, generator=split.generator, dtype=data.dtype)
    return found.decode(moments.from_standard(y))


class SmallDenoiser(nn.Module):
    """E[x0 | x] by a perceptron, preconditioned (Karras et al. 2022) for data of a given std."""

    def __init__(self, std: float, size: int = SIDE**2, width: int = 256) -> None:
        super().__init__()
        self.std = std
        self.first = nn.Linear(size + 2, width)
        self.middle = nn.ModuleList(nn.Linear(width + 2, width) for _ in range(3))
        self.last = nn.Linear(width, size)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = sigma[:, None]
        total = (sigma**2 + self.std**2).sqrt()
        level = torch.cat([sigma.log() / 4, (sigma.log() / 2).sin()], dim=1)
        h = F.silu(self.first(torch.cat([x / total, level], dim=1)))
        for layer in self.middle:
            h = h + F.silu(layer(torch.cat([h, level], dim=1)))
        return self.std**2 / total**2 * x + sigma * self.std / total * self.last(h)


def by_diffusion(steps: int, split: Split) -> Tensor:
    """A diffusion model trained on the images, and ancestral steps."""
    generator, data = split.generator, 2 * split.learnt - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(split.seed)
        network = SmallDenoiser(float(data.std()))

    def loss() -> Tensor:
        clean = data[torch.randint(len(data), (BATCH,), generator=generator)]
        sigma = (1.2 * torch.randn(BATCH, generator=generator) - 0.8).exp()
        noise = torch.randn(clean.shape, generator=generator)
        wrong = network(clean + sigma[:, None] * noise, sigma) - clean
        weight = (sigma**2 + network.std**2) / (sigma * network.std) ** 2
        return (weight[:, None] * wrong.square()).mean()

    descend(network, loss, steps, 2e-3)
    x = HIGHEST * torch.randn(split.held.shape, generator=generator)
    with torch.no_grad():
        sigmas = karras_sigmas(SAMPLER_STEPS, LOWEST, HIGHEST)
        return (sample_ancestral(network, x, sigmas, generator) + 1) / 2


def methods(training: int) -> dict[str, Callable[[Split], Tensor]]:
    """Every row: from a split to as many images as are held out."""
    return {
        "real, held out": lambda split: split.held,
        "MM-SOLD": partial(by_points, MMSOLD()),
        "MM-SOLD, nearest, 0.8": partial(by_points, MMSOLD(sigma=0.8)),
        "MM-SOLD, exact, 0.6": partial(by_points, MMSOLD(sigma=0.6, nearest=0)),
        "smoothing without moments": partial(by_points, replace(MMSOLD(), constrained=False)),
        "Gaussian of the same moments": by_moments,
        "diffusion model": partial(by_diffusion, training),
    }


# ---- comparing -----------------------------------------------------------------------------------


def trained_classifier(images: Tensor, labels: Tensor, seed: int, steps: int = 600) -> nn.Module:
    """Images -> logits of the ten digits, the last layer on 64 features."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(SIDE**2, 128), nn.SiLU(), nn.Linear(128, 64), nn.SiLU())
        net.append(nn.Linear(64, 10))

    def loss() -> Tensor:
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        noisy = images[chosen] + 0.1 * torch.randn(BATCH, SIDE**2, generator=generator)
        return F.cross_entropy(net(noisy), labels[chosen])

    descend(net, loss, steps, 3e-3)
    return net.eval().requires_grad_(False)


def inside(asked: Tensor, cloud: Tensor) -> float:
    """Percent of points [n, d] no further from one of a cloud than its third neighbour there is."""
    apart = torch.cdist(cloud, cloud)
    reach = apart.topk(NEAREST + 1, dim=1, largest=False).values[:, -1]
    return 100 * float((torch.cdist(asked, cloud) <= reach).any(dim=1).double().mean())


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Squared distance of two samples' means under the kernel (<x, y> / d + 1)^3, unbiased."""

    def mean(x: Tensor, y: Tensor, same: bool) -> float:
        values = (x.double() @ y.double().T / x.shape[1] + 1) ** 3
        if not same:
            return float(values.mean())
        return float((values.sum() - values.trace()) / (len(x) * (len(x) - 1)))

    return mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)


def metrics(split: Split, classifier: nn.Module) -> Metrics:
    """What images of a split are measured by."""
    among = torch.cdist(split.learnt, split.learnt).fill_diagonal_(math.inf).amin(dim=1)
    close = among.quantile(CLOSEST)
    scale = classifier[:-1](split.learnt).square().mean().sqrt()
    real = classifier[:-1](split.reference) / scale

    def measure(images: Tensor) -> dict[str, float]:
        features = classifier[:-1](images) / scale
        sure = classifier(images).softmax(dim=1).amax(dim=1) >= SURE
        copied = torch.cdist(images, split.learnt).amin(dim=1) < close
        return {
            "copies %": 100 * float(copied.double().mean()),
            "recall %": inside(real, features),
            "precision %": inside(features, real),
            "sure %": 100 * float(sure.double().mean()),
            "KID": 100 * kernel_distance(features, real),
        }

    return measure


def rows(name: str, splits: int, training: int) -> list[dict[str, Any]]:
    """The table of one digit, or of all."""
    images, labels = digits()
    found: dict[str, list[Mapping[str, float]]] = {}
    for seed in range(splits):
        # Of all digits, whatever the table: one that has seen eights only is sure of all.
        classifier = trained_classifier(images, labels, seed)
        split = Split.of(images if name == "all" else images[labels == int(name)], seed)
        measure = metrics(split, classifier)
        for label, make in methods(training).items():
            start = process_time()
            made = make(split).float().clamp(0, 1)
            seconds = process_time() - start
            found.setdefault(label, []).append({**measure(made), "CPU seconds": seconds})
    return [{"digits": name, "images": label, **summary(found[label])} for label in found]


def summary(measured: list[Mapping[str, float]]) -> dict[str, float]:
    """Mean over splits, and its standard error behind each."""
    line: dict[str, float] = {}
    for key in measured[0]:
        values = torch.tensor([one[key] for one in measured], dtype=torch.float64)
        line[key] = float(values.mean())
        if key != "CPU seconds":
            line[f"{key} +-"] = float(values.std() / math.sqrt(len(values)))
    return line


@flushed_denormals()
def main(arguments: list[str]) -> None:
    """Print the table."""
    options = parser("digits", __doc__)
    choices = ["all", *map(str, range(10))]
    options.add_argument("--digits", nargs="+", choices=choices, default=["all", "8"])
    options.add_argument("--splits", type=int, default=4, help="2 or more")
    options.add_argument("--training", type=int, default=4000, help="steps of the diffusion model")
    choice = options.parse_args(arguments)
    table = [line for name in choice.digits for line in rows(name, choice.splits, choice.training)]
    report(table, choice.json)
