"""The demo's data: coloured shapes drawn on grey backgrounds, made up as training goes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "moon")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
HUES = (0.0, 30.0, 55.0, 120.0, 180.0, 225.0, 272.0, 325.0)  # degrees, in the order of COLOURS
SIZE = 32


def draw(shape: Tensor, colour: Tensor, generator: torch.Generator, size: int = SIZE) -> Tensor:
    """Draw one random image per pair of labels.

    Position, size, rotation, hue, background brightness, its gradient and its stripes vary.

    Args:
        shape: [B] integer labels, indices into ``SHAPES``.
        colour: [B] integer labels, indices into ``COLOURS``.
        generator: source of all randomness.
        size: side of the image in pixels.

    Returns:
        [B, 3, size, size] float32 in 0..1.
    """
    count = shape.shape[0]

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    axis = (torch.arange(size, dtype=torch.float32) + 0.5) / size * 2 - 1
    grid_y, grid_x = torch.meshgrid(axis, axis, indexing="ij")
    radius = uniform(0.38, 0.62)
    angle = uniform(-0.35, 0.35)
    shift_x, shift_y = uniform(-0.25, 0.25), uniform(-0.25, 0.25)
    u, v = (grid_x - shift_x) / radius, (grid_y - shift_y) / radius
    u, v = u * angle.cos() + v * angle.sin(), v * angle.cos() - u * angle.sin()

    distance = torch.empty(count, size, size)
    for label, outline in enumerate(_OUTLINES):
        chosen = shape == label
        distance[chosen] = outline(u[chosen], v[chosen])
    pixel = 2 / size / radius
    coverage = (0.5 - distance / pixel).clamp(0, 1).unsqueeze(1)

    hue = torch.tensor(HUES)[colour].view(-1, 1, 1) + uniform(-8, 8)
    paint = _hsv_to_rgb(hue, uniform(0.75, 0.98), uniform(0.75, 0.98))
    background = _background(grid_x, grid_y, uniform)
    return (coverage * paint + (1 - coverage) * background).clamp(0, 1)


def random_batch(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images with uniform labels: (images [count, 3, 32, 32], shape [count], colour [count])."""
    shape = torch.randint(len(SHAPES), (count,), generator=generator)
    colour = torch.randint(len(COLOURS), (count,), generator=generator)
    return draw(shape, colour, generator), shape, colour


def _background(
    grid_x: Tensor, grid_y: Tensor, uniform: Callable[[float, float], Tensor]
) -> Tensor:
    direction = uniform(0, 2 * math.pi)
    slope = uniform(0, 0.3) * (grid_x * direction.cos() + grid_y * direction.sin())
    turn = uniform(0, math.pi)
    wave = (grid_x * turn.cos() + grid_y * turn.sin()) * uniform(12, 24) + uniform(0, 2 * math.pi)
    stripes = uniform(-0.12, 0.12).clamp(min=0) * wave.sin()
    tint = torch.stack([uniform(-0.06, 0.06) for _ in range(3)], dim=1)
    return (uniform(0.12, 0.88) + slope + stripes).unsqueeze(1) + tint


def _hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """[B, 1, 1] hue in degrees, saturation and value in 0..1 -> [B, 3, 1, 1]."""
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = (offset + hue / 60) % 6
        channels.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


# Outlines: signed distance (negative inside, about 1 = the shape's radius), good enough for
# antialiasing at the edge. Points are (u, v), v downwards.


def _circle(u: Tensor, v: Tensor) -> Tensor:
    return (u**2 + v**2).sqrt() - 0.9


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) - 0.8


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    slant = 0.5 * math.sqrt(3) * u.abs() - 0.5 * (v - 0.15)
    return torch.maximum(slant, v - 0.15) - 0.52


def _star(u: Tensor, v: Tensor) -> Tensor:
    spread = math.pi / 5
    theta = torch.atan2(u, -v).abs() % (2 * spread)
    theta = torch.minimum(theta, 2 * spread - theta)
    r = (u**2 + v**2).sqrt()
    px, py = r * theta.cos(), r * theta.sin()
    tip, dent = 1.05, 0.46
    ax, ay = dent * math.cos(spread) - tip, dent * math.sin(spread)
    return ((px - tip) * -ay + py * ax) / math.hypot(ax, ay) * -1


def _heart(u: Tensor, v: Tensor) -> Tensor:
    side, up = u.abs(), 0.75 - v
    lobe = ((side - 0.42) ** 2 + (up - 1.05) ** 2).sqrt() - 0.52
    tip = torch.maximum((side - up * 0.98) * 0.72 - 0.02, up - 1.1)
    return torch.minimum(lobe, tip)


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return ((u**2 + v**2).sqrt() - 0.68).abs() - 0.26


def _cross(u: Tensor, v: Tensor) -> Tensor:
    long, short = torch.maximum(u.abs(), v.abs()), torch.minimum(u.abs(), v.abs())
    return torch.maximum(long - 0.92, short - 0.3)


def _moon(u: Tensor, v: Tensor) -> Tensor:
    bite = ((u - 0.5) ** 2 + (v + 0.2) ** 2).sqrt() - 0.72
    return torch.maximum(_circle(u, v), -bite)


_OUTLINES = (_circle, _square, _triangle, _star, _heart, _ring, _cross, _moon)
