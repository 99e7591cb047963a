"""The CLIP scorer: image and caption encoders, trained contrastively with wrong captions.

Radford et al. 2021, with one wrong caption per scene (a colour or a subject exchanged) among the
texts, so that the scorer tells which subject and which background were asked for.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..captions import caption, random_captions
from ..compose import Labels, draw, random_labels
from ..subjects import COLOUR_WORDS, WORDS
from .clip_files import LENGTH, SIDE, clip_model, load_tokenizer, write_folder
from .sprites import load_sprites
from .trainer import Plan, Trainer

BATCH = 64
EDGES = ("text_model.embeddings", "vision_model.embeddings", "text_projection", "visual_projection")


def wrong_labels(labels: Labels, generator: torch.Generator) -> Labels:
    """The labels with one of them exchanged: the colour or a subject, evenly."""
    count = labels.first.shape[0]
    two = labels.second >= 0
    which = torch.randint(3, (count,), generator=generator)
    which = torch.where(~two & (which == 2), 0, which)

    def other(value: Tensor, kinds: int) -> Tensor:
        return (value + torch.randint(1, kinds, (count,), generator=generator)) % kinds

    first = torch.where(which == 0, other(labels.first, len(WORDS)), labels.first)
    second = torch.where(which == 2, other(labels.second, len(WORDS)), labels.second)
    colour = torch.where(which == 1, other(labels.colour, len(COLOUR_WORDS)), labels.colour)
    return Labels(first, second, colour)


def pixel_values(images: Tensor) -> Tensor:
    """As the preprocessor's configuration has it, for images of its size."""
    return 2 * images - 1


class Captioner:
    """Token numbers of captions, padded to the model's length."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, captions: list[str]) -> dict[str, Tensor]:
        tokens = self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


def features(clip: Any, images: Tensor | None, tokens: dict[str, Tensor] | None) -> Tensor:
    """Normalised features [B, D] of images or of tokens."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if images is not None:
            pooled = clip.vision_model(pixel_values=pixel_values(images)).pooler_output
            found = clip.visual_projection(pooled)
        else:
            assert tokens is not None  # noqa: S101
            found = clip.text_projection(clip.text_model(**tokens).pooler_output)
    return F.normalize(found.float(), dim=1)


def contrastive_loss(
    clip: Any, images: Tensor, labels: Labels, captioner: Captioner, generator: torch.Generator
) -> tuple[Tensor, float]:
    """CLIP's loss and its top-1 retrieval; the wrong captions stand beside the right ones."""
    wrong = wrong_labels(labels, generator)
    captions = random_captions(labels, generator) + random_captions(wrong, generator)
    image, text = features(clip, images, None), features(clip, None, captioner(captions))
    logits = clip.logit_scale.exp().clamp(max=100) * image @ text.T
    same = same_scene(labels, labels)
    logits = logits.masked_fill(
        F.pad(same & ~torch.eye(len(same), dtype=torch.bool), (0, len(same))), -30.0
    )
    target = torch.arange(len(image))
    loss = F.cross_entropy(logits, target) + F.cross_entropy(logits[:, : len(image)].T, target)
    found = (logits.argmax(1) == target).float().mean().item()
    return loss / 2, found


def same_scene(one: Labels, other: Labels) -> Tensor:
    """[B, B] whether the labels mean the same scene, in either order of the subjects."""

    def pair(labels: Labels) -> tuple[Tensor, Tensor]:
        stacked = torch.stack([labels.first, labels.second])
        return stacked.amin(0), stacked.amax(0)

    (a, b), (c, d) = pair(one), pair(other)
    colour = one.colour[:, None] == other.colour[None]
    return (a[:, None] == c[None]) & (b[:, None] == d[None]) & colour


@torch.no_grad()
def retrieval(clip: Any, sprites: Tensor, captioner: Captioner, count: int = 512) -> float:
    """Share of held-out scenes whose full caption wins over the other 63 of its batch."""
    generator = torch.Generator().manual_seed(5)
    hits = 0
    for _ in range(count // BATCH):
        labels = random_labels(BATCH, generator, held_out=True)
        images = draw(labels, sprites, generator, SIDE)
        captions = [caption(*row) for row in torch.stack(list(labels), 1).tolist()]
        scores = features(clip, images, None) @ features(clip, None, captioner(captions)).T
        best = scores.argmax(1)
        hits += int(same_scene(labels, labels)[torch.arange(BATCH), best].sum())
    return hits / (count // BATCH * BATCH)


def main(options: argparse.Namespace) -> None:
    """Train, or go on; then measure and write the folder."""
    folder = options.cache / "clip"
    sprites = load_sprites(options.cache)
    captioner = Captioner(load_tokenizer(folder))
    torch.manual_seed(options.seed)
    clip: nn.Module = clip_model()
    plan = Plan(options.steps or 4000, options.rate or 1e-3, weight_decay=0.05, edges=EDGES)
    trainer = Trainer(clip, plan, folder, options.seed)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        labels = random_labels(BATCH, generator)
        images = draw(labels, sprites, generator, SIDE)
        value, found = contrastive_loss(clip, images, labels, captioner, generator)
        return value, {"top1": found}

    if not options.report:
        trainer.run(loss)
    write_folder(trainer.averaged, folder)
    found = retrieval(trainer.averaged, sprites, captioner)
    print(f"step {trainer.step}: retrieval {found:.3f} of 64 on held-out combinations")
