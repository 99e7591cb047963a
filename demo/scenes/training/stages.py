"""The stages of training: ``python3 dev.py train scenes-NAME``; each goes on where it stopped."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import torch

STAGES = {
    "scenes-vae": "vae",
    "scenes-latents": "latents",
    "scenes-decoder": "decoder",
    "scenes-unet": "unet",
    "scenes-small-decoder": "small_decoder",
    "scenes-clip": "clip",
    "scenes-pickscore": "preference",
}


def main(arguments: list[str]) -> None:
    """Run the stage that the first argument names."""
    parser = argparse.ArgumentParser(prog="dev.py train", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument(
        "--cache", type=Path, required=True, help="folder for the emoji, latents and states"
    )
    parser.add_argument("--steps", type=int, help="how long; the rate falls over the last fifth")
    parser.add_argument("--rate", type=float, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="only measure what is there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    stage = importlib.import_module(f".{STAGES[options.stage]}", __package__)
    stage.main(options)
