"""The emoji that scenes are made of: fetched once into a cache folder, for training only.

Fluent Emoji by Microsoft (MIT), as the npm package ``@lobehub/fluent-emoji-3d``. They are not part
of this repository.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import unicodedata
from pathlib import Path

import torch
from torch import Tensor

from ..subjects import SUBJECTS

PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
ARCHIVE = "lobehub-fluent-emoji-3d-1.1.0.tgz"
SPRITE = 128  # side of a stored sprite, about as large as it is ever drawn


def fetch(cache: Path) -> Path:
    """The folder of the emoji, after ``npm pack`` and unpacking where it is not there yet.

    Raises:
        RuntimeError: npm is missing, or could not fetch the package.
    """
    folder = cache / "package" / "assets"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    if not (cache / ARCHIVE).is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise RuntimeError(f"npm is needed to fetch {PACKAGE}: install Node.js.")
        done = subprocess.run([npm, "pack", PACKAGE], cwd=cache, check=False)  # noqa: S603
        if done.returncode:
            raise RuntimeError(f"npm pack {PACKAGE} failed with exit code {done.returncode}.")
    with tarfile.open(cache / ARCHIVE) as archive:
        archive.extractall(cache, filter="data")
    return folder


def emoji_path(folder: Path, name: str) -> Path:
    """The file of the character with this Unicode name."""
    code = f"{ord(unicodedata.lookup(name)):04x}"
    plain = folder / f"{code}.webp"
    return plain if plain.is_file() else folder / f"{code}-fe0f.webp"


def load_sprites(cache: Path) -> Tensor:
    """[subjects, 4, SPRITE, SPRITE] RGB premultiplied by alpha, and alpha, in 0..1."""
    import numpy as np
    from PIL import Image

    folder = fetch(cache)
    sprites = []
    for name in SUBJECTS.values():
        image = Image.open(emoji_path(folder, name)).convert("RGBA").convert("RGBa")
        image = image.resize((SPRITE, SPRITE), Image.Resampling.LANCZOS)
        sprites.append(torch.from_numpy(np.asarray(image).copy()))
    return torch.stack(sprites).permute(0, 3, 1, 2).float() / 255
