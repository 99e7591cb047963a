"""What guidance takes at full size, measured: seconds and memory, beside what is counted before.

Full-size SD 1.5 and SDXL, their VAE, TAESD, and CLIP's ViT-L and ViT-H, with random weights that
are made on the spot and loaded by ComfyUI's own loaders. On a GPU without any argument: everything
that the memory guide has rows for, into one file (--json). On a CPU small settings: two steps at
384 with a colour. Seconds are the GPU's, or the user time of this process.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ..guidance import MODES
from ._comfyui import ENCODERS, import_comfyui
from ._full_size import (
    METHODS,
    WIDTHS,
    Row,
    encoder_parts,
    free,
    load_checkpoint,
    load_weight,
    make_checkpoint,
    make_encoder,
    make_taesd,
    parts,
    runs,
    vaes,
)
from ._report import parser, report

GPU_SIDES = {"SD1.5": [384, 512], "SDXL": [768, 1024]}
WEIGHTS = ("colour", *ENCODERS)
DECODERS = ("taesd", "vae", "latent-rgb")
TABLES = ("encoders", "decoders", "runs")
PARTS_AT = 448  # pixels to decode at, beside full size: for an encoder of 224


def main(arguments: list[str]) -> None:
    """Print and write what each part and each run takes."""
    gpu = torch.cuda.is_available()
    options = parser("full", __doc__)
    options.add_argument("--families", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    options.add_argument("--sides", nargs="+", type=int, help="of the image, in pixels")
    options.add_argument("--steps", type=int, default=4 if gpu else 2)
    usual = WEIGHTS if gpu else WEIGHTS[:1]
    options.add_argument("--weights", nargs="+", choices=WEIGHTS, default=usual)
    options.add_argument("--decoders", nargs="+", choices=DECODERS, default=DECODERS)
    usual = METHODS if gpu else MODES
    options.add_argument("--methods", nargs="+", choices=METHODS, default=usual)
    options.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    choice = options.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="lags-full-", ignore_cleanup_errors=True) as folder:
        base = Path(folder)
        import_comfyui(Path(os.environ["COMFYUI_PATH"]), base, cpu=not gpu)
        found: dict[str, Any] = {"device": device(), **{table: [] for table in TABLES}}
        files = {name: make_encoder(name, base / "clip") for name in ENCODERS}
        if "encoders" in choice.tables:
            with torch.inference_mode():
                found["encoders"] += encoder_parts({n: load_weight(f) for n, f in files.items()})
            free()
        for family in choice.families:
            for table, row in of_family(family, base, files, choice):
                print(json.dumps(row), flush=True)
                found[table].append(row)
            free()
    for table in choice.tables:
        print()
        report(found[table])
    if choice.json is not None:
        choice.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(f"All of it written to {choice.json}")


def of_family(
    family: str, base: Path, files: dict[str, Path], choice: Namespace
) -> Iterator[tuple[str, Row]]:
    """The rows of a family, each with its table; what decoders take only with the last."""
    make_taesd(family, base / "models" / "vae_approx")
    path = make_checkpoint(family, base)
    loaded = load_checkpoint(family, path)
    sides = choice.sides or (GPU_SIDES[family] if torch.cuda.is_available() else [384])
    with torch.inference_mode():
        if family == choice.families[-1] and "decoders" in choice.tables:
            decoders = vaes(loaded, path)
            for side, at in product(sides, (0, PARTS_AT)):
                for row in parts(family, decoders, side, at) if at < side else []:
                    yield "decoders", row
        weights = {name: load_weight(files.get(name)) for name in choice.weights}
        for side in sides if "runs" in choice.tables else []:
            how = weights, choice.decoders, choice.methods
            for row in runs(loaded, side, choice.steps, *how):
                yield "runs", row
    path.unlink()


def device() -> str:
    """What it runs on, in words."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    return f"{name or platform.machine()}, torch {torch.__version__}"
