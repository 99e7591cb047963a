"""What guidance takes at full size, measured: seconds and memory, beside what is counted before.

Full-size SD 1.5 and SDXL, their VAE, TAESD, and CLIP's ViT-L and ViT-H, with random weights that
are made on the spot and loaded by ComfyUI's own loaders. On a GPU without any argument: everything
that the memory guide has rows for, into one file (--json). On a CPU: SD 1.5 at 384, two steps.
Seconds are the GPU's, or the processor's in this process.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..guidance import MODES
from ._comfyui import ENCODERS, import_comfyui
from ._full_size import (
    METHODS,
    WIDTHS,
    encoder_parts,
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
    families = list(WIDTHS) if gpu else ["SD1.5"]
    options.add_argument("--families", nargs="+", choices=WIDTHS, default=families)
    options.add_argument("--sides", nargs="+", type=int, help="of the image, in pixels")
    options.add_argument("--steps", type=int, default=4 if gpu else 2)
    usual = WEIGHTS if gpu else WEIGHTS[::2]
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
        weights = {}
        for name in choice.weights:
            file = make_encoder(name, base / "clip") if name in ENCODERS else None
            weights[name] = load_weight(file)
        for family in choice.families:
            make_taesd(family, base / "models" / "vae_approx")
            path = make_checkpoint(family, base)
            loaded = load_checkpoint(family, path)
            sides = choice.sides or (GPU_SIDES[family] if gpu else [384])
            sizes = [(side, at) for side in sides for at in (0, PARTS_AT) if at < side]
            with torch.inference_mode():
                if family == choice.families[-1] and "encoders" in choice.tables:
                    found["encoders"] += encoder_parts(weights)
                if family == choice.families[-1] and "decoders" in choice.tables:
                    decoders = vaes(loaded, path)
                    for size in sizes:
                        found["decoders"] += parts(family, decoders, *size)
                for side in sides if "runs" in choice.tables else []:
                    how = weights, choice.decoders, choice.methods
                    for row in runs(loaded, side, choice.steps, *how):
                        print(json.dumps(row), flush=True)
                        found["runs"].append(row)
            path.unlink()
    for table in choice.tables:
        print()
        report(found[table])
    if choice.json is not None:
        choice.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(f"All of it written to {choice.json}")


def device() -> str:
    """What it runs on, in words."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    return f"{name or platform.machine()}, torch {torch.__version__}"
