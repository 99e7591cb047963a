"""The preference scorer: the CLIP scorer fine-tuned on pairs, in PickScore's layout.

Kirstain et al. 2023. A pair is two scenes for one prompt; the preferred one is drawn by a stated
rule with noise: P(first preferred) = sigmoid(u(first) - u(second)), with the utility

    u = 3 * (subjects asked for that are there, share) + 2 * (background as asked)
        + 1.5 * (whole subjects in view) + 1.5 * (crisp)
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...weights import read_weights
from ..captions import random_captions
from ..compose import Labels, draw, random_labels
from .clip import BATCH, EDGES, Captioner, features, wrong_labels
from .clip_files import SIDE, clip_model, load_tokenizer, write_folder
from .sprites import load_sprites
from .trainer import Plan, Trainer

FULFILLED, BACKGROUND, IN_VIEW, CRISP = 3.0, 2.0, 1.5, 1.5


class Scenes(NamedTuple):
    """Images for prompts and how good each one is by the rule."""

    images: Tensor
    utility: Tensor


def scenes_for(labels: Labels, sprites: Tensor, generator: torch.Generator) -> Scenes:
    """One image per prompt: right, wrong or a subject short, cut by the rim, blurred, by chance."""
    count = labels.first.shape[0]
    luck = torch.rand(4, count, generator=generator)
    wrong = with_one_missing(wrong_labels(labels, generator), labels, luck[3])
    shown = Labels(
        *(torch.where(luck[0] < 0.5, one, other) for one, other in zip(labels, wrong, strict=True))
    )
    images = draw(shown, sprites, generator, 2 * SIDE)
    cut, blurred = luck[1] < 0.35, luck[2] < 0.35
    images = torch.where(cut.view(-1, 1, 1, 1), shifted(images, generator), images)
    images[blurred] = blur(images[blurred])
    images = F.interpolate(images, SIDE, mode="bilinear", antialias=True)
    utility = (
        FULFILLED * subjects_shown(labels, shown)
        + BACKGROUND * (labels.colour == shown.colour)
        + IN_VIEW * ~cut
        + CRISP * ~blurred
    )
    return Scenes(images, utility)


def with_one_missing(wrong: Labels, asked: Labels, luck: Tensor) -> Labels:
    """Half of the wrong scenes of two subjects lack one instead, or show the other in its place.

    These are the mistakes that models make with two subjects.
    """
    lacks = (asked.second >= 0) & (luck < 0.5)
    left = torch.where(luck < 0.25, asked.first, asked.second)
    beside = torch.where(luck % 0.25 < 0.125, left, -1)
    return Labels(
        torch.where(lacks, left, wrong.first),
        torch.where(lacks, beside, wrong.second),
        torch.where(lacks, asked.colour, wrong.colour),
    )


def subjects_shown(asked: Labels, shown: Labels) -> Tensor:
    """[B] share of the subjects asked for that a scene shows."""

    def there(subject: Tensor) -> Tensor:
        return (subject == shown.first) | (subject == shown.second)

    two = asked.second >= 0
    both = (there(asked.first).float() + there(asked.second).float()) / 2
    return torch.where(two, both, there(asked.first).float())


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Moved by a third to half of their side, the rim repeated: subjects leave the view."""
    side = images.shape[-1]
    moved = []
    for image in images:
        far = torch.randint(side // 3, side // 2, (2,), generator=generator)
        sign = torch.randint(2, (2,), generator=generator) * 2 - 1
        y, x = (far * sign).tolist()
        rows = (torch.arange(side) + y).clamp(0, side - 1)
        columns = (torch.arange(side) + x).clamp(0, side - 1)
        moved.append(image[:, rows][:, :, columns])
    return torch.stack(moved)


def blur(images: Tensor) -> Tensor:
    """Three box filters of 7 pixels, rows and columns apart."""
    for _ in range(3):
        images = F.pad(images, (3, 3, 3, 3), mode="replicate")
        images = F.avg_pool2d(F.avg_pool2d(images, (7, 1), stride=1), (1, 7), stride=1)
    return images


def compared(
    clip: Any, sprites: Tensor, captioner: Captioner, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """By how much the first scene of each random pair is better: by the scorer, by the rule."""
    labels = random_labels(BATCH // 2, generator)
    first, second = (scenes_for(labels, sprites, generator) for _ in range(2))
    text = features(clip, None, captioner(random_captions(labels, generator)))
    images = features(clip, torch.cat([first.images, second.images]), None)
    scores = clip.logit_scale.exp() * (images * text.repeat(2, 1)).sum(1)
    return scores[: len(text)] - scores[len(text) :], first.utility - second.utility


@torch.no_grad()
def calibrate(clip: Any, sprites: Tensor, captioner: Captioner, generator: torch.Generator) -> None:
    """Bring the scale of a CLIP model's score to the rule's, by least squares.

    CLIP tells right from wrong by many times what a choice goes by. Where training has to take
    that back, it is by features that forget the subjects, long before the scale has moved.

    Raises:
        ValueError: the model prefers the worse scenes, so no scale helps.
    """
    pairs = [compared(clip, sprites, captioner, generator) for _ in range(8)]
    margin, better = (torch.cat(column) for column in zip(*pairs, strict=True))
    slope = (margin * better).sum() / (margin * margin).sum()
    if slope <= 0:
        raise ValueError(f"The CLIP model goes against the rule ({slope:.3g}): train scenes-clip.")
    clip.logit_scale += slope.log()


def preference_loss(
    clip: Any, sprites: Tensor, captioner: Captioner, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Cross-entropy of the choices over their noise, and the share of drawn ones agreed with."""
    margin, better = compared(clip, sprites, captioner, generator)
    chance = torch.sigmoid(better)
    chosen = torch.rand(len(chance), generator=generator) < chance
    agreed = ((margin > 0) == chosen).float().mean().item()
    return F.binary_cross_entropy_with_logits(margin, chance), agreed


@torch.no_grad()
def accuracy(clip: Any, sprites: Tensor, captioner: Captioner, pairs: int = 1024) -> float:
    """Agreement with the drawn choices on new pairs."""
    generator = torch.Generator().manual_seed(6)
    rounds = pairs // (BATCH // 2)
    found = [preference_loss(clip, sprites, captioner, generator)[1] for _ in range(rounds)]
    return sum(found) / rounds


def main(options: argparse.Namespace) -> None:
    """Train, or go on; then measure and write the folder."""
    folder = options.cache / "pickscore"
    sprites = load_sprites(options.cache)
    captioner = Captioner(load_tokenizer(folder))
    torch.manual_seed(options.seed)
    clip: nn.Module = clip_model()
    clip.load_state_dict(read_weights(options.cache / "clip" / "model.safetensors"))
    calibrate(clip, sprites, captioner, torch.Generator().manual_seed(options.seed + 1))
    plan = Plan(options.steps or 2000, options.rate or 2e-4, weight_decay=0.05, edges=EDGES)
    trainer = Trainer(clip, plan, folder, options.seed)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        value, agreed = preference_loss(clip, sprites, captioner, generator)
        return value, {"agreed": agreed}

    if not options.report:
        trainer.run(loss)
    write_folder(trainer.averaged, folder)
    found = accuracy(trainer.averaged, sprites, captioner)
    print(f"step {trainer.step}: agrees with {found:.3f} of the choices in new pairs")
