"""The demo: the same seeds drawn plainly and with LAGS, as a table and two images.

``python3 dev.py demo`` needs neither a GPU nor a download.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from ..guidance import LAGS, MODES, UncertaintySchedule, compared, plan, preset
from ..rewards import ColourReward, Weight
from .model import SIGMA_MAX, SIGMA_MIN, DemoUNet, load_network
from .pictures import draw_pictures
from .sampler import karras_sigmas
from .shapes import COLOURS, SHAPES

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> None:
    """Draw, print the table, write the images, and say where they are."""
    options = argparse.ArgumentParser(prog="dev.py demo", description=__doc__)
    options.add_argument("--pictures", type=int, default=12)
    options.add_argument("--steps", type=int, default=30)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--hue", type=float, default=240.0, help="degrees; 240 is blue")
    options.add_argument("--strength", type=float, default=30.0, help="nats per unit of score")
    options.add_argument("--grid", action="store_true", help="also draw every shape and colour")
    options.add_argument("--out", type=Path, default=ROOT / "output")
    choice = options.parse_args(arguments)
    choice.out.mkdir(parents=True, exist_ok=True)

    network = load_network()
    weight = Weight.of(ColourReward("hue", choice.hue), choice.strength)
    methods: dict[str, LAGS | None] = {"plain": None, **{mode: preset(mode) for mode in MODES}}
    print(f"Weight: {weight.name} {choice.hue:g} degrees, strength {choice.strength:g} nats")
    print("method     mean score  model calls  weight calls  seconds")
    rows = []
    for name, method in methods.items():
        start = perf_counter()
        settings = {"steps": choice.steps, "method": method, "weight": weight}
        pictures, trace = draw_pictures(network, choice.pictures, choice.seed, **settings)
        seconds = perf_counter() - start
        score = float(weight.terms[0].reward(pictures).mean())
        calls = trace.model_calls or choice.steps
        print(f"{name:10} {score:10.4f} {calls:12d} {trace.weight_calls:13d} {seconds:8.2f}")
        rows.append((name, pictures))

    side_by_side = choice.out / "demo.png"
    save_rows(rows, side_by_side)
    schedule = choice.out / "schedule.png"
    plot_schedules(choice.steps, schedule)
    if choice.grid:
        every = choice.out / "grid.png"
        save_rows(every_label(network, choice.seed), every)
        print(f"Every shape and colour at cfg 2: {every}")
    print(f"Same seeds, one row per method: {side_by_side}")
    print(f"What each schedule does at every noise level: {schedule}")


def every_label(network: DemoUNet, seed: int) -> list[tuple[str, Tensor]]:
    """One image of every shape and colour, a row per shape."""
    rows = []
    for shape in SHAPES:
        pictures = [
            draw_pictures(network, 1, seed + i, shape=shape, colour=colour, cfg=2.0)[0]
            for i, colour in enumerate(COLOURS)
        ]
        rows.append((shape, torch.cat(pictures)))
    return rows


def save_rows(rows: list[tuple[str, Tensor]], path: Path, zoom: int = 3) -> None:
    """One row of enlarged images per method, its name on the left."""
    from PIL import Image, ImageDraw, ImageFont

    size = rows[0][1].shape[-1] * zoom
    gap, margin = 4, 90
    width = margin + len(rows[0][1]) * (size + gap)
    canvas = Image.new("RGB", (width, len(rows) * (size + gap) + gap), "white")
    pen = ImageDraw.Draw(canvas)
    for line, (name, pictures) in enumerate(rows):
        top = gap + line * (size + gap)
        pen.text((8, top + size // 2 - 8), name, fill="black", font=ImageFont.load_default(16))
        for column, picture in enumerate(pictures):
            tile = Image.fromarray(_to_bytes(picture))
            tile = tile.resize((size, size), Image.Resampling.NEAREST)
            canvas.paste(tile, (margin + column * (size + gap), top))
    canvas.save(path)


def _to_bytes(picture: Tensor) -> np.ndarray:
    return (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def plot_schedules(steps: int, path: Path) -> None:
    """Alpha and shift of each step in balanced mode, beside the paper's schedule for several c."""
    from PIL import Image

    from ..plots.schedule import draw

    sigmas = karras_sigmas(steps, SIGMA_MIN, SIGMA_MAX)
    made = plan(preset("balanced"), sigmas, lambda sigma, noise, clean: clean + sigma * noise)
    others = {f"c = {c:g}": UncertaintySchedule(c) for c in (0.1, 1.0, 10.0, 100.0)}
    picture = draw(made, "balanced", compared(others, made.sigma_ve), axis="sigma")
    Image.fromarray(_to_bytes(picture[0].permute(2, 0, 1))).save(path)
