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
    """One image per prompt: right or wrong in a label, moved out of view, or blurred, at random."""
    count = labels.first.shape[0]
    luck = torch.rand(4, count, generator=generator)
    wrong = wrong_labels(labels, generator)
    shown = Labels(
        *(torch.where(luck[0] < 0.5, one, other) for one, other in zip(labels, wrong, strict=True))
    )
    images = draw(shown, sprites, generator, 2 * SIDE)
    cut, blurred = luck[1] < 0.35, luck[2] < 0.35
    images = torch.where(cut.view(-1, 1, 1, 1), shifted(images, generator), images)
    images = torch.where(blurred.view(-1, 1, 1, 1), blur(images), images)
    images = F.interpolate(images, SIDE, mode="bilinear", antialias=True)
    utility = (
        FULFILLED * subjects_shown(labels, shown)
        + BACKGROUND * (labels.colour == shown.colour)
        + IN_VIEW * ~cut
        + CRISP * ~blurred
    )
    return Scenes(images, utility)


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
    """Three box filters of 7 pixels."""
    for _ in range(3):
        images = F.avg_pool2d(F.pad(images, (3, 3, 3, 3), mode="replicate"), 7, stride=1)
    return images


def preference_loss(
    clip: Any, sprites: Tensor, captioner: Captioner, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Cross-entropy of the drawn choices, and the share the scorer agrees with."""
    labels = random_labels(BATCH // 2, generator)
    first, second = (scenes_for(labels, sprites, generator) for _ in range(2))
    chance = torch.sigmoid(first.utility - second.utility)
    chosen = (torch.rand(len(chance), generator=generator) < chance).float()
    text = features(clip, None, captioner(random_captions(labels, generator)))
    images = features(clip, torch.cat([first.images, second.images]), None)
    scores = clip.logit_scale.exp() * (images * text.repeat(2, 1)).sum(1)
    margin = scores[: len(text)] - scores[len(text) :]
    agreed = ((margin > 0) == (chosen > 0.5)).float().mean().item()
    return F.binary_cross_entropy_with_logits(margin, chosen), agreed


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
    plan = Plan(options.steps or 1500, options.rate or 2e-4, weight_decay=0.05, edges=EDGES)
    trainer = Trainer(clip, plan, folder, options.seed)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        value, agreed = preference_loss(clip, sprites, captioner, generator)
        return value, {"agreed": agreed}

    if not options.report:
        trainer.run(loss)
    write_folder(trainer.averaged, folder)
    found = accuracy(trainer.averaged, sprites, captioner)
    print(f"step {trainer.step}: agrees with {found:.3f} of the choices in new pairs")
