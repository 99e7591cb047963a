"""Images as one image file, to look at."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor


def save_grid(images: Tensor, path: Path, columns: int) -> None:
    """Write [B, 3, H, W] images in 0..1, ``columns`` in a row."""
    from PIL import Image

    count, _, height, width = images.shape
    rows = -(-count // columns)
    sheet = images.new_ones(rows * columns, 3, height, width)
    sheet[:count] = images.clamp(0, 1)
    sheet = sheet.view(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    pixels = sheet.reshape(rows * height, columns * width, 3).mul(255).round().byte()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.numpy()).save(path)
