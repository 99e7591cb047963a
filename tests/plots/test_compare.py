"""Images side by side: what is drawn is what was given, and where its name is."""

from __future__ import annotations

import math

import pytest
import torch
from lags_pack.plots.compare import MOST, Table, alike, draw, laid_out
from torch import Tensor

COLUMNS, ROWS = ("plain", "strength 1"), ("seed 1", "seed 2")


def grey(value: float, height: int = 64, width: int = 64) -> Tensor:
    return torch.full((height, width, 3), value)


def table(*values: float, rows: tuple[str, ...] = ROWS, side: int = 64, caption: str = "") -> Table:
    """A table of grey images, filled row by row."""
    width = len(values) // len(rows)
    images = [[grey(v, side, side) for v in values[i : i + width]] for i in range(0, 99, width)]
    captions = [[caption] * width for _ in rows]
    return Table("a title", COLUMNS[:width], rows, images[: len(rows)], captions)


def test_every_image_is_in_its_place_pixel_by_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    images = [[torch.rand(48, 64, 3, generator=generator) for _ in COLUMNS] for _ in ROWS]
    made = Table("", COLUMNS, ROWS, images, [["21.3\nlog w 4"] * 2] * 2, ["21.3", "21.3"])
    layout, picture = laid_out(made, 64), draw(made, 64)
    assert picture.shape == (1, layout.height, layout.width, 3)
    for i, row in enumerate(images):
        for j, image in enumerate(row):
            x, y = layout.place(i, j)
            assert torch.equal(picture[0, y : y + 48, x : x + 64], image)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_letters_stand_beside_the_images(theme: str) -> None:
    """Title, names, captions and means each put ink where nothing else is."""
    full = table(0.5, 0.5, 0.5, 0.5, caption="21.3\nlog w 4")
    made = Table(full.title, COLUMNS, ROWS, full.images, full.captions, ["21.3", "22.4"])
    layout, picture = laid_out(made, 128), draw(made, 128, theme)[0]
    paper = picture[-1, -1]

    def ink(top: int, bottom: int, left: int, right: int) -> bool:
        return bool((picture[top:bottom, left:right] - paper).abs().max() > 0.5)

    (x, y), (wide, high) = layout.place(0, 0), layout.cell
    below = layout.place(len(ROWS), 0)[1]
    assert ink(0, y // 2, 0, layout.width) and ink(y // 2, y, x, layout.width)
    assert ink(y, y + high, 0, x), "a row's name"
    assert ink(y + high, layout.place(1, 0)[1], x, x + wide), "a caption"
    assert ink(below, layout.height, x, x + wide) and ink(below, layout.height, 0, x)


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_nothing_is_written_over_an_image_or_cut_off(size: int) -> None:
    long = ("balanced, c 0.001, seed 18446744073709551615",)
    made = table(0.5, 0.5, rows=long, caption="-123.456\nlog w -12345.6")
    layout, picture = laid_out(made, size), draw(made, size)[0]
    x, y = layout.place(0, 0)
    wide, high = layout.cell
    paper = picture[-1, -1]
    assert (picture[y : y + high, x : x + wide] == 0.5).all()
    for edge in (picture[:, 0], picture[:, -1], picture[0], picture[-1]):
        assert (edge - paper).abs().max() < 0.02, "letters at the edge"
    gap = picture[y : y + high, x - 2 : x]
    assert (gap - paper).abs().max() < 0.02, "a row's name runs into its image"


def test_a_picture_is_never_larger_than_is_promised() -> None:
    made = table(*[0.5] * 60, rows=tuple(f"seed {i}" for i in range(60)), side=512)
    picture = draw(made, 2048)
    assert max(picture.shape[1:3]) <= MOST
    assert max(picture.shape[1:3]) > 0.9 * MOST


def test_gaps_are_paper() -> None:
    made = Table("", COLUMNS, ROWS, [[grey(0.5), None], [None, grey(0.5)]], [["", ""]] * 2)
    layout, picture = laid_out(made, 64), draw(made, 64, "dark")[0]
    x, y = layout.place(0, 1)
    assert (picture[y : y + 64, x : x + 64] == picture[-1, -1]).all()


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="theme is 'red'"):
        draw(table(0.5, 0.5, 0.5, 0.5), 64, "red")
    with pytest.raises(ValueError, match="no image to draw"):
        draw(Table("", COLUMNS, ("",), [[None, None]], [["", ""]]))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([21.3456, 21.3512], ["21.3456", "21.3512"]),
        ([2135.12, 2140.88], ["2135.1", "2140.9"]),
        ([0.0, 1234.5], ["0", "1234"]),
        ([0.5, 0.5], ["0.50", "0.50"]),
        ([0.0], ["0"]),
        ([math.nan, 1.0, 2.0], ["nan", "1.0", "2.0"]),
        ([math.inf], ["inf"]),
        ([1e-12, 2e-12], ["0.000000", "0.000000"]),
    ],
)
def test_numbers_show_their_differences(values: list[float], said: list[str]) -> None:
    assert alike(values) == said
