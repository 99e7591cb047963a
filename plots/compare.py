"""Images of several runs side by side, in rows and columns with names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.functional import interpolate

from .style import DPI, THEMES, check_theme, to_image

MOST = 8192  # pixels of the picture's longer side
TYPE = 0.07  # height of the letters, of an image's width
LEAST_TYPE = 9  # pixels
LINE = 1.3  # of the letters' height
WIDTH_OF_LETTER = 0.72  # of their height; that of bold digits is 0.70


@dataclass(frozen=True)
class Table:
    """What is drawn.

    Attributes:
        title: stands above all.
        columns: names from left to right.
        rows: names from top to bottom; commas break lines.
        images: [row][column], each [H, W, 3] in 0..1; None leaves a gap.
        captions: [row][column], what stands under each; several lines.
        means: what stands under each column; none where empty.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    images: Sequence[Sequence[Tensor | None]]
    captions: Sequence[Sequence[str]]
    means: Sequence[str] = ()


class Layout(NamedTuple):
    """Where everything stands, in pixels."""

    width: int
    height: int
    type: float
    line: float
    left: int
    top: int
    room: int
    cell: tuple[int, int]
    step: tuple[int, int]

    def place(self, row: int, column: int) -> tuple[int, int]:
        """x and y of an image's cell."""
        beside = (self.room - self.cell[0]) // 2
        return self.left + beside + column * self.step[0], self.top + row * self.step[1]


def draw(table: Table, size: int = 256, theme: str = "light") -> Tensor:
    """An image [1, H, W, 3]: every image at the same scale, unchanged where it already fits.

    Args:
        table: what is drawn.
        size: pixels of the longer side of the largest image; less where the picture would be larger
            than 8192 pixels.
        theme: 'light' or 'dark'.

    Raises:
        ValueError: unknown theme, or nothing to draw.
    """
    check_theme(theme)
    layout = laid_out(table, size)
    while size > 1 and max(layout[:2]) > MOST:
        size = min(size - 1, int(size * MOST / max(layout[:2])))
        layout = laid_out(table, size)
    picture = _letters(table, layout, theme)
    largest = _largest(table)
    for row, column, image in _images(table):
        sides = [max(1, round(s * size / max(largest))) for s in image.shape[:2]]
        small = _resized(image, sides)
        x, y = layout.place(row, column)
        x, y = x + (layout.cell[0] - sides[1]) // 2, y + (layout.cell[1] - sides[0]) // 2
        picture[0, y : y + sides[0], x : x + sides[1]] = small
    return picture


def laid_out(table: Table, size: int) -> Layout:
    """The places of a table whose largest image has a longer side of ``size`` pixels."""
    largest = _largest(table)
    height, width = (max(1, round(side * size / max(largest))) for side in largest)
    letters = max(LEAST_TYPE, TYPE * width)
    line, gap = LINE * letters, math.ceil(letters * 0.6)

    def wide(texts: Iterable[str]) -> int:
        longest = max((len(part) for text in texts for part in text.splitlines()), default=0)
        return math.ceil(longest * WIDTH_OF_LETTER * letters)

    def high(texts: Iterable[str]) -> int:
        lines = max((text.count("\n") + 1 for text in texts if text), default=0)
        return math.ceil(lines * line)

    captions = [text for row in table.captions for text in row]
    room = max(width, wide([*table.columns, *captions, *table.means]))
    names = [_lines(name) for name in table.rows] + ["mean"] * bool(table.means)
    left = gap + wide(names) + gap * any(names)
    top = gap + high([table.title]) + high(table.columns) + gap
    step = room + gap, height + high(captions) + gap
    right = max(left + len(table.columns) * step[0], gap + wide([table.title]) + gap)
    bottom = top + len(table.rows) * step[1] + high(table.means) + gap * bool(table.means)
    return Layout(right, bottom, letters, line, left, top, room, (width, height), step)


def _lines(name: str) -> str:
    """A row's name, each setting on a line."""
    return name.replace(", ", "\n")


def _images(table: Table) -> Iterator[tuple[int, int, Tensor]]:
    """Row, column and image of every cell that has one."""
    for i, row in enumerate(table.images):
        yield from ((i, j, image) for j, image in enumerate(row) if image is not None)


def _largest(table: Table) -> tuple[int, int]:
    """Greatest height and greatest width."""
    sizes = [image.shape[:2] for _, _, image in _images(table)]
    if not sizes:
        raise ValueError("There is no image to draw; expected one at least.")
    return max(h for h, _ in sizes), max(w for _, w in sizes)


def _resized(image: Tensor, sides: list[int]) -> Tensor:
    """An image [H, W, 3] at another size, each new pixel the mean of what it covers."""
    if list(image.shape[:2]) == sides:
        return image
    batch = image.movedim(-1, 0)[None].float()
    smooth: dict[str, Any] = {"mode": "bilinear", "antialias": True, "align_corners": False}
    return interpolate(batch, size=sides, **smooth)[0].movedim(0, -1).clamp(0, 1)


def _letters(table: Table, layout: Layout, theme: str) -> Tensor:
    """The picture without the images."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    look = THEMES[theme]
    size = layout.width / DPI, layout.height / DPI
    made = Figure(figsize=size, dpi=DPI, facecolor=look["paper"])
    FigureCanvasAgg(made)

    def write(x: float, y: float, text: str, **how: Any) -> None:
        place = x / layout.width, 1 - y / layout.height
        type_size = layout.type * 72 / DPI
        usual = {"fontsize": type_size, "color": look["ink"], "ha": "center", "va": "top"}
        made.text(*place, text, parse_math=False, linespacing=1.1, **{**usual, **how})

    gap, line = layout.step[0] - layout.room, layout.line
    write(gap, gap, table.title, ha="left")
    for j, name in enumerate(table.columns):
        middle = layout.place(0, j)[0] + layout.cell[0] / 2
        write(middle, gap + line * bool(table.title), name, weight="bold")
        for i, row in enumerate(table.captions):
            write(middle, layout.place(i, j)[1] + layout.cell[1] + 0.1 * line, row[j])
        for text in table.means[j : j + 1]:
            write(middle, layout.place(len(table.rows), j)[1], text, weight="bold")
    for i, name in enumerate(table.rows):
        middle = layout.place(i, 0)[1] + layout.cell[1] / 2
        write(gap, middle, _lines(name), ha="left", va="center", weight="bold")
    if table.means:
        write(gap, layout.place(len(table.rows), 0)[1], "mean", ha="left", weight="bold")
    return to_image(made)


def alike(values: Sequence[float]) -> list[str]:
    """Numbers with as many decimals as show the greatest difference by two digits."""
    finite = [value for value in values if math.isfinite(value)]
    span = max(finite) - min(finite) if finite else 0.0
    size = span or max(map(abs, finite), default=0.0)
    decimals = min(6, max(0, 1 - math.floor(math.log10(size)))) if size else 0
    return [f"{value:.{decimals}f}" for value in values]
