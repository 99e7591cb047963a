"""The judge: which subjects and background a scene shows. Never guided by, not published.

A convolutional network of another architecture and seed than the bundled scorers, trained on scenes
of its own. Its features serve for Frechet and pairwise distances.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..demo.scenes.compose import Labels, draw, random_labels
from ..demo.scenes.subjects import COLOUR_WORDS, WORDS
from ..demo.scenes.training.sprites import load_sprites
from ..demo.scenes.training.trainer import Plan, Trainer, save_half, write
from ..demo.weights import read_weights

SIDE = 64
SEED = 4242
WEIGHTS = Path(__file__).parent / "judge.safetensors"
REAL = Path(__file__).parent / "judge_real.safetensors"
REAL_SCENES = 4096
LEAST_QUANTILE = 0.01  # a subject counts as clear where it is as in 99 % of real scenes
DIRECTIONS = 32  # in which real scenes vary most; distances are taken in these


class Verdict(NamedTuple):
    """What the judge sees."""

    subjects: Tensor  # [B, subjects] logits, each subject on its own
    colours: Tensor  # [B, colours] logits, one of them
    features: Tensor  # [B, 128]


class Residual(nn.Module):
    """Two convolutions with group norm around a skip."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.skip = nn.Conv2d(channels_in, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(h + self.skip(x))


class Judge(nn.Module):
    """A residual network on images of 64x64 pixels; others are resized."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 5, stride=2, padding=2)
        self.blocks = nn.Sequential(
            Residual(24, 48, 2), Residual(48, 96, 2), Residual(96, 128, 1), Residual(128, 128, 2)
        )
        self.subjects = nn.Linear(128, len(WORDS))
        self.colours = nn.Linear(128, len(COLOUR_WORDS))

    def forward(self, images: Tensor) -> Verdict:
        """Verdict on images [B, 3, H, W] in 0..1."""
        if images.shape[-2:] != (SIDE, SIDE):
            images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)
        h = self.blocks(F.relu(self.stem(2 * images.clamp(0, 1) - 1)))
        spread = h.flatten(2)
        features = (spread.mean(2) + spread.amax(2)) / 2
        return Verdict(self.subjects(features), self.colours(features), features)


def targets(labels: Labels) -> Tensor:
    """[B, subjects] one where the subject is in the scene."""
    shown = F.one_hot(labels.first, len(WORDS)).float()
    second = F.one_hot(labels.second.clamp(min=0), len(WORDS)).float()
    return shown + second * (labels.second >= 0).float()[:, None]


def log_fulfilled(verdict: Verdict, labels: Labels) -> Tensor:
    """[B] the judge's log probability that all that was asked for is there.

    Args:
        verdict: on B images.
        labels: of each, or of one scene that was asked for in all of them.
    """
    subjects = (F.logsigmoid(verdict.subjects) * targets(labels)).sum(1)
    place = labels.colour.expand(len(subjects))[:, None]
    return subjects + F.log_softmax(verdict.colours, 1).gather(1, place)[:, 0]


def judge_loss(judge: Judge, images: Tensor, labels: Labels) -> Tensor:
    """Cross-entropies of subjects and background."""
    verdict = judge(images.contiguous(memory_format=torch.channels_last))
    error = F.binary_cross_entropy_with_logits(verdict.subjects, targets(labels), reduction="none")
    return error.sum(1).mean() + F.cross_entropy(verdict.colours, labels.colour)


def imperfect(images: Tensor, generator: torch.Generator) -> Tensor:
    """Slight noise, contrast and blur, so that a VAE's round trip is no surprise."""
    count = images.shape[0]
    noise = 0.04 * torch.rand(count, 1, 1, 1, generator=generator)
    contrast = 0.9 + 0.2 * torch.rand(count, 1, 1, 1, generator=generator)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mix = 0.8 * torch.rand(count, 1, 1, 1, generator=generator)
    images = (mix * soft + (1 - mix) * images - 0.5) * contrast + 0.5
    return images + noise * torch.randn(images.shape, generator=generator)


@torch.no_grad()
def accuracy(judge: Judge, sprites: Tensor, count: int = 1024) -> tuple[float, float]:
    """On new scenes: top-1 subject of those with one, and all that is shown found."""
    generator = torch.Generator().manual_seed(SEED + 1)
    labels = random_labels(count, generator, held_out=True)
    verdict = judge(draw(labels, sprites, generator))
    one = labels.second < 0
    top = (verdict.subjects.argmax(1) == labels.first)[one].float().mean().item()
    found = ((verdict.subjects > 0) == targets(labels).bool()).all(1)
    right = found & (verdict.colours.argmax(1) == labels.colour)
    return top, right.float().mean().item()


class Real(NamedTuple):
    """What the judge says of real scenes: a third of them held-out combinations.

    Attributes:
        mean: [F] of the features.
        covariance: [F, F] of the features.
        directions: [F, DIRECTIONS] in which they vary most.
        least: logit of the clearest subject that 99 % of them reach.
    """

    mean: Tensor
    covariance: Tensor
    directions: Tensor
    least: Tensor

    @property
    def law(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance in these directions."""
        covariance = self.directions.T @ self.covariance @ self.directions
        return self.mean @ self.directions, covariance


@torch.no_grad()
def real_scenes(judge: Judge, sprites: Tensor, count: int = REAL_SCENES) -> Real:
    """Draw scenes and look at them."""
    generator = torch.Generator().manual_seed(SEED + 2)
    features, clearest = [], []
    for number in range(0, count, 128):
        labels = random_labels(128, generator, held_out=number % 3 == 2)
        verdict = judge(draw(labels, sprites, generator))
        features.append(verdict.features)
        clearest.append(verdict.subjects.amax(dim=1))
    found = torch.cat(features).double()
    covariance = torch.cov(found.T)
    directions = torch.linalg.eigh(covariance).eigenvectors[:, -DIRECTIONS:]
    least = torch.cat(clearest).quantile(LEAST_QUANTILE)
    return Real(found.mean(dim=0).float(), covariance.float(), directions.float(), least)


def load_real(path: Path = REAL) -> Real:
    """What was written when the judge was trained."""
    return Real(**read_weights(path))


def load_judge(path: Path = WEIGHTS) -> Judge:
    """The trained judge in float32, without gradients."""
    judge = Judge()
    judge.load_state_dict(read_weights(path))
    return judge.eval().requires_grad_(False)


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on; then measure and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sprites = load_sprites(options.cache)
    torch.manual_seed(SEED)
    judge = Judge().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainer = Trainer(
        judge,
        Plan(options.steps, options.rate, edges=("stem", "subjects", "colours")),
        options.cache / "judge",
        SEED,
    )

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        labels = random_labels(64, generator)
        images = imperfect(draw(labels, sprites, generator, SIDE), generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return judge_loss(judge, images, labels), {}

    trainer.run(loss)
    save_half(trainer.averaged.state_dict(), options.cache / "judge.safetensors")
    assert isinstance(trainer.averaged, Judge)  # noqa: S101
    top, right = accuracy(trainer.averaged, sprites)
    write(real_scenes(trainer.averaged, sprites)._asdict(), options.cache / REAL.name)
    print(f"step {trainer.step}: subject {top:.3f}, all of the scene {right:.3f} on new scenes")
