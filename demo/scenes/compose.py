"""Scenes: one or two subjects on a shaded background, drawn as training goes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .subjects import COLOUR_WORDS, COLOURS, WORDS, held_out_colour, held_out_pair

SIZE = 128
TWO_SUBJECTS = 0.4  # share of the scenes that hold two


class Labels(NamedTuple):
    """What each scene holds; ``second`` is -1 where there is one subject."""

    first: Tensor  # [B] index into WORDS
    second: Tensor  # [B]
    colour: Tensor  # [B] index into COLOUR_WORDS


def allowed_combinations() -> tuple[Tensor, Tensor]:
    """What training may draw: [subjects, colours] and [subjects, subjects], as booleans."""
    subjects, colours = range(len(WORDS)), range(len(COLOUR_WORDS))
    on = torch.tensor([[not held_out_colour(s, c) for c in colours] for s in subjects])
    beside = torch.tensor(
        [[s != t and not held_out_pair(s, t) for t in subjects] for s in subjects]
    )
    return on, beside


def random_labels(count: int, generator: torch.Generator, held_out: bool = False) -> Labels:
    """Labels of ``count`` scenes: of training's combinations, or with a held-out one in each."""
    on, beside = allowed_combinations()
    drawn: list[Labels] = []
    while sum(len(part.first) for part in drawn) < count:
        first = torch.randint(len(WORDS), (2 * count,), generator=generator)
        second = torch.randint(len(WORDS), (2 * count,), generator=generator)
        colour = torch.randint(len(COLOUR_WORDS), (2 * count,), generator=generator)
        two = torch.rand(2 * count, generator=generator) < TWO_SUBJECTS
        seen = on[first, colour] & (~two | (on[second, colour] & beside[first, second]))
        keep = (~seen & (~two | (first != second))) if held_out else seen
        second = torch.where(two, second, -1)
        drawn.append(Labels(first[keep], second[keep], colour[keep]))
    return Labels(*(torch.cat(column)[:count] for column in zip(*drawn, strict=True)))


def draw(labels: Labels, sprites: Tensor, generator: torch.Generator, size: int = SIZE) -> Tensor:
    """Draw one random scene per label.

    Args:
        labels: what the scenes hold.
        sprites: [subjects, 4, H, W] premultiplied RGB and alpha.
        generator: source of position, scale, rotation, flip and shading.
        size: side of the images in pixels.

    Returns:
        [B, 3, size, size] float32 in 0..1.
    """
    count = labels.first.shape[0]
    images = background(labels.colour, generator, size)
    two = labels.second >= 0
    place = _placement(two, generator)
    images = _paste(images, sprites[labels.first], place[:, 0], size)
    if bool(two.any()):
        which = two.nonzero()[:, 0]
        sprite = sprites[labels.second[which]]
        images[which] = _paste(images[which], sprite, place[which, 1], size)
    assert images.shape[0] == count  # noqa: S101
    return images.clamp(0, 1)


def background(colour: Tensor, generator: torch.Generator, size: int = SIZE) -> Tensor:
    """[B, 3, size, size] backgrounds: the colour with a slope and a darker rim."""
    count = colour.shape[0]

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)

    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = axis.view(1, 1, -1, 1), axis.view(1, 1, 1, -1)
    turn = uniform(0, 2 * math.pi)
    slope = uniform(0.0, 0.10) * (x * turn.cos() + y * turn.sin())
    rim = uniform(0.0, 0.12) * (x**2 + y**2) / 2
    base = torch.tensor(list(COLOURS.values()))[colour].view(count, 3, 1, 1)
    tint = 0.03 * torch.randn(count, 3, 1, 1, generator=generator)
    return ((base + tint) * (1 + slope - rim + uniform(-0.06, 0.06))).clamp(0, 1)


def _placement(two: Tensor, generator: torch.Generator) -> Tensor:
    """[B, 2, 5]: centre x and y, half size, angle, flip of each subject; x, y in -1..1."""
    count = two.shape[0]
    u = torch.rand(count, 2, 6, generator=generator)
    pair = two.view(-1, 1)
    half = torch.where(pair, 0.42 + 0.10 * u[..., 0], 0.52 + 0.26 * u[..., 0])
    room = (1.0 - half).clamp(min=0)
    x, y = (2 * u[..., 1] - 1) * room, (2 * u[..., 2] - 1) * room
    # two subjects: on either side of the middle, left and right, or a little diagonal
    side = torch.where(u[:, :1, 5] < 0.5, -1.0, 1.0) * torch.tensor([1.0, -1.0])
    x = torch.where(pair, side * (0.44 + 0.08 * u[..., 1]), x)
    y = torch.where(pair, 0.8 * y, y)
    angle = (2 * u[..., 3] - 1) * 0.3
    flip = torch.where(u[..., 4] < 0.5, -1.0, 1.0)
    return torch.stack([x, y, half, angle, flip], dim=-1)


def _paste(images: Tensor, sprites: Tensor, place: Tensor, size: int) -> Tensor:
    """Images with one sprite each laid over them."""
    x, y, half, angle, flip = place.unbind(-1)
    cos, sin = angle.cos() / half, angle.sin() / half
    rows = [
        torch.stack([flip * cos, flip * sin, -flip * (cos * x + sin * y)], dim=-1),
        torch.stack([-sin, cos, sin * x - cos * y], dim=-1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), [len(place), 4, size, size], align_corners=False)
    drawn = F.grid_sample(sprites, grid, mode="bilinear", align_corners=False)
    return drawn[:, :3] + images * (1 - drawn[:, 3:])
