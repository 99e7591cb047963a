"""Strong weights: what reward each method reaches, and how many images it breaks for it.

Strengths are multiples of the one that leaves an effective sample size of 5 % of plain images. Two
kinds of score: one without an upper bound, and a cosine. The reward is the rise of the mean score
in standard deviations of plain images. A network that nothing is guided by says what it costs: an
image is far where its features are further from the nearest plain image's than those of 99 % of
plain ones, and broken where it is less sure of it than of 99 %. Methods as in ``bench paper``;
particles give the best of their group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..demo.model import DemoUNet, load_network, to_images
from ..demo.pictures import draw_pictures
from ..demo.scenes.diffusion import SceneDenoiser
from ..demo.shapes import SHAPES
from ..guidance import AutogradDenoiser, Denoiser
from ..guidance.contracts import Pull
from ..rewards import ClipScore, PickScore, Reward, Weight
from . import _tilt_scenes
from ._classifier import ShapeClassifier, trained
from ._family import Task
from ._judge import load_judge
from ._report import parser, printed, report
from ._scenes import Scenes
from ._tilt_family import task_of
from ._tilting import Cell, Plain
from .paper import BACKWARD, PARTICLES, RUNS, with_particles

EFFECTIVE = 0.05
MULTIPLES = (1.0, 3.0, 10.0, 30.0, 100.0)
METHODS = {**RUNS, f"LAGS, {PARTICLES} particles": with_particles("lags", PARTICLES)}
CFG = 3.0  # of the text-to-image model
SHAPE = "star"
REACHED = 0.99  # share of plain images that are not far from the others


class Logit(Reward):
    """A class's logit, without an upper bound."""

    name, scale = f"logit of {SHAPE}", "a network's output"

    def __init__(self, classifier: ShapeClassifier) -> None:
        self.classifier = classifier

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, 32, 32] in 0..1."""
        logits: Tensor = self.classifier(images)[0]
        return logits[:, SHAPES.index(SHAPE)]


class Cosine(Reward):
    """The cosine between an image's features and a direction, as in CLIP and PickScore."""

    name, scale = f"cosine to {SHAPE}", "-1 to 1"

    def __init__(self, classifier: ShapeClassifier, direction: Tensor) -> None:
        self.classifier, self.direction = classifier, direction

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, 32, 32] in 0..1."""
        return F.cosine_similarity(self.classifier.features(images), self.direction, dim=1)


class Counted:
    """A denoiser of one branch that counts images and passes back through them.

    Attributes:
        branches: evaluations so far.
        backwards: passes back.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.branches, self.backwards = denoiser, 0, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """D(x)."""
        self.branches += x.shape[0]
        return self.denoiser(x, sigma)

    def vjp(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Pull]:
        """(D(x), the map from v to J^T v)."""
        self.backwards += x.shape[0]
        return AutogradDenoiser(self).vjp(x, sigma)


@dataclass(frozen=True)
class Subject:
    """A model to draw from.

    Attributes:
        plain: what it draws without a weight.
        rewards: the scores.
        task: what a cell asks to be drawn.
        images: what it draws -> images [B, 3, H, W] in 0..1.
    """

    plain: Plain
    rewards: Mapping[str, Reward]
    task: Callable[[Cell], Task]
    images: Callable[[Tensor], Tensor]

    @cached_property
    def reach(self) -> float:
        """How far from the nearest other one 99 % of plain images are, in features."""
        distances = torch.cdist(self._features, self._features).fill_diagonal_(math.inf)
        return float(distances.amin(dim=1).quantile(REACHED))

    def far(self, images: Tensor) -> Tensor:
        """Whether images are further from the nearest plain one than that, [B] of 0 or 1."""
        found = self.plain.classifier.features(images) / self.plain.scale
        return (torch.cdist(found, self._features).amin(dim=1) > self.reach).float()

    @cached_property
    def _features(self) -> Tensor:
        return self.plain.features / self.plain.scale


def shapes(count: int) -> Subject:
    """The demo model; the classifier that guides is not the one that looks."""
    network, guide = load_network(), trained(seed=1)
    plain = Plain.of(draw_pictures(network, count, seed=0)[0], trained())
    return Subject(
        plain,
        {
            "unbounded": Logit(guide),
            "cosine": Cosine(guide, _direction(network, guide)),
        },
        lambda cell: _counted(task_of(network, cell)),
        lambda x: to_images(x).clamp(0, 1),
    )


def _direction(network: DemoUNet, guide: ShapeClassifier) -> Tensor:
    """[1, F]: mean features of what the model draws for the label."""
    pictures, _ = draw_pictures(network, 64, seed=1, shape=SHAPE, cfg=2.0)
    return guide.features(pictures).mean(dim=0, keepdim=True)


def _counted(task: Task) -> Task:
    return replace(task, denoiser=Counted(task.denoiser))


def scenes(count: int) -> Subject:
    """The text-to-image model; weights look through the small decoder, the judge at the VAE's."""
    model = Scenes(half=True)
    plain = _tilt_scenes.prepared(model, load_judge(), CFG, count, None)

    def task(cell: Cell) -> Task:
        weight = Weight.of(cell.reward, cell.strength)
        return model.task(_tilt_scenes.PROMPT, weight, CFG, _tilt_scenes.STEPS)

    scorers = {"CLIP score": ClipScore, "PickScore": PickScore}
    rewards = {name: model.scorer(kind, _tilt_scenes.WISH) for name, kind in scorers.items()}
    return Subject(plain, rewards, task, model.images)


SUBJECTS = {"shapes": shapes, "scenes": scenes}


@torch.no_grad()
def cells(subject: Subject, multiples: Iterable[float]) -> list[tuple[float, Cell]]:
    """Each score at each strength."""
    found = []
    for name, reward in subject.rewards.items():
        cell = Cell.of(name, reward, EFFECTIVE, subject.plain)
        found += [(times, replace(cell, strength=times * cell.strength)) for times in multiples]
    return found


def row(subject: Subject, cell: Cell, name: str, count: int) -> dict[str, Any]:
    """What a method reaches, and at what price."""
    task = subject.task(cell)
    images = subject.images(METHODS[name](task, count, 0))
    with torch.no_grad():
        rise = (cell.reward(images) - cell.scores.mean()) / cell.scores.std()
    counted = task.denoiser
    assert isinstance(counted, Counted | SceneDenoiser)  # noqa: S101
    return {
        "weight": cell.name,
        "method": name,
        "reward": float(rise.mean()),
        "+-": float(rise.std()) / math.sqrt(count),
        "far %": 100 * float(subject.far(images).mean()),
        "broken %": 100 * float(subject.plain.broken(images).mean()),
        "calls": (counted.branches + BACKWARD * counted.backwards) / count,
    }


def exact(cell: Cell) -> dict[str, Any]:
    """What w p itself has at the true strength, by importance weights of the plain images."""
    std = float(cell.scores.std())
    return {
        "strength": 1.0,
        "weight": cell.name,
        "method": "exact (importance weights)",
        "reward": cell.true_shift / std,
        "+-": cell.true_error / std,
    }


def main(arguments: list[str]) -> None:
    """Print the table."""
    options = parser("strong", __doc__)
    options.add_argument("--model", choices=SUBJECTS, default="shapes", help="what draws")
    options.add_argument("--plain", type=int, default=2048, help="plain images")
    options.add_argument("--guided", type=int, default=64, help="images of each method")
    options.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options.add_argument("--weights", nargs="+", help="some, by name; all if left out")
    options.add_argument("--times", type=float, nargs="+", default=MULTIPLES, help="multiples")
    choice = options.parse_args(arguments)
    torch.set_num_threads(min(2, torch.get_num_threads()))
    subject = SUBJECTS[choice.model](choice.plain)
    wanted = choice.weights or list(subject.rewards)
    if unknown := {*wanted} - {*subject.rewards}:
        options.error(f"no weight {unknown.pop()!r}; there are {', '.join(subject.rewards)}")
    found = [(times, cell) for times, cell in cells(subject, choice.times) if cell.name in wanted]
    rows = [printed(exact(cell)) for cell in {cell.name: cell for _, cell in found}.values()]
    for (times, cell), name in product(found, choice.methods):
        rows.append(printed({"strength": times, **row(subject, cell, name, choice.guided)}))
    report(rows, choice.json)
