"""A small classifier of the demo's shapes, trained by the benchmark that needs it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..demo.classifier import descend
from ..demo.shapes import COLOURS, SHAPES, random_batch
from ..rewards import Reward

STEPS, BATCH, RATE = 1500, 64, 3e-3


class ShapeClassifier(nn.Module):
    """Images [B, 3, 32, 32] in 0..1 -> logits of shape and colour."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 48, 64)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1)
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.narrow = nn.Linear(64 * 16, 64)
        self.shape = nn.Linear(64, len(SHAPES))
        self.colour = nn.Linear(64, len(COLOURS))

    def features(self, images: Tensor) -> Tensor:
        """What the logits are made of: [B, 64]."""
        h = 2 * images - 1
        for convolution in self.convolutions:
            h = F.silu(convolution(h))
        return F.silu(self.narrow(h.flatten(1)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return self.shape(features), self.colour(features)

    def confidence(self, images: Tensor) -> Tensor:
        """The largest probability of a shape, [B]: low where the image shows none of them."""
        logits: Tensor = self(images)[0]
        return logits.softmax(dim=1).amax(dim=1)


class ShapeReward(Reward):
    """log p(shape | image) by the small classifier."""

    scale = "natural logarithm of a probability, 0 at best"

    def __init__(self, classifier: ShapeClassifier, shape: str) -> None:
        self.classifier, self.number = classifier, SHAPES.index(shape)
        self.name = f"class ({shape})"

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, 32, 32] in 0..1."""
        logits: Tensor = self.classifier(images)[0]
        return logits.log_softmax(dim=1)[:, self.number]


def trained(steps: int = STEPS, seed: int = 0) -> ShapeClassifier:
    """A classifier trained on images drawn as it goes, some of them noisy or blurred.

    Guidance shows it denoised estimates, which are blurred early in a run; a classifier that has
    only seen clean images would be sure of itself there.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = ShapeClassifier()

    def loss() -> Tensor:
        images, shape, colour = random_batch(BATCH, generator)
        shapes, colours = classifier(_worn(images, generator))
        return F.cross_entropy(shapes, shape) + F.cross_entropy(colours, colour)

    descend(classifier, loss, steps, RATE)
    return classifier.eval().requires_grad_(False)


def _worn(images: Tensor, generator: torch.Generator) -> Tensor:
    """A third of the images blurred, a third with noise, a third as they are."""
    worn = images.clone()
    worn[0::3] = F.interpolate(F.avg_pool2d(images[0::3], 4), scale_factor=4.0, mode="bilinear")
    worn[1::3] += 0.1 * torch.randn(worn[1::3].shape, generator=generator)
    return worn
